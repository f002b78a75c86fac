# GC removes what a node holds for pods that died without a DEL, together with all that the runtime knew of them.

section_gc() {
    pod warm 3 8099 && no_pods warm
    scale_away web
    remember 3
    pod lost 3 8088
    pod gone 3
    k delete pod lost gone --wait=false >/dev/null
    lose_runtime 3
    check "the runtime has lost its pods: reservations and rules are left" not as_before 3
    # What is younger than ten seconds may belong to an ADD that runs.
    check "cninet leaks names what is left of both" within 20 leaks_named 3 2
    check "cninet gc --all removes it" on 3 /opt/cni/bin/cninet gc --all
    check "node3 is as before" within 10 as_before 3
    on 3 "$here/service.sh" start containerd
    check "containerd is back, and knows nothing: its GC changes nothing more" collect 3
    check "node3 is as before still" within 10 as_before 3
    on 3 "$here/service.sh" start kubelet
    check "the node is Ready again" within 60 node_is True 3
    # Until the kubelet has removed them, they have the port.
    k wait --for=delete pod/lost pod/gone --timeout=90s >/dev/null || true
    pod again 3 8088
    check "a pod there with the same host port" answers outside tcp "$(node4 3)" 8088 "again $outside4"
    check "its reservations are those of its pods" within 30 only_pods_reserved 3
    no_pods again
    within 60 agent_ready >/dev/null
}
# leaks_named N PODS: reservations and rules of so many pods, whose namespaces are gone
leaks_named() {
    local found
    found=$(on "$1" /opt/cni/bin/cninet leaks --json)
    is "$(jq -r '.[].containerId' <<<"$found" | sort -u | wc -l)" "$2" &&
        is "$(jq -r '.[].kind' <<<"$found" | sort -u | xargs)" "address rules"
}
scale_away() { ! k get deployment "$1" >/dev/null 2>&1 || scale "$1" 0; }
# lose_runtime N: kubelet and containerd are killed, the pods too, and what both knew is lost
lose_runtime() {
    on "$1" "$here/service.sh" stop kubelet KILL
    on "$1" "$here/service.sh" stop containerd KILL
    # shellcheck disable=SC2016 # the node's shell fills them in
    on "$1" bash -c '# The brackets keep the patterns from this command line itself.
        pkill -KILL -f "[c]ontainerd-shim"; pkill -KILL -x probe; pkill -KILL -f "[/]cni/agent.sh"; sleep 0.5
        for name in $(ls /run/netns); do umount "/run/netns/$name"; rm "/run/netns/$name"; done
        awk "\$2 ~ /^\/(run\/containerd|var\/lib\/kubelet)\// { print \$2 }" /proc/self/mounts | sort -r | xargs -r umount -l
        rm -rf /run/containerd /var/lib/containerd/* /var/lib/kubelet/pods /var/lib/cni/results'
}
