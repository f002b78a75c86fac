# Sourced by the scripts of this folder, all of which run in the sandbox that hack/test-kubernetes.sh makes: its network namespace
# is the router and the wire between the nodes. Where a command runs: `in_control`, `outside`, `on N`; `k` is kubectl.
#
# From the environment: WORK, the folder of this run; KUBERNETES, the folder of its executables; PROBE; PLUGINS, the directory
# under test; GO_PLUGINS; BACKEND, nftables or iptables; PRIMARY, 4 or 6, the cluster's first family; CGROUP, the run's cgroup

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# families V4 V6: both, the first family's first
families() { if [ "$PRIMARY" = 4 ]; then echo "$1,$2"; else echo "$2,$1"; fi; }
primary() { if [ "$PRIMARY" = 4 ]; then echo "$1"; else echo "$2"; fi; }

gates=IPv6DualStack=true
pod_ranges=$(families 10.244.0.0/16 fd00:244::/56)
service_ranges=$(families 10.96.0.0/16 fd00:96::/112)
router4=10.10.0.254 router6=fd10::fe
control4=10.10.0.10 control6=fd10::10
outside4=198.51.100.2 outside6=2001:db8:51::2
node4() { echo "10.10.0.$1"; }
node6() { echo "fd10::$1"; }

in_control() { nsenter --net=/run/netns/control "$@"; }
outside() { nsenter --net=/run/netns/outside "$@"; }
on() { nsenter -t "$(<"$WORK/node$1/pid")" --mount --uts --ipc --net --pid --cgroup "${@:2}"; }
k() { in_control "$KUBERNETES/kubectl" --kubeconfig="$WORK/admin.conf" "$@"; }

# within SECONDS COMMAND...: until it holds; what it said last otherwise
within() {
    local until=$((SECONDS + $1)) said
    shift
    until said=$("$@" 2>&1); do
        [ $SECONDS -lt $until ] || { echo "not within the time: $*: $said" && return 1; }
        sleep 0.2
    done
    [ -z "$said" ] || echo "$said"
}
is() { [ "$1" = "$2" ] || { echo "expected '$2', got '$1'" && return 1; }; }
not() { ! "$@"; }
say() { printf '== %s\n' "$*"; }

# seconds_since EPOCHREALTIME
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }
