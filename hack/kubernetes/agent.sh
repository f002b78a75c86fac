#!/usr/bin/env bash
# The DaemonSet's program on each node: installs the executables, writes the node's network with its pod ranges, and maintains
# routes to the other nodes' pods, for clusters whose nodes are on one link.
# Environment: NODE_NAME, the node's own name
#   HOST      where the node's /opt/cni/bin and /etc/cni/net.d are mounted; default /host
#   API       where the API server is; default: from the environment that Kubernetes gives every pod
#   ACCOUNT   the service account's folder
#   SECONDS_BETWEEN   seconds between two reads of the list of nodes; default 10; 0: read once and exit. Before the first success
#             it tries every second: the node isn't Ready until then.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
host=${HOST-/host}
# In a URL an IPv6 address stands in brackets.
service=${KUBERNETES_SERVICE_HOST:-}
case $service in *:*) service=[$service] ;; esac
api=${API:-https://$service:${KUBERNETES_SERVICE_PORT:-}}
account=${ACCOUNT:-/var/run/secrets/kubernetes.io/serviceaccount}
between=${SECONDS_BETWEEN:-10}
# Marks the agent's routes (/etc/iproute2/rt_protos has no name for it).
protocol=115

# nodes: one line for each node: name, its addresses joined by commas, its pod ranges joined by commas
nodes() {
    curl --silent --show-error --fail --connect-timeout 5 --max-time 20 --cacert "$account/ca.crt" --header "Authorization: Bearer $(cat "$account/token")" \
        "$api/api/v1/nodes" | jq -r '.items[] | [.metadata.name,
            ([.status.addresses[]? | select(.type == "InternalIP").address] | join(",")), ((.spec.podCIDRs // []) | join(","))] | @tsv'
}

# network RANGES: the example with this node's ranges, renamed into place. It comes last, because it makes the node ready.
network() {
    local target=$host/etc/cni/net.d/10-pods.conflist new
    new=$host/etc/cni/net.d/.10-pods.conflist.new
    jq --arg ranges "$1" '.plugins[0].ipam.ranges = [$ranges | split(",")[] | [{subnet: .}]]' \
        "$here/90-kubernetes-node.conflist" >"$new"
    if cmp -s "$new" "$target"; then rm "$new"; else mv "$new" "$target"; fi
}

family() { case $1 in *:*) echo -6 ;; *) echo -4 ;; esac; }

# routes: reads the other nodes' lines; sets a route to each range through the node's address of the same family, and deletes
# the agent's other routes
routes() {
    local addresses ranges range address wanted=' ' had
    while IFS=$'\t' read -r _ addresses ranges; do
        for range in ${ranges//,/ }; do
            for address in ${addresses//,/ }; do
                [ "$(family "$address")" = "$(family "$range")" ] || continue
                ip "$(family "$range")" route replace "$range" via "$address" proto "$protocol"
                wanted+="$range "
                break
            done
        done
    done
    for had in $(ip -4 route show proto "$protocol" | cut -d' ' -f1) $(ip -6 route show proto "$protocol" | cut -d' ' -f1); do
        [[ $wanted = *" $had "* ]] || ip "$(family "$had")" route del "$had" proto "$protocol"
    done
}

# look: reads the nodes once and applies what it finds; fails while the node has no ranges yet
look() {
    local all own
    all=$(nodes) || return 1
    own=$(awk -F'\t' -v name="$NODE_NAME" '$1 == name { print $3 }' <<<"$all")
    [ -n "$own" ] || { echo "$NODE_NAME has no pod range yet: does the controller manager allocate node CIDRs?" >&2 && return 1; }
    awk -F'\t' -v name="$NODE_NAME" '$1 != name' <<<"$all" | routes || return 1
    network "$own"
}

# The kernel delivers to the first process of a container only signals that it handles.
trap 'exit 0' TERM INT
: "${NODE_NAME:?}"
"$here/hack/install.sh" --from "$here/bin" --bin-dir "$host/opt/cni/bin"
pause=1
while true; do
    # If the list cannot be read, routes and network stay as they are.
    if look; then
        [ "$between" != 0 ] || exit 0
        pause=$between
    fi
    [ "$between" != 0 ] || exit 1
    sleep "$pause" &
    # `wait`, unlike `sleep` in the foreground, returns at once on a signal.
    wait $!
done
