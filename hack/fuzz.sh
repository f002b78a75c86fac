#!/usr/bin/env bash
# Fuzzes what the plugins read: stdin in each verb, results, `iptables-save`, nf_tables' answers, conditions, backups, allow lists,
# DHCP servers' messages, and the files of host-local's state. Each target asserts what must hold.
# Usage: hack/fuzz.sh [TARGET]... [SECONDS]   without TARGET: all of them, one after the other; SECONDS for each (60)
#   TARGET   a folder's name in tests/fuzz/seeds
# What is found lies in tests/fuzz/artifacts/TARGET; copied to tests/fuzz/seeds/TARGET, `cargo test` tries it from then on.
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
cd "$repo/tests/fuzz"
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(ls seeds)
fi

need_build
need_packages g++
command -v cargo-fuzz >/dev/null || {
    say "installing cargo-fuzz"
    cargo install --quiet --locked cargo-fuzz
}
# Without the address sanitizer a stable toolchain is enough, and it is faster; the project has no unsafe code.
options=(--sanitizer none)
# The state's files are made and removed thousands of times: not on a disk.
[ ! -d /dev/shm ] || export TMPDIR=/dev/shm

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
    [ -d "seeds/$target" ] || fail "no target $target: see tests/fuzz/seeds"
    say "$target, $seconds s"
    mkdir -p "corpus/$target"
    # cargo-fuzz wants to be called in the package that the folder belongs to.
    (cd .. && cargo fuzz run "${options[@]}" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=20 -print_final_stats=1 -verbosity=0) >"$log" 2>&1 ||
        { cat "$log" && fail "$target: see above; the input is in tests/fuzz/artifacts/"; }
    sed -n 's/^stat::number_of_executed_units: */runs: /p' "$log"
done
echo "OK: nothing found"
