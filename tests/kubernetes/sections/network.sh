# The node's network goes away and comes back.

section_network() {
    pod a 1
    pod b 2
    on 2 rm /etc/cni/net.d/10-pods.conflist
    check "the network is deleted: the agent writes it again" within 20 on 2 test -e /etc/cni/net.d/10-pods.conflist
    check "and the node is Ready" within 60 node_is True 2
    k -n kube-system delete daemonset cni-plugins-rust --wait=true >/dev/null
    within 60 no_agents
    check "the DaemonSet is deleted: pods go on, come and go" pods_without_agent
    on 2 mv /etc/cni/net.d/10-pods.conflist /etc/cni/net.d/10-pods.away
    check "the network is away: the node is not Ready" within 60 node_is False 2
    on 2 mv /etc/cni/net.d/10-pods.away /etc/cni/net.d/10-pods.conflist
    check "it is back: the node is Ready" within 60 node_is True 2
    check "the DaemonSet is back" rolled_out
    no_pods a b
}
no_agents() { is "$(agents -o name)" ""; }
pods_without_agent() {
    answers a tcp "$(ip4 b)" 8080 "b $(ip4 a)" && pod c 2 && answers a tcp "$(ip4 c)" 8080 "c $(ip4 a)" && no_pods c
}
