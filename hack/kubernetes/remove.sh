#!/usr/bin/env bash
# Removes from a node all that the DaemonSet, and pods on its network, have left there: the network, what the plugins hold for it,
# the bridge, the routes, the executables. Run it on a drained node: remove.yaml does, from the same image as the agent.
# What other networks of the node use stays: rules and tables that still have entries, and executables that it had before.
# Environment: HOST, where the node's /opt/cni/bin, /etc/cni/net.d and /var/lib/cni are mounted; default /host
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
host=${HOST-/host}
conflist=$host/etc/cni/net.d/10-pods.conflist

# collect: the plugins of the network remove what they hold for its attachments; there is none that would still be valid
collect() {
    local plugin type
    jq -c '.name as $name | .plugins[] | . + {name: $name, cniVersion: "1.1.0", "cni.dev/valid-attachments": []}
        | if .ipam then .ipam.dataDir = $data else . end' --arg data "$host/var/lib/cni/networks" "$1" |
        while read -r plugin; do
            type=$(jq -r .type <<<"$plugin")
            CNI_COMMAND=GC CNI_PATH=$here/bin "$here/bin/$type" <<<"$plugin"
        done
}

# empty_tables: the plugins' nftables tables in which no set and no map has an element
empty_tables() {
    local table
    nft list tables | grep -E '^table [a-z0-9]+ cni_' | while read -r table; do
        # shellcheck disable=SC2086 # three words
        if nft -j list $table | jq -e '[.nftables[] | (.set // .map).elem // empty] | length == 0' >/dev/null; then echo "$table"; fi
    done
}

# shared_chains TOOL: the chains of iptables that all attachments share, unless an attachment's chain or rule is left
shared_chains() {
    local tool=$1 table chain rule
    # Without -q: grep would end before the tool has written all, and pipefail take that for "none".
    ! "$tool-save" | grep -E '^-A (CNI-DN-|CNI-[0-9a-f]{24}|CNI-HOSTPORT-DNAT )' >/dev/null || return 0
    for table in raw nat filter; do
        "$tool-save" -t "$table" | sed -nE 's/^-A (.* -j CNI-(HOSTPORT-[A-Z]+|FORWARD|ADMIN))$/\1/p' | while read -r rule; do
            # The rule as the tool prints it, quotes included.
            xargs "$tool" -w -t "$table" -D <<<"$rule"
        done
        for chain in $("$tool-save" -t "$table" | sed -nE 's/^:(CNI-(HOSTPORT-[A-Z]+|FORWARD|ADMIN)) .*/\1/p'); do
            "$tool" -w -t "$table" -F "$chain" && "$tool" -w -t "$table" -X "$chain"
        done
    done
}

if [ -e "$conflist" ]; then
    network=$(mktemp)
    # Moved away first: from here on no pod gets this network.
    cat "$conflist" >"$network" && rm "$conflist"
    collect "$network"
    bridge=$(jq -r '.plugins[0].bridge' "$network")
    ! ip link show dev "$bridge" >/dev/null 2>&1 || ip link del dev "$bridge"
    name=$(jq -r .name "$network")
    data=$host/var/lib/cni
    rm -rf "$data/networks/$name" "$data/networks/.host-local/$name" "$data/results/$name"-*
    for folder in "$data/networks/.host-local" "$data/networks" "$data/results"; do
        [ ! -d "$folder" ] || rmdir --ignore-fail-on-non-empty "$folder"
    done
    rm "$network"
fi
ip -4 route flush proto 115
ip -6 route flush proto 115
# cni-noded's device, if its way is vxlan.
ip link del cni-vx1 2>/dev/null || true
empty_tables | while read -r table; do
    # shellcheck disable=SC2086 # three words
    nft delete $table
done
for tool in iptables ip6tables; do shared_chains "$tool"; done
"$here/hack/install.sh" --undo --bin-dir "$host/opt/cni/bin"
echo "removed"
