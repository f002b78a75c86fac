#!/usr/bin/env bash
# A Kubernetes cluster in namespaces of this machine, and what it does on the network of hack/kubernetes: control plane, three nodes
# with containerd, kubelet and kube-proxy, a router and a host outside. docs/kubernetes.md says what is tested and what it needs.
# Usage: hack/test-kubernetes.sh [--backend nftables|iptables] [--primary 4|6] [--logs DIR] [--shell] [--bin DIR] [SECTION...]
#   SECTION    one of those in tests/kubernetes/sections/, in any order; `ready` comes first in any case; default: all
#   --backend  of the pods' network; default: each, one after the other
#   --primary  the cluster's first family; default 4
#   --logs     where the logs of the components are put; default: they go with the cluster
#   --shell    ends with a shell in the sandbox
#   --bin      the plugins; without it: builds bin/
# Kubernetes is built once, from Debian's source package, and kept in ${XDG_CACHE_HOME:-~/.cache}/cni-test-kubernetes.
# Prints each check, then a table, section × backend, what took how long, and the totals.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

all=(ready pods services hostports egress clean rolling restarts reboot nodes network upgrade gc churn noded removal)
backends=(nftables iptables) primary=4 shell='' logs='' dir='' sections=()
while [ $# -gt 0 ]; do
    case $1 in
    --backend | --primary | --bin | --logs) [ $# -gt 1 ] || fail "$1 needs a value" ;;&
    --backend) backends=("$2") && shift ;;
    --primary) primary=$2 && shift ;;
    --bin) dir=$(cd "$2" && pwd) && shift ;;
    --logs) mkdir -p "$2" && logs=$(cd "$2" && pwd) && shift ;;
    --shell) shell=yes ;;
    -*) fail "unknown option $1: see the head of $0" ;;
    *) sections+=("$1") ;;
    esac
    shift
done
for section in "${sections[@]}"; do
    case " ${all[*]} " in *" $section "*) ;; *) fail "no section $section: there are ${all[*]}" ;; esac
done
[ ${#sections[@]} -gt 0 ] || sections=("${all[@]}")
[ "${sections[0]}" = ready ] || sections=(ready "${sections[@]}")

need_root
need_tools
need_build
grep -q ' /sys/fs/cgroup/memory cgroup ' /proc/mounts ||
    fail "the nodes need cgroups of version 1 (boot with systemd.unified_cgroup_hierarchy=0)"
# Package scripts must not start a daemon on the machine.
RUNLEVEL=1 need_packages containerd runc etcd-server containernetworking-plugins mmdebstrap openssl jq
if [ -z "$dir" ]; then
    say "build"
    "$repo/hack/build.sh"
    dir=$repo/bin
fi
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cni-test-kubernetes
"$repo/tests/kubernetes/build.sh" "$cache"
(cd "$repo" && RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --quiet --release --locked --package probe --target "$(host_target)" --target-dir target/kubernetes)
probe=$repo/target/kubernetes/$(host_target)/release/probe

work=$(mktemp -d)
group=cni-test-kubernetes.$$
# remove_groups: with the sandbox everything in them has ended
remove_groups() {
    find /sys/fs/cgroup/*/"$group" -depth -type d -exec rmdir {} + 2>/dev/null || [ -z "$(compgen -G "/sys/fs/cgroup/*/$group")" ]
}
sandbox=''
ended() {
    local _
    # A signal ends this script only.
    [ -z "$sandbox" ] || kill -KILL "$sandbox" 2>/dev/null || true
    for _ in {1..50}; do
        ! remove_groups || break
        sleep 0.1
    done
    rm -rf "$work"
}
trap ended EXIT

for backend in "${backends[@]}"; do
    state=$work/$backend
    mkdir -p "$state/images"
    "$repo/tests/kubernetes/images.sh" "$state/images" "$cache" "$probe" "$dir" "$backend"
    say "cluster, $backend"
    WORK=$state KUBERNETES=$cache/bin PROBE=$probe PLUGINS=$dir GO_PLUGINS=/usr/lib/cni BACKEND=$backend PRIMARY=$primary CGROUP=$group \
        SHELL_AFTER=$shell unshare --net --mount --pid --fork --kill-child --uts --ipc --mount-proc --propagation private \
        "$repo/tests/kubernetes/run.sh" "${sections[@]}" <&0 &
    sandbox=$!
    wait "$sandbox" ||
        printf '%s\t%s\t%s\t%s\n' "$backend" cluster "ends with an error" FAILED >>"$state/results"
    sandbox=''
    [ -z "$logs" ] || (cd "$state" && tar -cf - --exclude='*.conf' log node*/log) | tar -C "$logs" -xf -
    cat "$state/results" >>"$work/results"
    rm -rf "$state"
done

say "$dir"
awk -F'\t' '
    # An even table: one line for each name, one column for each backend.
    function line(name, values, c) {
        printf "%-58s", name
        for (c = 1; c <= columns; c++) printf "  %16s", (name, column[c]) in values ? values[name, column[c]] : "."
        printf "\n"
    }
    !($1 in known) { known[$1] = 1; column[++columns] = $1 }
    $4 == "ok" || $4 == "FAILED" {
        if (!($2 in section)) { section[$2] = 1; sections[++rows] = $2 }
        count[$4]++
        outcome[$2, $1, $4]++
        cell[$2, $1] = (outcome[$2, $1, "ok"] + 0) " ok" (outcome[$2, $1, "FAILED"] ? ", " outcome[$2, $1, "FAILED"] " FAILED" : "")
        if ($4 == "FAILED") failures[++failed] = $1 ", " $2 ": " $3
        next
    }
    $3 == "took" { took[$2, $1] = ", " $4; next }
    { if (!($3 in measure)) { measure[$3] = 1; measures[++figures] = $3 }; figure[$3, $1] = $4 }
    END {
        printf "%-58s", "section"
        for (c = 1; c <= columns; c++) printf "  %16s", column[c]
        printf "\n"
        for (r = 1; r <= rows; r++) {
            for (c = 1; c <= columns; c++)
                if ((sections[r], column[c]) in cell) cell[sections[r], column[c]] = cell[sections[r], column[c]] took[sections[r], column[c]]
            line(sections[r], cell)
        }
        printf "\n"
        for (r = 1; r <= figures; r++) line(measures[r], figure)
        for (r = 1; r <= failed; r++) printf "FAILED: %s\n", failures[r]
        printf "%d passed, %d failed\n", count["ok"], count["FAILED"]
    }' "$work/results"
! grep -q 'FAILED$' "$work/results" || exit 1
