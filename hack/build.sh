#!/usr/bin/env bash
# Builds every plugin as a static, stripped executable and puts them into bin/.
# Usage: hack/build.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_build
cd "$repo"
target=$(host_target)
built=${CARGO_TARGET_DIR:-$repo/target}/$target/release
mapfile -t names < <(executables)

# Without an explicit --target, crt-static would apply to procedural macros too and break them.
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --quiet --release --locked --target "$target" "${names[@]/#/--bin=}"

mkdir -p bin
for name in "${names[@]}"; do
    # A new file renamed over the old one: whoever runs the old one keeps it whole.
    install -m 0755 "$built/$name" "bin/.$name.new"
    mv "bin/.$name.new" "bin/$name"
    case $(file -b "bin/$name") in
    *'dynamically linked'* | *interpreter*) fail "bin/$name is not static: $(file -b "bin/$name")" ;;
    esac
    printf '%8d KiB  bin/%s\n' $(($(stat -c %s "bin/$name") / 1024)) "$name"
done
