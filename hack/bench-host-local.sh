#!/usr/bin/env bash
# ADD, CHECK and DEL of host-local at growing numbers of reservations, ours and the Go plugin's alternately: the median
# of the rounds in milliseconds, and how many times as long the Go plugin takes.
# Usage: hack/bench-host-local.sh [--rounds N] [OURS [THEIRS]]   default: 21 rounds, ours as built here, /usr/lib/cni/host-local
#
# Every time includes the start of a process; the row "none (VERSION)" is that alone. Everything happens in a directory of its
# own under TMPDIR; no root needed unless packages are missing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

rounds=21
plugins=()
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=$2 && shift ;;
    -*) fail "unknown option $1" ;;
    *) plugins+=("$(realpath "$1")") ;;
    esac
    shift
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "--rounds wants a number, and this is $rounds"
cd "$repo"
if [ ${#plugins[@]} -lt 2 ]; then
    need_packages containernetworking-plugins
fi
if [ ${#plugins[@]} -lt 1 ]; then
    need_build
    say "build"
    # As hack/build.sh builds it, but only this one.
    target=$(host_target)
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --quiet --release --locked --target "$target" --bin=host-local
    plugins=("$(realpath "${CARGO_TARGET_DIR:-target}/$target/release/host-local")")
fi
declare -A executable=([ours]=${plugins[0]} [theirs]=${plugins[1]:-/usr/lib/cni/host-local})
for plugin in ours theirs; do
    [ -x "${executable[$plugin]}" ] || fail "no executable ${executable[$plugin]}"
done

state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export CNI_PATH=/nonexistent CNI_NETNS=/nonexistent CNI_IFNAME=eth0

# conf NETWORK [RESULT]: each plugin has a network of its own
conf() {
    printf '{"cniVersion":"1.0.0","name":"%s"%s,"ipam":{"type":"host-local","dataDir":"%s","ranges":[[{"subnet":"10.64.0.0/16"}]]}}' \
        "$1" "${2:+,\"prevResult\":$2}" "$state" >"$state/$1.conf"
}

# fill NETWORK COUNT GAPS: reserves addresses from 10.64.0.2 on, except every 4096th of them if GAPS is set
fill() {
    local i
    mkdir -p "$state/$1"
    for ((i = 2; i < $2 + 2; i++)); do
        if [ -n "$3" ] && ((i % 4096 == 7)); then continue; fi
        printf '%064x\r\neth0' "$i" >"$state/$1/10.64.$((i / 256)).$((i % 256))"
    done
}

# call PLUGIN VERB ID: one call, its microseconds appended to the list of its kind
call() {
    local before after
    before=$EPOCHREALTIME
    CNI_COMMAND=$2 CNI_CONTAINERID=$3 "${executable[$1]}" <"$state/$1.conf" >"$state/out" ||
        fail "$1: $2 of $3: $(cat "$state/out")"
    after=$EPOCHREALTIME
    echo $((${after/./} - ${before/./})) >>"$state/$1-$2"
}

# round N: each verb by both plugins, by turns first; CHECK and DEL are told the result, as runtimes do
round() {
    local plugin verb order=(ours theirs)
    (($1 % 2)) || order=(theirs ours)
    for plugin in "${order[@]}"; do
        conf "$plugin"
        call "$plugin" ADD "round$1"
        conf "$plugin" "$(<"$state/out")"
    done
    for verb in CHECK DEL; do
        for plugin in "${order[@]}"; do call "$plugin" "$verb" "round$1"; done
    done
}

median() { sort -n "$state/$1" | awk '{ v[NR] = $1 } END { printf "%.2f", (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2000 }'; }

# print LABEL VERB...: a line of the table
print() {
    local verb ours theirs
    printf '%-18s' "$1"
    for verb in "${@:2}"; do
        ours=$(median "ours-$verb") theirs=$(median "theirs-$verb")
        printf ' %9s %8s %6s' "$ours" "$theirs" "$(awk "BEGIN { printf \"%.1fx\", $theirs / $ours }")"
    done
    printf '\n'
}

# row LABEL COUNT [GAPS]
row() {
    local plugin n
    rm -rf "${state:?}"/{ours,theirs}* "$state/.host-local"
    for plugin in ours theirs; do
        fill "$plugin" "$2" "${3:-}"
    done
    # The first call after somebody else's change reads every file and makes the index; it is not what is measured.
    round 0
    rm -f "$state"/{ours,theirs}-*
    for ((n = 1; n <= rounds; n++)); do round "$n"; done
    print "$1" ADD CHECK DEL
}

say "$rounds rounds: ${executable[ours]} and ${executable[theirs]}"
printf '%-18s' reservations
for verb in ADD CHECK DEL; do printf ' %9s %8s %6s' "$verb ours" Go ratio; done
printf '\n'
for plugin in ours theirs; do
    conf "$plugin"
    for ((n = 0; n < rounds; n++)); do call "$plugin" VERSION none; done
done
print "none (VERSION)" VERSION
for count in 0 250 1000 10000 60000; do
    row "$count" "$count"
done
row "16 of a /16 free" 65533 gaps
