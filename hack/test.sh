#!/usr/bin/env bash
# Runs all tests: unit tests, then the black-box suite against a directory of plugin executables.
# Usage: hack/test.sh [DIR] [-- SUITE ARGUMENTS]   without DIR: builds, runs the unit tests, judges bin/
# With DIR the conformance table ends the output: what its plugins do with each sentence of the specification.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

dir=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    dir=$(cd "$1" && pwd) || fail "no directory $1"
    shift
fi
[ "${1:-}" != -- ] || shift

need_root
need_tools
need_build
cd "$repo"

log=$(mktemp)
findings=$(mktemp)
trap 'rm -f "$log" "$findings"' EXIT
ours=''
status=0

if [ -z "$dir" ]; then
    say "build"
    hack/build.sh
    dir=$repo/bin
    # All cases: then the tables in the documentation can be compared with what is found.
    [ $# -gt 0 ] || { ours=1 && export CNI_TEST_FINDINGS=$findings; }
    say "unit tests"
    # Whatever a test does to links, rules or mounts stays in here.
    unshare --net --mount --propagation private bash -c '
        mount -t tmpfs tmpfs /run && ip link set lo up
        exec cargo test --quiet --workspace --exclude cni-tests --locked --no-fail-fast
    ' >"$log" 2>&1 || status=1
    [ "$status" = 0 ] || cat "$log"
    units=$(awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0, "passed,", failed + 0, "failed" }' "$log")
fi

say "black-box suite against $dir"
CNI_TEST_DIR=$dir cargo test --quiet -p cni-tests --locked --test suite -- "$@" >"$log" 2>&1 || status=1
grep -v '\.\.\. ok$' "$log" || true

say "totals"
[ -z "${units:-}" ] || echo "unit tests: $units"
grep '^test result:' "$log" | sed 's/^test result:/suite:/' || true
grep '^  \(common\|newer\|spec\|improved\) ' "$log" || true
if [ -n "$ours" ] && [ "$status" = 0 ]; then
    say "conformance tables"
    hack/conformance.sh --check "$findings" || status=1
fi
[ "$status" = 0 ] || fail "see above"
echo "OK: all tests passed"
