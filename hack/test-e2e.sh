#!/usr/bin/env bash
# End-to-end tests: real runtimes call the plugins, in private namespaces; nothing of the machine is touched.
# Usage: hack/test-e2e.sh [--only CLIENT]... [--backend nftables|iptables] [--jobs N] [DIR]
#   CLIENT     one of install package kubernetes libcni ctr cri podman buildah cluster cninet cninet-firewalld upgrade-podman upgrade-containerd
#   --backend  what the clients' networks ask for; default: each of libcni ctr cri podman buildah cninet once with either
#   --jobs     how many clients run at the same time; default: as many as there are processors
#   DIR        the plugins; without it: builds and tests bin/
# What is needed is installed from Debian and PyPI. Ends with a table, client × check, and the totals.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

clients=() backends=(nftables iptables) jobs=$(nproc) dir=
while [ $# -gt 0 ]; do
    case $1 in
    --only | --backend | --jobs) [ $# -gt 1 ] || fail "$1 needs a value" ;;&
    --only) clients+=("$2") && shift ;;
    --backend) backends=("$2") && shift ;;
    --jobs) jobs=$2 && shift ;;
    -*) fail "unknown option $1" ;;
    *) dir=$(cd "$1" && pwd) || fail "no directory $1" ;;
    esac
    shift
done
[ ${#clients[@]} -gt 0 ] ||
    clients=(upgrade-podman upgrade-containerd package podman buildah cri ctr libcni install kubernetes cluster cninet cninet-firewalld)
for client in "${clients[@]}"; do
    [ -x "$repo/tests/e2e/$client.sh" ] || fail "no client $client: see tests/e2e/"
done
wanted() { case " ${clients[*]} " in *" $1 "*) true ;; *) false ;; esac; }

need_root
need_tools
need_build
# Package scripts must not start a daemon on the machine.
RUNLEVEL=1 need_packages containerd runc podman conmon buildah catatonit uidmap busybox-static golang-go \
    golang-github-appc-cni-dev containernetworking-plugins firewalld dbus-daemon netcat-openbsd python3 python3-venv bird2 dpkg-dev lintian yamllint curl file openssl
if [ -z "$dir" ]; then
    say "build"
    "$repo/hack/build.sh"
    dir=$repo/bin
fi

say "the suite's own programs"
built=$repo/target/e2e
mkdir -p "$built"
for program in peer libcni; do
    env -u GOFLAGS GO111MODULE=off GOPATH=/usr/share/gocode CGO_ENABLED=0 GOCACHE="$built/go" \
        go build -o "$built/${program/libcni/attach}" "$repo/tests/e2e/$program/main.go"
done
"$repo/tests/e2e/image.sh" "$built/peer" docker.io/library/peer:1 "$built/peer.tar" /bin/peer serve peer 80
"$repo/tests/e2e/image.sh" "$built/peer" docker.io/library/pause:1 "$built/pause.tar" /bin/sleep 1000000

# python_packages DIR PACKAGE...: a Python environment with packages from PyPI; one that was left half done is made anew
python_packages() {
    [ ! -e "$1/complete" ] || return 0
    rm -rf "$1"
    /usr/bin/python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check "${@:2}" || fail "pip could not install ${*:2}"
    touch "$1/complete"
}
if wanted cri || wanted upgrade-containerd || wanted cninet; then
    python_packages "$built/cri" grpcio grpcio-tools
    "$built/cri/bin/python" -m grpc_tools.protoc -I"$repo/tests/e2e/cri" --python_out="$built/cri" --grpc_python_out="$built/cri" cri.proto
fi
# The schemas of Kubernetes, to hold the manifests against.
if wanted kubernetes; then python_packages "$built/kubernetes" kubernetes-validate; fi
# To be installed again over ours, as an upgrade of it would be. Without it that check is skipped.
if wanted package && ! compgen -G "$built/containernetworking-plugins_*.deb" >/dev/null; then
    (cd "$built" && apt-get download -qq containernetworking-plugins 2>/dev/null) || true
