# The DaemonSet makes nodes without a network Ready.

section_ready() {
    local begun n
    for n in 1 2 3; do state "$n" >"$WORK/new$n"; done
    check "without the DaemonSet no node is Ready" nothing_ready
    begun=$EPOCHREALTIME
    check "the DaemonSet is applied and rolled out" rolled_out
    check "all nodes are Ready" within 60 all_ready
    measured "from apply to Ready" "$(seconds_since "$begun")"
    check "each node has a range of each family, and its network has them" ranges
    check "each node has a route to each other node's ranges" routes
    check "the agents have said nothing on stderr, but where kube-proxy served later" quiet
}
nothing_ready() { is "$(for n in 1 2 3; do node_status "$n"; done | sort -u)" False; }
rolled_out() { k apply -f "$here/../../hack/kubernetes/daemonset.yaml" && agent_ready; }
ranges() {
    local n
    for n in 1 2 3; do
        is "$(on "$n" jq -r '.plugins[0].ipam.ranges[][].subnet' /etc/cni/net.d/10-pods.conflist)" "$(ranges_of "$n")" || return 1
        is "$(ranges_of "$n" | wc -l)" 2 || return 1
    done
}
# routes_to RANGE...: the nodes that have an agent's route to them all
routes_to() {
    local n range
    for n in 1 2 3; do
        for range in "$@"; do
            [ -n "$(on "$n" ip -4 route show proto 115 "$range" 2>/dev/null)$(on "$n" ip -6 route show proto 115 "$range" 2>/dev/null)" ] || continue 2
        done
        echo "node$n"
    done
}
routes() {
    local n
    for n in 1 2 3; do
        # shellcheck disable=SC2046 # two ranges
        is "$(routes_to $(ranges_of "$n") | paste -sd' ')" "$(printf 'node%s\n' 1 2 3 | grep -v "$n" | paste -sd' ')" || return 1
    done
}
quiet() {
    local log
    log=$(agents -o name | while read -r agent; do k -n kube-system logs "$agent"; done | grep -v -e 'executables installed' -e 'Failed to connect to' || true)
    is "$log" ""
}
