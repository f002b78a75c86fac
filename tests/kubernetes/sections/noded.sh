# cni-noded keeps the network in the place of the agent, and the agent takes it back.

section_noded() {
    pod a 1
    pod b 2
    for n in 1 2 3; do on "$n" ip route show proto 115; done >"$WORK/routes.before"
    check "cni-noded in the agent's place: sessions go on" session_to_b noded_instead
    check "the routes are the same" same_routes
    check "each node has a range of each family, and its network has them" ranges
    on 2 sh -c 'ip route flush proto 115; ip -6 route flush proto 115'
    check "routes deleted by hand come back" within 5 routes
    on 2 rm /etc/cni/net.d/10-pods.conflist
    check "the network's file is written again" within 20 on 2 test -e /etc/cni/net.d/10-pods.conflist
    check "cni-noded is killed: sessions go on, and it is back" session_to_b noded_killed
    mapfile -t of_third < <(ranges_of 3)
    on 3 "$here/service.sh" stop kubelet
    k delete node node3 >/dev/null
    check "a node is deleted: the others' routes to it go" within 30 routes_are "" "${of_third[@]}"
    on 3 "$here/service.sh" start kubelet
    check "it is back: routes to its ranges" within 120 routes
    check "its pods are ready" noded_ready
    k delete -f "$here/../../hack/kubernetes/noded.yaml" --wait=true >/dev/null
    check "without it pods go on, come and go" pods_without_agent
    check "the agent takes over: sessions go on" session_to_b rolled_out
    check "and its routes are there" routes
    no_pods a b
}
noded_pods() { k -n kube-system get pods -l app.kubernetes.io/name=cni-noded "$@"; }
noded_ready() { k -n kube-system rollout status daemonset/cni-noded --timeout=120s; }
noded_instead() {
    k -n kube-system delete daemonset cni-plugins-rust --wait=true && within 60 no_agents &&
        k apply -f "$here/../../hack/kubernetes/noded.yaml" && noded_ready
}
noded_killed() {
    on 2 pkill -KILL -x cni-noded && sleep 1 && within 60 noded_ready
}
same_routes() { is "$(for n in 1 2 3; do on "$n" ip route show proto 115; done)" "$(<"$WORK/routes.before")"; }
# session_to_b COMMAND...: between pods of two nodes, both families
session_to_b() {
    local job jobs=() bad=0
    probe a hold "$(target "$(ip4 b)" 8080)" 20 & jobs+=($!)
    probe a hold "$(target "$(ip6 b)" 8080)" 20 & jobs+=($!)
    sleep 1
    "$@" || bad=1
    for job in "${jobs[@]}"; do wait "$job" || bad=1; done
    return $bad
}
