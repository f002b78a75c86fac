# Shared by the scripts in this folder: where things are, what must be installed. Meant to be sourced.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# say TEXT: one line about what happens next.
say() { printf '== %s\n' "$*"; }

# fail TEXT: one line about what is wrong, and the end.
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

need_root() { [ "$(id -u)" = 0 ] || fail "$(basename "$0") makes network namespaces and needs root"; }

need_cargo() {
    command -v cargo >/dev/null || fail "cargo is missing: install a Rust toolchain first (https://rustup.rs)"
}

# need_packages PACKAGE...: installs those that are missing. Asks dpkg first, for apt-get is slow.
need_packages() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    need_root
    apt-get update -qq || fail "apt-get update"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        fail "apt-get could not install ${missing[*]}"
}

# What is needed to build. The crates are fetched here, all of them: what runs later may be in a namespace without a network.
need_build() {
    need_packages gcc libc6-dev file
    need_cargo
    if ! has_target "$(musl_target)" && command -v rustup >/dev/null; then
        say "installing Rust's standard library for $(musl_target)"
        timeout 120 rustup --quiet target add "$(musl_target)" || say "it can't be had: the executables get glibc, and are larger"
    fi
    # ring, which cni-noded's TLS is made of, has C in it.
    ! has_target "$(musl_target)" || need_packages musl-tools
    (cd "$repo" && cargo fetch --quiet --locked --target "$(host_target)" --target "$(build_target)") ||
        fail "cargo could not fetch the crates of Cargo.lock"
}

# What the scripts and the tests run beside the plugins: tests/tools says which package has it.
need_tools() {
    local packages
    mapfile -t packages < <(awk '!/^#/ { print $2 }' "$repo/tests/tools" | sort -u)
    need_packages "${packages[@]}" procps util-linux
}

# in_namespace COMMAND...: in network and mount namespaces of its own, with an empty /run. There is no network in there:
# whatever is downloaded or built must be there before.
in_namespace() {
    unshare --net --mount --propagation private bash -c '
        mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' in_namespace "$@"
}

# The Rust target of this machine, as rustc names it.
host_target() { rustc -vV | sed -n 's/^host: //p'; }

# The same machine with musl as its C library.
musl_target() { host_target | sed 's/-gnu/-musl/'; }

# has_target TARGET: the toolchain can build for it
has_target() { [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]; }

# The target that the executables are built for. With musl where that is possible: a static glibc makes each of them 0.7 MiB
# larger, and its start longer, by 0.5 ms in a virtual machine (it asks the processor for its caches, with `cpuid`, which the
# hypervisor answers).
build_target() { if has_target "$(musl_target)"; then musl_target; else host_target; fi; }

# The executables of the workspace: one for every folder in plugins/, ipam/ and tools/.
plugins() { (cd "$repo" && for folder in plugins/*/ ipam/*/; do basename "$folder"; done); }
tools() { (cd "$repo" && for folder in tools/*/; do basename "$folder"; done); }
executables() { plugins && tools; }
