#!/usr/bin/env bash
# Builds every plugin and tool as a static, stripped executable and puts them into bin/. The C library is musl where the Rust toolchain has
# it or rustup can install it, else glibc.
# Usage: hack/build.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_build
cd "$repo"
target=$(build_target)
built=${CARGO_TARGET_DIR:-$repo/target}/$target/release
mapfile -t names < <(executables)

# SHA-512 of a few bytes needs no AVX2, and asking the processor for it takes 60 us in a virtual machine.
flags='-C target-feature=+crt-static --cfg sha2_backend="soft"'
# Packed relocations (DT_RELR) take a fortieth of the room, where linker and C library know them: a program that does nothing shows it.
packed='-C link-arg=-Wl,-z,pack-relative-relocs'
probe=$(mktemp)
# shellcheck disable=SC2086  # several words each
if echo 'fn main() {}' | rustc --target "$target" $flags $packed -o "$probe" - 2>/dev/null && "$probe"; then
    flags+=" $packed"
fi
rm -f "$probe"

# Without an explicit --target, crt-static would apply to procedural macros too and break them.
RUSTFLAGS=$flags \
    cargo build --quiet --release --locked --target "$target" "${names[@]/#/--bin=}"

mkdir -p bin
for name in "${names[@]}"; do
    # A new file renamed over the old one: a process that runs the old one keeps it whole.
    install -m 0755 "$built/$name" "bin/.$name.new"
    mv "bin/.$name.new" "bin/$name"
    case $(file -b "bin/$name") in
    *'dynamically linked'* | *interpreter*) fail "bin/$name is not static: $(file -b "bin/$name")" ;;
    esac
    printf '%8d KiB  bin/%s\n' $(($(stat -c %s "bin/$name") / 1024)) "$name"
done
