# A node is added, drained and deleted.

section_nodes() {
    local begun ranges
    begun=$EPOCHREALTIME
    node_up 4
    check "a node added: Ready" within 90 node_is True 4
    measured "from its boot to Ready" "$(seconds_since "$begun")"
    mapfile -t ranges < <(ranges_of 4)
    check "the others have routes to its pods" within 30 routes_are "node1 node2 node3" "${ranges[@]}"
    pod a 1
    pod d 4
    check "its pods, in both directions" both_directions
    no_pods a d
    deployment drained 8
    available drained >/dev/null
    check "drained: its pods run elsewhere" drain 4 drained
    check "nothing of its pods is left on it" within 30 emptied
    on 4 "$here/service.sh" stop kubelet
    k delete node node4 >/dev/null
    check "deleted: the others' routes to it go" within 30 routes_are "" "${ranges[@]}"
    power_off 4
    k delete deployment drained >/dev/null
    within 60 none_of drained
}
routes_are() { is "$(routes_to "${@:2}" | xargs)" "$1"; }
both_directions() { answers a tcp "$(ip4 d)" 8080 "d $(ip4 a)" && answers d udp "$(ip6 a)" 8080 "a $(ip6 d)"; }
# drain N DEPLOYMENT
drain() {
    k drain "node$1" --ignore-daemonsets --force --delete-emptydir-data --timeout=90s && available "$2" &&
        ! facts "$2" | grep " node$1 "
}
emptied() { is "$(reserved 4)" "" && is "$(on 4 ip -o link show type veth | grep -v eth0)" ""; }
