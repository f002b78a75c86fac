# Components are restarted, gracefully and by SIGKILL, under sessions between pods.

section_restarts() {
    local what signal
    pod a 1
    pod b 2 8088
    service b b ClusterIP
    within 30 answers a tcp "$(service_address)" 80 'b *' >/dev/null
    for what in kubelet containerd kube-proxy; do
        for signal in TERM KILL; do
            check "$what restarted by SIG$signal: sessions go on" session_during restart "$what" "$signal"
            check "$what after SIG$signal: a pod starts and ends there" pod_comes_and_goes
        done
    done
    check "the agent's pod is deleted: sessions go on" session_during agent_again
    check "the new agent: a pod starts and ends there" pod_comes_and_goes
    check "no container was restarted" is "$(k get pods a b -o json | jq -c '[.items[].status.containerStatuses[0].restartCount]')" '[0,0]'
    no_pods a b
    k delete service b >/dev/null
}
service_address() { k get service b -o json | jq -r '.spec.clusterIPs[0]'; }
# restart WHAT SIGNAL: on node2
restart() { on 2 "$here/service.sh" stop "$1" "$2" && on 2 "$here/service.sh" start "$1"; }
agent_again() {
    local pod
    pod=$(agents --field-selector spec.nodeName=node2 -o name)
    k -n kube-system delete "$pod" --wait=true && agent_ready
}
# session_during COMMAND...: from a pod of node1 to the pod there, from a service's address, and from outside to its host port
session_during() {
    local job jobs=() bad=0
    probe a hold "$(target "$(ip4 b)" 8080)" 10 & jobs+=($!)
    probe a hold "$(target "$(ip6 b)" 8080)" 10 & jobs+=($!)
    probe a hold "$(target "$(service_address)" 80)" 10 & jobs+=($!)
    probe outside hold "$(node4 2):8088" 10 & jobs+=($!)
    sleep 1
    "$@" || bad=1
    for job in "${jobs[@]}"; do wait "$job" || bad=1; done
    return $bad
}
pod_comes_and_goes() { pod c 2 && answers a tcp "$(ip4 c)" 8080 "c $(ip4 a)" && no_pods c; }
