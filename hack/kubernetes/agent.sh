#!/usr/bin/env bash
# What the DaemonSet runs on each node: installs the executables, writes the node's network with its pod ranges, and keeps
# the routes to the other nodes' pods, for clusters whose nodes share a wire.
# Environment: NODE_NAME, the node's own name
#   HOST      where the node's /opt/cni/bin and /etc/cni/net.d are mounted; default /host
#   API       where the API server is; default: as every pod is told
#   ACCOUNT   the service account's folder
#   SECONDS_BETWEEN   two looks at the list of nodes; default 10; 0: look once and end
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
host=${HOST-/host}
api=${API:-https://${KUBERNETES_SERVICE_HOST:-}:${KUBERNETES_SERVICE_PORT:-}}
account=${ACCOUNT:-/var/run/secrets/kubernetes.io/serviceaccount}
between=${SECONDS_BETWEEN:-10}
# Marks the routes that are ours (/etc/iproute2/rt_protos has no name for it).
protocol=115

# nodes: one line for each node: name, its addresses joined by commas, its pod ranges joined by commas
nodes() {
    curl --silent --show-error --fail --max-time 20 --cacert "$account/ca.crt" --header "Authorization: Bearer $(cat "$account/token")" \
        "$api/api/v1/nodes" | jq -r '.items[] | [.metadata.name,
            ([.status.addresses[]? | select(.type == "InternalIP").address] | join(",")), ((.spec.podCIDRs // []) | join(","))] | @tsv'
}

# network RANGES: the example with this node's ranges, put in place by a rename, last of all: with it the node becomes ready
network() {
    local target=$host/etc/cni/net.d/10-pods.conflist new
    new=$host/etc/cni/net.d/.10-pods.conflist.new
    jq --arg ranges "$1" '.plugins[0].ipam.ranges = [$ranges | split(",")[] | [{subnet: .}]]' \
        "$here/90-kubernetes-node.conflist" >"$new"
    if cmp -s "$new" "$target"; then rm "$new"; else mv "$new" "$target"; fi
}

family() { case $1 in *:*) echo -6 ;; *) echo -4 ;; esac; }

# routes: reads the other nodes' lines; a route for each range, by the node's address of the same family; others of ours go
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

# look: one round; fails while the node has no ranges yet
look() {
    local all own
    all=$(nodes) || return 1
    own=$(awk -F'\t' -v name="$NODE_NAME" '$1 == name { print $3 }' <<<"$all")
    [ -n "$own" ] || { echo "$NODE_NAME has no pod range yet: does the controller manager allocate node CIDRs?" >&2 && return 1; }
    awk -F'\t' -v name="$NODE_NAME" '$1 != name' <<<"$all" | routes || return 1
    network "$own"
}

# The first process of a container is ended only by signals that it asks for.
trap 'exit 0' TERM INT
: "${NODE_NAME:?}"
"$here/hack/install.sh" --from "$here/bin" --bin-dir "$host/opt/cni/bin"
while true; do
    # A list that can't be had changes nothing: what was there goes on serving.
    if look; then [ "$between" != 0 ] || exit 0; else [ "$between" != 0 ] || exit 1; fi
    sleep "$between" &
    # So that a signal ends the script at once.
    wait $!
done
