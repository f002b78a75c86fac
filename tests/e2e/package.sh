#!/usr/bin/env bash
# The Debian package, built from the tree and installed on a copy of this machine: an overlay that nothing is written through.
. "$(dirname "$0")/node.sh"

repo=$here/../..
work=$(mktemp -d)
mount -t tmpfs tmpfs "$work"
mkdir "$work"/{upper,work,root,out,one,two}
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
mount --rbind /dev "$work/root/dev"
root=$work/root
export DEBFULLNAME='The authors' DEBEMAIL=authors@cni-plugins.dev SOURCE_DATE_EPOCH=1790000000
# Small isn't the point here.
export DPKG_DEB_COMPRESSOR_LEVEL=1

in_copy() { chroot "$root" env LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
plugins() { cat "$work/names"; }
package() { echo "$work"/one/*.deb; }
says() { in_copy env CNI_COMMAND=VERSION "/usr/lib/cni/$1" </dev/null; }

built() { "$repo/hack/package.sh" --from "$PLUGINS" --to "$work/one" && dpkg-deb --info "$(package)" | grep "^ Version: $(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml")-1$"; }
same_bytes() { "$repo/hack/package.sh" --from "$PLUGINS" --to "$work/two" && cmp "$work"/one/*.deb "$work"/two/*.deb; }
clean() { lintian --fail-on error,warning "$(package)"; }
contents() {
    local name list
    list=$(dpkg-deb --contents "$(package)")
    for name in $(plugins); do grep -q "^-rwxr-xr-x root/root .* ./usr/lib/cni/$name\$" <<<"$list" || { echo "no $name" && return 1; }; done
    for name in cni-dhcp.{socket,service} cni-noded.service; do grep -q "^-rw-r--r-- root/root .* ./lib/systemd/system/$name\$" <<<"$list" || { echo "no $name" && return 1; }; done
    for name in bin/cninet share/man/man8/cninet.8.gz share/bash-completion/completions/cninet share/zsh/vendor-completions/_cninet bin/cni-noded share/man/man8/cni-noded.8.gz; do
        grep -q " ./usr/$name\$" <<<"$list" || { echo "no $name" && return 1; }
    done
    ! grep -v -e ' \./usr/bin/$' -e ' \./usr/bin/cninet$' -e ' \./usr/bin/cni-noded$' -e ' \./$' -e ' \./lib/$' -e ' \./lib/systemd/' -e ' \./usr/$' -e ' \./usr/lib/$' -e ' \./usr/lib/cni/' -e ' \./usr/share/' <<<"$list"
}

# What a package could leave behind: files, links, diversions, and what dpkg knows.
state() {
    (cd "$root" && find usr/lib/cni usr/lib/systemd usr/share/doc usr/share/lintian etc opt ! -type d -printf '%p %m %l\n' | sort)
    (cd "$root" && sha256sum usr/lib/cni/*)
    in_copy dpkg-divert --list '*cni*'
    in_copy dpkg -l 2>/dev/null | awk '{ print $1, $2, $3 }'
}

ours_answer() {
    local name
    for name in $(plugins); do
        cmp "$PLUGINS/$name" "$root/usr/lib/cni/$name" && [[ $(says "$name") = *'"1.1.0"'* ]] || { echo "$name: $(says "$name")" && return 1; }
    done
}
# The daemon's units are complete, name what is there, and are neither enabled nor started.
units() {
    local unit
    cmp "$repo/hack/systemd/cni-dhcp.service" "$root/lib/systemd/system/cni-dhcp.service" || return 1
    in_copy systemd-analyze verify --man=no /lib/systemd/system/cni-dhcp.{socket,service} /lib/systemd/system/cni-noded.service || return 1
    for unit in cni-dhcp.socket cni-dhcp.service cni-noded.service; do is "$(in_copy systemctl is-enabled "$unit")" disabled || return 1; done
    ! grep -rn systemctl "$work/control" || { echo "a maintainer script calls systemctl" && return 1; }
    [ -e "$root$(sed -n 's/^Documentation=file://p' "$root/lib/systemd/system/cni-dhcp.service")" ]
}
installed() { in_copy dpkg -i /tmp/package.deb && ours_answer; }
# Plugins that this package lacks stay as they were; those of the same names are kept aside.
others_stay() { [ -e "$root/lib/systemd/system/cni-dhcp.socket.reference" ] && [ -x "$root/usr/lib/cni/macvlan" ] && cmp "$work/bridge.go" "$root/usr/lib/cni/bridge.reference"; }
again() { in_copy dpkg -i /tmp/package.deb && ours_answer && others_stay; }
# An upgrade of the reference package must not put its files over ours.
go_upgraded() {
    in_copy dpkg -i /tmp/go_package.deb && ours_answer && others_stay
}
removed() { in_copy dpkg -r cni-plugins-rust && in_copy dpkg --purge cni-plugins-rust && diff "$work/before" <(state); }

# A node that has no other plugins.
alone() {
    in_copy dpkg --force-depends -r containernetworking-plugins golang-github-containernetworking-plugin-dnsname && in_copy dpkg -i /tmp/package.deb && ours_answer &&
        in_copy dpkg --purge cni-plugins-rust && [ -z "$(ls -A "$root/usr/lib/cni" 2>/dev/null)" ] && ! in_copy dpkg-divert --list '*cni*' | grep cni-plugins-rust
}

# The plugin is started all the time while it is installed, and is never incomplete or missing.
calls_meanwhile() {
    local calls=0
    (
        until [ -e "$work/enough" ]; do
            says loopback >"$work/said" 2>&1 || { echo "call $calls: $(cat "$work/said")" && exit 1; }
            calls=$((calls + 1))
        done
        [ $calls -gt 3 ]
    ) &
    local caller=$! result=0
    in_copy dpkg -i /tmp/package.deb || result=1
    touch "$work/enough"
    wait $caller || result=1
    return $result
}

# Tools are no plugins, and in PATH.
find "$PLUGINS" -maxdepth 1 -type f ! -name cninet ! -name cni-noded -printf '%f\n' | sort >"$work/names"
# The node hides the reference plugins; in the copy they are where Debian puts them.
cp "$root/usr/lib/cni/bridge" "$work/bridge.go"
must in_copy dpkg --audit
check "package: builds" built
check "package: the same bytes again" same_bytes
check "package: contents" contents
check "package: lintian" clean
cp "$(package)" "$root/tmp/package.deb"
state >"$work/before"
check "package: installs, ours answer" installed
check "package: the others stay" others_stay
dpkg-deb --control "$(package)" "$work/control"
check "package: units are there, and off" units
check "package: installs again" again
if go_package=$(ls "$BUILT"/containernetworking-plugins_*.deb 2>/dev/null); then
    cp "$go_package" "$root/tmp/go_package.deb"
    check "package: reference package upgraded" go_upgraded
    rm "$root/tmp/go_package.deb"
else
    skip "package: reference package upgraded" "it could not be downloaded"
fi
check "package: removed, nothing left" removed
check "package: replaced under calls" calls_meanwhile
check "package: removed again" removed
check "package: on a node without others" alone
