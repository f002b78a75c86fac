# Host ports from each place in the table "Reach" of docs/portmap.md, with the addresses that the pod must see.

section_hostports() {
    local family protocol
    # The rules that all pods share, and that stay, come with the first host port.
    pod warm 1 8099 && no_pods warm
    remember 1
    pod published 1 8088
    pod limited 1 "8089, hostIP: 127.0.0.1" "8090, hostIP: $(node4 1)"
    pod near 1
    pod far 2
    for protocol in tcp udp; do
        for family in 4 6; do reach "$protocol" "$family"; done
        check "$protocol 127.0.0.1 from the node" answers node1 "$protocol" 127.0.0.1 8088 "published $(bridge_address 4)"
        check "$protocol ::1 from the node: no answer, as documented" silent node1 "$protocol" ::1 8088
        check "$protocol hostIP 127.0.0.1: from the node only" limited_to_loopback "$protocol"
        check "$protocol hostIP of the node: there only" limited_to_address "$protocol"
        check "$protocol packets for 127.0.0.1 sent to the node from outside: no answer" loopback_from_wire "$protocol"
    done
    no_pods published limited near far
    check "the ports are closed after the pods" closed
    check "node1 is as before" within 20 as_before 1
}
bridge_address() { # FAMILY
    on 1 ip -j "-$1" addr show cni0 scope global | jq -r '.[].addr_info[0].local'
}
# reach PROTOCOL FAMILY: the rows of the table
reach() {
    local node other bridge out far
    node=$("node$2" 1) other=$("node$2" 2) bridge=$(bridge_address "$2")
    out=$outside4
    [ "$2" = 4 ] || out=$outside6
    far=$("ip$2" far)
    check "$1 IPv$2 from outside: the client's address is seen" answers outside "$1" "$node" 8088 "published $out"
    check "$1 IPv$2 from another node: its address" answers node2 "$1" "$node" 8088 "published $other"
    check "$1 IPv$2 from a pod of another node: its address" answers far "$1" "$node" 8088 "published $far"
    check "$1 IPv$2 from a neighbour, at the node's address: the bridge's" answers near "$1" "$node" 8088 "published $bridge"
    check "$1 IPv$2 from a neighbour, at the bridge's address: the bridge's" answers near "$1" "$bridge" 8088 "published $bridge"
    check "$1 IPv$2 from the pod itself: the bridge's" answers published "$1" "$node" 8088 "published $bridge"
    check "$1 IPv$2 from the node, at its address: that address" answers node1 "$1" "$node" 8088 "published $node"
    check "$1 IPv$2 from the node, at the bridge's address: that address" answers node1 "$1" "$bridge" 8088 "published $bridge"
}
limited_to_loopback() {
    answers node1 "$1" 127.0.0.1 8089 "limited $(bridge_address 4)" && silent outside "$1" "$(node4 1)" 8089 &&
        silent near "$1" "$(bridge_address 4)" 8089 && silent node1 "$1" "$(node4 1)" 8089
}
limited_to_address() {
    answers outside "$1" "$(node4 1)" 8090 "limited $outside4" && answers node1 "$1" "$(node4 1)" 8090 "limited $(node4 1)" &&
        silent node1 "$1" 127.0.0.1 8090 && silent outside "$1" "$(node6 1)" 8090
}
# A host on the wire that sends packets for 127.0.0.1 to the node: they arrive there, and get no answer.
loopback_from_wire() {
    local bad=0 arrives
    on 1 timeout 10 tcpdump -qni eth0 -c1 dst host 127.0.0.1 and dst port 8088 >/dev/null 2>&1 &
    arrives=$!
    sleep 1
    in_control bash -c 'echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
        ip route add table 7 127.0.0.1/32 via "$0" src "$1"
        ip rule add pref 10 table local && ip rule add pref 5 to 127.0.0.1 dport 8088 table 7 && ip rule del pref 0' "$(node4 1)" "$control4"
    ! in_control "$PROBE" get "$1" 1 127.0.0.1:8088 || bad=1
    in_control bash -c 'ip rule add pref 0 table local; ip rule del pref 5; ip rule del pref 10; ip route flush table 7
        echo 0 >/proc/sys/net/ipv4/conf/eth0/route_localnet'
    wait $arrives || { echo "the packet didn't get to the node" && bad=1; }
    return $bad
}
closed() { silent outside tcp "$(node4 1)" 8088 && silent node1 tcp 127.0.0.1 8088 && silent outside tcp "$(node6 1)" 8088; }
