#!/usr/bin/env bash
# Runs the black-box suite in a small virtual machine with Debian's cloud kernel, which has what other kernels may lack
# (VLAN filtering on bridges). No KVM: any machine will do. Boots in a few seconds; the last line is totals.
# Usage: hack/test-vm.sh [DIR] [-- SUITE ARGUMENTS]   without DIR: builds bin/, if it isn't up to date, and judges it;
#        without arguments: cases of bridge::vlan; `systemd` alone: tests/systemd/run.sh, with systemd as the first process.
#        CNI_VM_SECONDS limits the machine's life (600); CNI_VM_KERNEL is another kernel than Debian 12's: the file of a Debian
#        package, linux-image-VERSION-cloud-amd64 of any release.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

dir=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    dir=$(cd "$1" && pwd) || fail "no directory $1"
    shift
fi
[ "${1:-}" != -- ] || shift
filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(bridge::vlan)
seconds=${CNI_VM_SECONDS:-600}

need_root
need_tools
need_build
need_packages qemu-system-x86 busybox-static cpio kmod binutils
[ "${filters[*]}" != systemd ] || need_packages systemd
cd "$repo"
if [ -z "$dir" ]; then
    say "build"
    hack/build.sh
    dir=$repo/bin
fi
suite=$(cargo test --quiet -p cni-tests --locked --test suite --no-run --message-format=json |
    jq -r 'select(.executable != null and .target.name == "suite") | .executable')

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cni-test-vm
mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# kernel_package: the one that Debian's package for cloud machines stands for, as far as apt knows
kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1
}

