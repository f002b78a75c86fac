# Pods and the world: with their own addresses where the router knows their ranges, else masqueraded.

section_egress() {
    pod inner 1
    pod far 2
    outside bash -c 'setsid "$0" serve 7000 >/dev/null 2>&1 </dev/null & echo $! >"$1/outside.pid"' "$PROBE" "$WORK"
    check "the router doesn't know the pods: no answer from outside" unknown
    router_knows 1 add
    check "it knows them: the pod's addresses are seen outside" egress "$(ip4 inner)" "$(ip6 inner)"
    check "and the pod is reached from outside" ingress
    router_knows 1 del
    check "another image, with ipMasq, is rolled out" image masq
    no_pods inner
    pod inner 1 8088
    check "ipMasq: the node's addresses are seen outside" egress "$(node4 1)" "$(node6 1)"
    check "ipMasq: pods of other nodes see the node's address" masqueraded_across
    check "ipMasq: a host port, from outside, a neighbour node, another node's pod and itself" published
    no_pods inner far
    check "the first image again" image 0.1.0
    kill "$(<"$WORK/outside.pid")"
}
unknown() { silent inner tcp "$outside4" 7000 && silent inner udp "$outside6" 7000; }
# router_knows N add|del
router_knows() {
    local range
    for range in $(ranges_of "$1"); do
        case $range in *:*) ip -6 route "$2" "$range" via "$(node6 "$1")" ;; *) ip route "$2" "$range" via "$(node4 "$1")" ;; esac
    done
}
egress() { # SOURCE4 SOURCE6
    local protocol
    for protocol in tcp udp; do
        answers inner "$protocol" "$outside4" 7000 "* $1" && answers inner "$protocol" "$outside6" 7000 "* $2" || return 1
    done
}
ingress() { answers outside tcp "$(ip4 inner)" 8080 "inner $outside4" && answers outside udp "$(ip6 inner)" 8080 "inner $outside6"; }
# image TAG: rolled out to the agents
image() { k -n kube-system set image daemonset/cni-plugins-rust "agent=cni-plugins-rust:$1" && agent_ready; }
masqueraded_across() {
    answers inner tcp "$(ip4 far)" 8080 "far $(node4 1)" && answers inner udp "$(ip6 far)" 8080 "far $(node6 1)"
}
published() {
    answers outside tcp "$(node4 1)" 8088 "inner $outside4" && answers outside udp "$(node6 1)" 8088 "inner $outside6" &&
        answers node2 tcp "$(node4 1)" 8088 "inner $(node4 2)" && answers far tcp "$(node6 1)" 8088 'inner *' &&
        answers inner tcp "$(node4 1)" 8088 'inner *' && answers inner udp "$(node6 1)" 8088 'inner *'
}
