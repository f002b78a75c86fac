#!/usr/bin/env bash
# What of hack/kubernetes can be tried without a cluster: the manifests against their schemas, and the agent against a server
# in the API's place. The node is one of three; the others are addresses on its wire.
. "$(dirname "$0")/node.sh"

folder=$here/../../hack/kubernetes
node

manifests() { yamllint --strict -c "$folder/.yamllint" "$folder" && "$BUILT/kubernetes/bin/kubernetes-validate" --strict "$folder"/{daemonset,noded,remove}.yaml; }

# What the image has of the tree.
image() {
    mkdir -p "$work/cni/hack"
    cp -r "$PLUGINS" "$work/cni/bin"
    cp "$here"/../../hack/{install,lib}.sh "$work/cni/hack/"
    cp "$folder"/{agent,remove}.sh "$here/../../conf-examples/90-kubernetes-node.conflist" "$work/cni/"
}

# says NODES: the API server's list from now on; NODES as a JSON list of [name, address, IPv6 address, range...]
says() {
    jq '{items: map({metadata: {name: .[0]}, status: {addresses: [{type: "Hostname", address: .[0]}, {type: "InternalIP", address: .[1]},
        {type: "InternalIP", address: .[2]}]}, spec: (if .[3] then {podCIDR: .[3], podCIDRs: .[3:]} else {} end)})}' <<<"$1" >"$work/api/v1/nodes.new"
    mv "$work/api/v1/nodes.new" "$work/api/v1/nodes"
}
one='["one", "192.0.2.1", "2001:db8::1", "10.244.1.0/24", "fd00:244:1::/64"]'
two='["two", "192.0.2.2", "2001:db8::2", "10.244.2.0/24", "fd00:244:2::/64"]'
three='["three", "192.0.2.3", "2001:db8::3", "10.244.3.0/24", "fd00:244:3::/64"]'

agent=(env NODE_NAME=one "HOST=$work/host" API=http://127.0.0.1:8001 "ACCOUNT=$work/account")
once() { "${agent[@]}" SECONDS_BETWEEN=0 "$work/cni/agent.sh"; }
ways() { { ip -4 route show proto 115; ip -6 route show proto 115; } | awk '{ print $1, $3 }' | sort | paste -sd';'; }

not_ready() { says '[["one", "192.0.2.1", "2001:db8::1"]]' && ! once && [ ! -e "$conf" ] && is "$(ways)" ""; }
ready() {
    says "[$one, $two, $three]" && once &&
        is "$(jq -c '.plugins[0].ipam.ranges' "$conf")" '[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:1::/64"}]]' &&
        is "$(ways)" "10.244.2.0/24 192.0.2.2;10.244.3.0/24 192.0.2.3;fd00:244:2::/64 2001:db8::2;fd00:244:3::/64 2001:db8::3" &&
        cmp "$PLUGINS/bridge" "$work/host/opt/cni/bin/bridge"
}
again() {
    local inode
    inode=$(stat -c %i "$conf") && once && is "$(stat -c %i "$conf")" "$inode"
}
node_leaves() { says "[$one, $two]" && once && is "$(ways)" "10.244.2.0/24 192.0.2.2;fd00:244:2::/64 2001:db8::2"; }
followed() {
    says "[$one, $two, $three]" && within 10 is_followed
}
is_followed() { [[ $(ways) = *10.244.3.0/24* ]]; }
# A cluster whose services have IPv6 addresses: what Kubernetes puts into a pod's environment, and TLS with the account's authority.
service6() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/api.key" -out "$work/account/ca.crt" -days 1 -subj /CN=api \
        -addext subjectAltName=IP:::1
    (cd "$work" && exec openssl s_server -accept '[::1]:8443' -WWW -cert account/ca.crt -key api.key >api.log 2>&1) &
    local server=$! said=0
    within 10 curl --silent --fail --cacert "$work/account/ca.crt" 'https://[::1]:8443/account/token' || said=1
    rm -f "$conf"
    env NODE_NAME=one "HOST=$work/host" "ACCOUNT=$work/account" KUBERNETES_SERVICE_HOST=::1 KUBERNETES_SERVICE_PORT=8443 \
        SECONDS_BETWEEN=0 "$work/cni/agent.sh" && [ -e "$conf" ] || said=1
    kill $server
    return $said
}
# The node has no range yet: until it has one the agent looks every second, whatever the pause between looks is.
soon() {
    local waiting said=0
    rm -f "$conf"
    says '[["one", "192.0.2.1", "2001:db8::1"]]'
    "${agent[@]}" SECONDS_BETWEEN=1000 "$work/cni/agent.sh" >"$work/soon.log" 2>&1 &
    waiting=$!
    within 10 grep -q "no pod range yet" "$work/soon.log" && says "[$one, $two]" && within 20 test -e "$conf" || said=1
    kill $waiting
    return $said
}
# Whatever happens to the API server, what there is goes on serving.
server_gone() {
    local had
    had=$(ways)
    kill "$server" && ! once && is "$(ways)" "$had" && [ -e "$conf" ] && kill -0 "$running"
}
ended() { kill "$running" && within 20 gone; }
gone() { ! kill -0 "$running"; }

# A pod on what the agent has written and installed.
netns() { echo "/run/netns/$1"; }
serves() {
    ip netns add pod && ip -n pod link set lo up &&
        "$BUILT/attach" add "$conf" "$work/host/opt/cni/bin" pod /run/netns/pod >/dev/null && pings node "$(address pod 4)" &&
        is "$(address pod 4)" 10.244.1.2 && "$BUILT/attach" del "$conf" "$work/host/opt/cni/bin" pod /run/netns/pod
}

check "manifests: yamllint, schemas" manifests
image
conf=$work/host/etc/cni/net.d/10-pods.conflist
mkdir -p "$work/api/v1" "$work/account" "$work/host/opt/cni/bin" "$work/host/etc/cni/net.d"
echo token >"$work/account/token" && touch "$work/account/ca.crt"
/usr/bin/python3 -m http.server --directory "$work" --bind 127.0.0.1 8001 >/dev/null 2>&1 &
server=$!
must within 20 curl --silent --fail http://127.0.0.1:8001/account/token
check "agent: node without a range" not_ready
check "agent: network, routes, executables" ready
check "agent: again, nothing changes" again
check "agent: a pod on it" serves
check "agent: a node leaves" node_leaves
check "agent: API server at an IPv6 service address" service6
check "agent: the network comes soon after the node's range" soon
"${agent[@]}" SECONDS_BETWEEN=1 "$work/cni/agent.sh" >"$work/agent.log" 2>&1 &
running=$!
check "agent: a node comes while it runs" followed
check "agent: API server gone" server_gone
check "agent: ends at a signal" ended