fi

# Cgroups are the one thing that isn't private: the runtimes leave empty ones behind, and those that are new are removed.
groups_of_runtimes() {
    find /sys/fs/cgroup -mindepth 1 -type d | grep -E '/(cni-e2e|default|k8s\.io|libpod_parent|buildah[^/]*)(/|$)' | sort || true
}
had=$(groups_of_runtimes)
work=$(mktemp -d)
ended() {
    rm -rf "$work"
    comm -13 <(echo "$had") <(groups_of_runtimes) | sort -r | xargs --no-run-if-empty rmdir 2>/dev/null || true
}
trap ended EXIT

# run COLUMN CLIENT BACKEND: one client, in namespaces of its own. The PID namespace ends every daemon with the script.
run() {
    local begun=$SECONDS
    CLIENT=$1 PLUGINS=$dir BUILT=$built RESULTS=$work/$1.results BACKEND=$3 \
        unshare --net --mount --pid --fork --kill-child --uts --ipc --mount-proc --propagation private \
        "$repo/tests/e2e/$2.sh" </dev/null >"$work/$1.log" 2>&1 ||
        printf '%s\tends with an error\tFAILED\n' "$1" >>"$work/$1.results"
    # One write, so that what runs at the same time doesn't come in between.
    printf '%s\n' "== $1: $((SECONDS - begun)) s
$(cat "$work/$1.log")"
}

start() {
    # Which of them has ended doesn't matter here.
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    run "$@" &
}
for client in "${clients[@]}"; do
    case $client in
    libcni | ctr | cri | podman | buildah | cninet)
        for backend in "${backends[@]}"; do start "$client-${backend%tables}" "$client" "$backend"; done
        ;;
    *) start "$client" "$client" "${backends[0]}" ;;
    esac
done
wait

say "$dir"
# What several clients go through: a row for each check in the order in which they came, a column for each client. What only
# one of them does is a list of its own.
in_order=({libcni,ctr,cri,podman,buildah,cninet}-{nf,ip} "${clients[@]}")
for column in "${in_order[@]}"; do cat "$work/$column.results" 2>/dev/null || true; done | awk -F'\t' '
    !($2 in seen) { seen[$2] = 1; row[++rows] = $2 }
    !($1 in known) { known[$1] = 1; column[++columns] = $1 }
    { cell[$2, $1] = $3; count[$3]++; asked[$2]++ }
    function family(name) { sub(/-(nf|ip)$/, "", name); return name }
    function shared(what, c, first) {
        for (c = 1; c <= columns; c++) if ((what, column[c]) in cell) {
            if (first != "" && family(column[c]) != first) return 1
            first = family(column[c])
        }
        return 0
    }
    END {
        for (c = 1; c <= columns; c++) for (r = 1; r <= rows; r++) if (shared(row[r]) && (row[r], column[c]) in cell) in_table[c] = 1
        if (length(in_table)) {
            printf "%-42s", "check"
            for (c = 1; c <= columns; c++) if (c in in_table) printf "  %s", column[c]
            printf "\n"
        }
        for (r = 1; r <= rows; r++) if (shared(row[r])) {
            printf "%-42s", row[r]
            for (c = 1; c <= columns; c++) if (c in in_table)
                printf "  %-*s", length(column[c]), (row[r], column[c]) in cell ? cell[row[r], column[c]] : "."
            printf "\n"
        }
        for (c = 1; c <= columns; c++) {
            text = ""
            for (r = 1; r <= rows; r++) if (!shared(row[r]) && (row[r], column[c]) in cell)
                text = text (text == "" ? "" : "; ") row[r] (cell[row[r], column[c]] == "ok" ? "" : ": " cell[row[r], column[c]])
            if (text != "") printf "%s only: %s\n", column[c], text
        }
        printf "%d passed, %d failed", count["ok"], count["FAILED"]
        if (count["skipped"]) printf ", %d skipped", count["skipped"]
        printf "\n"
    }'
! cat "$work"/*.results | grep -q 'FAILED$' || exit 1
