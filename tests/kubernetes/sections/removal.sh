# The network is removed from a node by remove.yaml, without a checkout there, and comes back.

section_removal() {
    pod published 3 8088 && no_pods published
    k drain node3 --ignore-daemonsets --force --delete-emptydir-data --timeout=90s >/dev/null
    k label node node3 cni-plugins-rust=remove >/dev/null
    check "remove.yaml on a drained and labelled node" removed
    check "the node is as before the DaemonSet" within 20 as_new
    check "and not Ready" within 60 node_is False 3
    check "the other nodes have kept their network" other_nodes
    k -n kube-system delete daemonset cni-plugins-rust-remove --wait=true >/dev/null
    k label node node3 cni-plugins-rust- >/dev/null
    k uncordon node3 >/dev/null
    check "without the label: Ready again" within 60 node_is True 3
    check "and a pod with a host port" published_again
    no_pods published
}
removed() {
    k apply -f "$here/../../hack/kubernetes/remove.yaml" &&
        k -n kube-system rollout status daemonset/cni-plugins-rust-remove --timeout=60s && within 20 remover_done
}
remover_done() {
    [[ $(k -n kube-system logs -l app.kubernetes.io/name=cni-plugins-rust-remove -c remove --tail=3) = *removed ]]
}
as_new() {
    diff <(grep -v '^fe80' "$WORK/new3") <(state 3) && is "$(on 3 ls -A /opt/cni/bin /etc/cni/net.d)" "$(printf '/etc/cni/net.d:\n\n/opt/cni/bin:')"
}
other_nodes() { is "$(on 1 ls /etc/cni/net.d)" 10-pods.conflist && on 1 test -x /opt/cni/bin/bridge; }
published_again() { pod published 3 8088 && answers outside tcp "$(node4 3)" 8088 "published $outside4"; }
