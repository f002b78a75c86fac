#!/usr/bin/env bash
# Says which of the specification's MUSTs and SHOULDs directories of plugins meet, as tables.
# Usage: hack/conformance.sh [DIR]...     prints both tables, a column for each DIR; default: bin/ and /usr/lib/cni
#        hack/conformance.sh --write      writes those of the default into docs/conformance.md
#        hack/conformance.sh --check FILE fails if our column there isn't what FILE has (from CNI_TEST_FINDINGS)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

write='' check='' dirs=()
while [ $# -gt 0 ]; do
    case $1 in
    --write) write=1 ;;
    --check) check=${2:?--check needs a file} && shift ;;
    -*) fail "unknown option $1" ;;
    *) dirs+=("$(cd "$1" && pwd)") || fail "no directory $1" ;;
    esac
    shift
done

need_build
cd "$repo"
page=docs/conformance.md
tables() { cargo run --quiet -p cni-tests --locked --bin conformance -- "$@"; }

# between FILE NAME: the generated lines of a document
between() { sed -n "/<!-- $2 begin/,/<!-- $2 end/p" "$1" | sed '1d;$d'; }

# put FILE NAME TEXT: replaces them
put() {
    grep -q "<!-- $2 begin" "$1" && grep -q "<!-- $2 end" "$1" || fail "$1 has no place for $2"
    local new
    new=$(mktemp)
    awk -v name="$2" -v text="$3" '
        index($0, "<!-- " name " end") { skipping = 0 }
        !skipping { print }
        index($0, "<!-- " name " begin") { print text; skipping = 1 }' "$1" >"$new"
    cat "$new" >"$1" && rm "$new"
}

if [ -n "$check" ]; then
    # Ours is the first column, after what says which row it is.
    same() { diff <(between "$page" "$1" | cut -d'|' -f"$2" | sed 's/---//g') <(cut -d'|' -f"$2" <<<"$3" | sed 's/---//g'); }
    same conformance 2-6 "$(tables full "ours=$check")" && same summary 2-4 "$(tables summary "ours=$check")" ||
        fail "the conformance tables are out of date (>: what was found now): hack/conformance.sh --write"
    exit
fi

need_root
need_tools
if [ ${#dirs[@]} -eq 0 ]; then
    [ -x bin/bridge ] || hack/build.sh
    need_packages containernetworking-plugins
    dirs=("$repo/bin" /usr/lib/cni)
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
columns=()
for dir in "${dirs[@]}"; do
    name=$dir
    [ "$dir" != "$repo/bin" ] || name=ours
    [ "$dir" != /usr/lib/cni ] ||
        name="Go $(dpkg-query -W -f '${source:Upstream-Version}' containernetworking-plugins 2>/dev/null | sed 's/[+~].*//')"
    say "$name" >&2
    # What isn't met fails there, and is what we want to know here.
    CNI_TEST_DIR=$dir CNI_TEST_FINDINGS=$work/${#columns[@]} \
        cargo test --quiet -p cni-tests --locked --test suite -- spec:: >"$work/log" 2>&1 || true
    [ -s "$work/${#columns[@]}" ] || { cat "$work/log" && fail "the suite came to no end"; }
    columns+=("$name=$work/${#columns[@]}")
done

full=$(tables full "${columns[@]}")
summary=$(tables summary "${columns[@]}")
if [ -n "$write" ]; then
    put "$page" conformance "$full"
    put "$page" reasons "$(tables reasons "${columns[0]}")"
    put "$page" summary "$summary"
else
    printf '%s\n\n%s\n' "$full" "$summary"
fi
