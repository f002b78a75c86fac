#!/usr/bin/env bash
# Fuzzes what host-local reads: configuration, results, and the files of its state. Each target asserts what must hold.
# Usage: hack/fuzz.sh [TARGET]... [SECONDS]   without TARGET: all of them, one after the other; SECONDS for each (60)
#   TARGET   one of config result reservation last_reserved index
# What is found lies in ipam/host-local/fuzz/artifacts/TARGET; copied to fuzz/seeds/TARGET, `cargo test` tries it from then on.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

seconds=60
targets=()
for word in "$@"; do
    case $word in
    *[!0-9]*) targets+=("$word") ;;
    *) seconds=$word ;;
    esac
done
[ ${#targets[@]} -gt 0 ] || targets=(config result reservation last_reserved index)

need_build
need_packages g++
command -v cargo-fuzz >/dev/null || {
    say "installing cargo-fuzz"
    cargo install --quiet --locked cargo-fuzz
}
cd "$repo/ipam/host-local"
# Without the address sanitizer a stable toolchain is enough, and it is faster; the project has no unsafe code.
options=(--sanitizer none)
# The state's files are made and removed thousands of times: not on a disk.
[ ! -d /dev/shm ] || export TMPDIR=/dev/shm

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for target in "${targets[@]}"; do
    [ -d "fuzz/seeds/$target" ] || fail "no target $target: see ipam/host-local/fuzz/targets/"
    say "$target, $seconds s"
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run "${options[@]}" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=20 -print_final_stats=1 -verbosity=0 >"$log" 2>&1 || status=1
    if [ "$status" = 0 ]; then
        sed -n 's/^stat::number_of_executed_units: */runs: /p' "$log"
    else
        cat "$log"
        break
    fi
done
[ "$status" = 0 ] || fail "see above; the input is in ipam/host-local/fuzz/artifacts/"
echo "OK: nothing found"