# download: the kernel's package into $work; fails if apt's lists are missing or too old
download() {
    local package
    package=$(kernel_package)
    [ -n "$package" ] || return 1
    # Unpacked as the calling user: apt's own user may not write here.
    (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$package")
}

# The kernel, unpacked and not installed: this machine keeps booting what it boots.
if [ -n "${CNI_VM_KERNEL:-}" ]; then
    unpacked=$work/kernel
    dpkg -x "$CNI_VM_KERNEL" "$unpacked"
else
    unpacked=$cache/root
    if ! compgen -G "$unpacked/boot/vmlinuz-*" >/dev/null; then
        say "kernel"
        download || { apt-get update -qq && download; } || fail "cannot download the kernel that linux-image-cloud-amd64 needs"
        rm -rf "$unpacked" "$unpacked.new"
        dpkg -x "$work"/linux-image-*.deb "$unpacked.new"
        mv "$unpacked.new" "$unpacked"
    fi
fi
# Debian 13's package has them below usr.
[ -d "$unpacked/lib/modules" ] || ln -s usr/lib "$unpacked/lib"
kernel=$(ls "$unpacked"/boot/vmlinuz-* | tail -1)
release=${kernel##*/vmlinuz-}
root=$work/root

# --- the machine's only file system ----------------------------------------------------------------------------------

# put FILE...: copies executables or libraries, with all the libraries that they load
put() {
    local file library
    for file in "$@"; do
        mkdir -p "$root$(dirname "$file")"
        cp -L "$file" "$root$file"
        # A static executable has none.
        for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ )]*' || true); do
            [ -e "$root$library" ] || { mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"; }
        done
    done
}

# put_systemd: systemd as the first process, which runs tests/systemd/run.sh and nothing else
put_systemd() {
    local units=$root/etc/systemd/system program
    # The shell that is no busybox, whose own `ip` would be found first.
    for program in /lib/systemd/systemd systemctl systemd-run /usr/bin/sh; do put "$(type -P "$program")"; done
    mkdir -p "$units" "$root/lib/systemd/system"
    # Of its own units only those that others wait for, without what they would start.
    cp /lib/systemd/system/{sysinit,basic,sockets,timers,paths,slices,shutdown,multi-user,local-fs,network}.target \
        "$root/lib/systemd/system/"
    cp hack/systemd/* "$units/"
    # Where the package has them.
    rm -rf "$root/usr/lib/cni"
    ln -s /plugins "$root/usr/lib/cni"
    cp tests/systemd/run.sh "$root/run.sh"
    : >"$root/etc/machine-id"
    printf '[Unit]\nRequires=multi-user.target test.service\n' >"$units/default.target"
    cat >"$units/test.service" <<-EOF
	[Service]
	Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox
	ExecStart=/usr/bin/sh -c '/usr/bin/sh /run.sh; echo VM-EXIT \$\$?; poweroff -f'
	StandardOutput=tty
	StandardError=tty
	TTYPath=/dev/ttyS0
	EOF
}

say "file system for Linux $release"
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc/iproute2,dev,proc,sys,run,tmp,mnt,var/lib,opt/cni,etc/cni,plugins}
for tool in $(awk '!/^#/ { print $1 }' tests/tools) modprobe; do put "$(type -P "$tool")"; done
for tool in iptables ip6tables; do
    for kind in '' -nft -legacy; do
        for what in '' -save -restore; do put "$(command -v "$tool$kind$what")"; done
    done
done
put "$(dirname "$(find /usr/lib -name libxt_comment.so | head -1)")"/*.so
put "$(command -v busybox)"
# Where the kernel looks for it.
ln -sf "$(command -v modprobe)" "$root/sbin/modprobe"
# Those of busybox come last in PATH.
mkdir "$root/busybox"
for applet in $(busybox --list); do ln -s "$(command -v busybox)" "$root/busybox/$applet"; done
ln -sf "$(command -v busybox)" "$root/bin/sh"
cp /etc/protocols /etc/services "$root/etc/" 2>/dev/null || true
printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\ntcpdump:x:999:999::/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\ntcpdump:x:999:\n' >"$root/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
# The machine mounts a file system of its own where a target directory may be.
put "$suite"
mv "$root$suite" "$root/suite"
strip --strip-debug "$root/suite"
cp "$dir"/* "$root/plugins/"
# Those of the Go plugins whose kernel features other machines may lack, and what they need.
for plugin in bridge host-local ipvlan vlan vrf; do
    [ ! -x "/usr/lib/cni/$plugin" ] || put "/usr/lib/cni/$plugin"
done
cp -r conf-examples "$root/" 2>/dev/null || true

modules=lib/modules/$release
mkdir -p "$root/$modules/kernel/drivers/net"
for part in net lib crypto arch; do cp -r "$unpacked/$modules/kernel/$part" "$root/$modules/kernel/"; done
for module in veth dummy macvlan ipvlan/ipvlan ifb vrf tun vxlan/vxlan; do
    cp "$unpacked/$modules/kernel/drivers/net/$module".ko* "$root/$modules/kernel/drivers/net/" 2>/dev/null || true
done
cp "$unpacked/$modules"/modules.{order,builtin,builtin.modinfo} "$root/$modules/"
depmod -b "$root" "$release"

printf '%s\n' "${filters[@]}" >"$root/filters"
cat >"$root/init" <<EOF
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/ CNI_TEST_DIR=/plugins
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount --make-rprivate / 2>/dev/null
ip link set lo up
for module in bridge br_netfilter 8021q veth vrf tun nf_tables nft_chain_nat nft_masq nft_fib_inet nf_conntrack_netlink \
    xt_MASQUERADE xt_comment xt_addrtype iptable_nat ip6table_nat; do modprobe -q \$module; done
if [ "\$(cat /filters)" = systemd ]; then
    ulimit -n 1024
    exec /lib/systemd/systemd
fi
set --
while read -r word; do set -- "\$@" "\$word"; done </filters
/suite "\$@" --color never --test-threads \$(nproc) 2>&1
echo "VM-EXIT \$?"
poweroff -f
EOF
chmod +x "$root/init"
[ "${filters[*]}" != systemd ] || put_systemd
# The initramfs is a rootfs, out of which nobody can pivot; private mounts are all that the suite needs. Not compressed: the
# emulated processor would take longer to unpack it than this one to write it.
(cd "$root" && find . | cpio --quiet -o -H newc) >"$work/initrd"

# Emulated also where there is a /dev/kvm: in a virtual machine it may be there and not work.
say "Linux $release, $(($(stat -c %s "$work/initrd") / 1048576)) MiB, suite: ${filters[*]}"
begun=$SECONDS
timeout "$seconds" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -smp "$(nproc)" -m 3072 \
    -kernel "$kernel" -initrd "$work/initrd" -append 'console=ttyS0 quiet panic=-1 mitigations=off rcupdate.rcu_expedited=1 audit=0' \
    -display none -serial stdio -monitor none -net none -no-reboot </dev/null >"$work/log" 2>&1 || true

tr -d '\r' <"$work/log" | grep -av -e '\.\.\. ok$' -e '^VM-EXIT' -e 'reboot: Power down' || true
status=$(tr -d '\r' <"$work/log" | sed -n 's/^VM-EXIT //p')
totals=$(tr -d '\r' <"$work/log" | sed -n 's/^test result: .*\. \([0-9]* passed\); \([0-9]* failed\).*/\1, \2/p')
[ -n "$status" ] || fail "the machine didn't come to its end within $seconds s"
echo "Linux $release, $((SECONDS - begun)) s:"
echo "${totals:-0 passed, 0 failed}"
case ${totals:-0 passed, 0 failed} in "0 passed, 0 failed") fail "no case of the suite passed: is ${filters[*]} the name of any?" ;; esac
[ "$status" = 0 ]
