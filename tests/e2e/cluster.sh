#!/usr/bin/env bash
# Three nodes of a cluster: every node has a range of pod addresses, and BIRD announces them to the others by BGP. Pods on different
# nodes reach each other with their own addresses.
. "$(dirname "$0")/node.sh"

numbers=(1 2 3)

# on NUMBER COMMAND...: as a process of that node, with its network namespace and its state
on() {
    nsenter --net="/run/netns/node$1" unshare --mount --propagation private bash -c '
        mount --bind "$0/cni" /var/lib/cni && mount --bind "$0/net.d" /etc/cni/net.d && exec "$@"' "$work/node$1" "${@:2}"
}

# cluster: three nodes on one wire
cluster() {
    local n
    ip link add wire type bridge
    ip link set wire up
    for n in "${numbers[@]}"; do
        mkdir -p "$work/node$n"/{cni,net.d}
        ip netns add "node$n"
        ip -n "node$n" link set lo up
        ip link add "wire$n" type veth peer name eth0 netns "node$n"
        ip link set "wire$n" master wire up
        ip -n "node$n" addr add "10.0.0.$n/24" dev eth0
        ip -n "node$n" addr add "2001:db8:1::$n/64" dev eth0 nodad
        ip -n "node$n" link set eth0 up
        # The example as it stands is node 1's.
        sed "s/10\.244\.1\./10.244.$n./; s/fd00:244:1::/fd00:244:$n::/" "$here/../../conf-examples/90-kubernetes-node.conflist" \
            >"$work/node$n/net.d/pods.conflist"
        bird_conf "$n" >"$work/node$n/bird.conf"
        on "$n" bird -f -c "$work/node$n/bird.conf" -s "$work/node$n/bird.ctl" -P "$work/node$n/bird.pid" >"$work/node$n/bird.log" 2>&1 &
    done
}

# bird_conf NUMBER: what is on cni0 is announced to the others; what they announce goes into the kernel
bird_conf() {
    local other
    cat <<BIRD
router id 10.0.0.$1;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; interface "cni0"; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
# The others are on the same wire: their address is the next hop, no route to it has to be known.
template bgp peer { direct; connect delay time 1; connect retry time 1; error wait time 1, 2; }
BIRD
    for other in "${numbers[@]}"; do
        [ "$other" != "$1" ] || continue
        cat <<BIRD
protocol bgp v4_$other from peer {
    local 10.0.0.$1 as 64512; neighbor 10.0.0.$other as 64512;
    ipv4 { import all; export where source = RTS_DEVICE; next hop self; };
}
protocol bgp v6_$other from peer {
    local 2001:db8:1::$1 as 64512; neighbor 2001:db8:1::$other as 64512;
    ipv6 { import all; export where source = RTS_DEVICE; next hop self; };
}
BIRD
    done
}

netns() { echo "/run/netns/$1"; }
attach() { on "$2" "$BUILT/attach" "$1" /etc/cni/net.d/pods.conflist /opt/cni/bin "pod$2" "$(netns "pod$2")" "$(mappings 8080)"; }

pod() {
    ip netns add "pod$1" && ip -n "pod$1" link set lo up && attach add "$1" >/dev/null || return 1
    nsenter --net="$(netns "pod$1")" "$BUILT/peer" serve "pod$1" 80 >/dev/null 2>&1 &
}

# converged: every node knows the way to the others' pods in both families
converged() {
    local n
    for n in "${numbers[@]}"; do
        [ "$(ip -n "node$n" route show proto bird | grep -c via)" = 2 ] && [ "$(ip -n "node$n" -6 route show proto bird | wc -l)" = 2 ] || return 1
    done
}

across() { # FAMILY
    local from to
    for from in "${numbers[@]}"; do
        for to in "${numbers[@]}"; do
            [ "$from" = "$to" ] || both "pod$from" "$(address "pod$to" "$1")" 80 "pod$to $(address "pod$from" "$1")" || return 1
        done
    done
}

# Any node's port by its own address, from a pod of another one.
ports() {
    local to
    for to in 2 3; do
        both pod1 "10.0.0.$to" 8080 "pod$to $(address pod1 4)" && both pod1 "2001:db8:1::$to" 8080 "pod$to $(address pod1 6)" || return 1
    done
}

leaves() {
    attach del 3 && ip netns del pod3 && ! ip -n node3 -o link | grep veth || return 1
    both pod1 "$(address pod2 4)" 80 "pod2 $(address pod1 4)"
}

node
cluster
for n in "${numbers[@]}"; do must pod "$n"; done
check "routes announced on all nodes" within 20 converged
check "pods of three nodes, IPv4" across 4
check "pods of three nodes, IPv6" across 6
check "host ports of other nodes" ports
check "a pod leaves" leaves
