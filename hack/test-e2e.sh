#!/usr/bin/env bash
# End-to-end tests: real runtimes call the plugins, in private namespaces; nothing of the machine is touched.
# Usage: hack/test-e2e.sh [--only CLIENT]... [DIR]   without DIR: builds and tests bin/
#   CLIENT   one of install package kubernetes ctr cri podman buildah libcni cluster upgrade-podman upgrade-containerd
# BACKEND=iptables runs the hand-written networks on that backend. What is needed is installed from Debian and PyPI.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

clients=()
dir=
while [ $# -gt 0 ]; do
    case $1 in
    --only) clients+=("$2") && shift ;;
    -*) fail "unknown option $1" ;;
    *) dir=$(cd "$1" && pwd) || fail "no directory $1" ;;
    esac
    shift
done
[ ${#clients[@]} -gt 0 ] || clients=(install package kubernetes libcni ctr cri podman buildah cluster upgrade-podman upgrade-containerd)
for client in "${clients[@]}"; do
    [ -x "$repo/tests/e2e/$client.sh" ] || fail "no client $client: see tests/e2e/"
done

need_root
need_tools
# Package scripts must not start a daemon on the machine.
RUNLEVEL=1 need_packages containerd runc podman conmon buildah catatonit uidmap busybox-static golang-go \
    golang-github-appc-cni-dev containernetworking-plugins python3-venv bird2 dpkg-dev lintian yamllint curl
if [ -z "$dir" ]; then
    say "build"
    "$repo/hack/build.sh"
    dir=$repo/bin
fi

say "the suite's own programs"
built=$repo/target/e2e
mkdir -p "$built"
export GO111MODULE=off GOPATH=/usr/share/gocode CGO_ENABLED=0
go build -o "$built/peer" "$repo/tests/e2e/peer/main.go"
go build -o "$built/attach" "$repo/tests/e2e/libcni/main.go"
"$repo/tests/e2e/image.sh" "$built/peer" docker.io/library/peer:1 "$built/peer.tar" /bin/peer serve peer 80
"$repo/tests/e2e/image.sh" "$built/peer" docker.io/library/pause:1 "$built/pause.tar" /bin/sleep 1000000
case " ${clients[*]} " in *' cri '* | *' upgrade-containerd '*) "$repo/tests/e2e/cri/build.sh" "$built/cri" ;; esac
# The schemas of Kubernetes, to hold the manifests against.
case " ${clients[*]} " in *' kubernetes '*)
    if [ ! -x "$built/kubernetes/bin/kubernetes-validate" ]; then
        /usr/bin/python3 -m venv "$built/kubernetes"
        "$built/kubernetes/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate
    fi
    ;;
esac

# To be installed again over ours, as an upgrade of it would be.
case " ${clients[*]} " in *' package '*)
    compgen -G "$built/containernetworking-plugins_*.deb" >/dev/null ||
        (cd "$built" && apt-get download -qq containernetworking-plugins 2>/dev/null) || true
    ;;
esac

# Cgroups are the one thing that isn't private: the runtimes leave empty ones behind, and those that are new are removed.
groups_of_runtimes() {
    find /sys/fs/cgroup -mindepth 1 -type d | grep -E '/(cni-e2e|default|k8s\.io|libpod_parent|buildah[^/]*)(/|$)' | sort || true
}
had=$(groups_of_runtimes)
results=$(mktemp)
ended() {
    rm -f "$results"
    comm -13 <(echo "$had") <(groups_of_runtimes) | sort -r | xargs --no-run-if-empty rmdir 2>/dev/null || true
}
trap ended EXIT
for client in "${clients[@]}"; do
    say "$client"
    begun=$SECONDS
    # The PID namespace ends every daemon with the script.
    CLIENT=$client PLUGINS=$dir BUILT=$built RESULTS=$results \
        unshare --net --mount --pid --fork --kill-child --uts --ipc --mount-proc --propagation private \
        "$repo/tests/e2e/$client.sh" </dev/null || printf '%s\tends with an error\tFAILED\n' "$client" >>"$results"
    echo "   $((SECONDS - begun)) s"
done

say "$dir"
# One row for each check in the order in which they came, one column for each client.
awk -F'\t' '
    !($2 in seen) { seen[$2] = 1; row[++rows] = $2 }
    !($1 in known) { known[$1] = 1; column[++columns] = $1 }
    { cell[$2, $1] = $3; count[$3]++ }
    END {
        printf "%-40s", "check"
        for (c = 1; c <= columns; c++) printf "  %s", column[c]
        printf "\n"
        for (r = 1; r <= rows; r++) {
            printf "%-40s", row[r]
            for (c = 1; c <= columns; c++) printf "  %-*s", length(column[c]), cell[row[r], column[c]] == "" ? "." : cell[row[r], column[c]]
            printf "\n"
        }
        printf "%d passed, %d failed\n", count["ok"], count["FAILED"]
    }' "$results"
! grep -q 'FAILED$' "$results" || exit 1
