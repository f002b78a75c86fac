#!/usr/bin/env bash
# Runs all tests: unit tests, then the black-box suite against a directory of plugin executables.
# Usage: hack/test.sh [DIR] [-- SUITE ARGUMENTS]   without DIR: builds, runs the unit tests, judges bin/
# With DIR the conformance table ends the output: what its plugins do with each sentence of the specification.
# Everything is installed, fetched and built first; a build that fails, and a run in which no test passed, end it at once.
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
units=''

# The packages whose tests are unit tests. Built and run with the same selection, or cargo would build anew.
unit_tests=(--quiet --workspace --exclude cni-tests --locked)
suite=(--quiet -p cni-tests --locked --test suite)

# count passed|failed: of all results in the log
count() { sed -n "s/^test result:.* \([0-9]*\) $1;.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'; }

# some_passed WHAT: a run in which nothing passed has not tested anything
some_passed() { [ "$(count passed)" -gt 0 ] || { cat "$log" && fail "$1: no test passed"; }; }

say "build"
if [ -z "$dir" ]; then
    hack/build.sh
    dir=$repo/bin
    units=1
    cargo test "${unit_tests[@]}" --no-run || fail "the unit tests don't build"
    # All cases: then the tables in the documentation can be compared with what is found.
    [ $# -gt 0 ] || { ours=1 && export CNI_TEST_FINDINGS=$findings; }
fi
cargo test "${suite[@]}" --no-run || fail "the suite doesn't build"

if [ -n "$units" ]; then
    say "unit tests"
    # Whatever a test does to links, rules or mounts stays in there.
    in_namespace cargo test "${unit_tests[@]}" --offline --no-fail-fast >"$log" 2>&1 || status=1
    [ "$status" = 0 ] || cat "$log"
    some_passed "unit tests"
    units="$(count passed) passed, $(count failed) failed"
fi

say "black-box suite against $dir"
CNI_TEST_DIR=$dir cargo test "${suite[@]}" -- "$@" >"$log" 2>&1 || status=1
grep -v '\.\.\. ok$' "$log" || true
some_passed "suite $*"

say "totals"
[ -z "$units" ] || echo "unit tests: $units"
grep '^test result:' "$log" | sed 's/^test result:/suite:/' || true
grep '^  \(common\|newer\|spec\|improved\|unsteady:\) ' "$log" || true
if [ -n "$ours" ] && [ "$status" = 0 ]; then
    say "conformance tables"
    hack/conformance.sh --check "$findings" || status=1
fi
[ "$status" = 0 ] || fail "see above"
echo "OK: all tests passed"
