# Services, by kube-proxy in iptables mode, over the pods of `web`.

section_services() {
    local protocol
    k get deployment web >/dev/null 2>&1 || { deployment web 6 && available web >/dev/null; }
    service web web NodePort
    service headless web ClusterIP 'clusterIP: None'
    service local web NodePort 'externalTrafficPolicy: Local'
    within 30 all_answer node1 tcp >/dev/null || true
    for protocol in tcp udp; do
        check "ClusterIP, $protocol, from each pod, itself included; the pod's address is seen" cluster_ip_from_pods "$protocol"
        check "ClusterIP, $protocol, from each node" cluster_ip_from_nodes "$protocol"
        check "NodePort, $protocol, of each node, from outside" node_ports_from outside "$protocol" web
    done
    check "ClusterIP: all six pods answer" all_answer
    check "NodePort from pods" node_ports_from_pods
    check "NodePort from nodes, 127.0.0.1 too" node_ports_from_nodes
    check "NodePort with externalTrafficPolicy Local: the client's address is seen" local_policy
    check "the same where no pod of the service is: no answer" local_policy_without_pod
    check "headless: the slices have the pods' addresses of both families" slices
}
# all_answer PLACE PROTOCOL: the service's addresses answer
all_answer() {
    local vip
    for vip in $(k get service web -o json | jq -r '.spec.clusterIPs[]'); do answers "$1" "$2" "$vip" 80 'web-*' || return 1; done
}
node_port() { # SERVICE PROTOCOL
    k get service "$1" -o json | jq -r --arg p "$2" '.spec.ports[] | select(.name == $p).nodePort'
}
# cluster_ip_from PLACE PROTOCOL IPV4 IPV6: ten times each family
cluster_ip_from() {
    local vip own said
    for vip in $(k get service web -o json | jq -r '.spec.clusterIPs[]'); do
        own=$3
        [[ $vip != *:* ]] || own=$4
        vip=$(target "$vip" 80)
        said=$(probe "$1" get "$2" 3 "$vip"{,,,,,,,,,}) || { echo "$1: $said" && return 1; }
        # To itself a pod comes with the address of the bridge: the reply must pass the node.
        [ -z "$own" ] || ! grep -v " $1 " <<<"$said" | grep -v " $own$" || return 1
    done
}
cluster_ip_from_pods() {
    local name own4 own6
    while read -r name _ own4 own6; do cluster_ip_from "$name" "$1" "$own4" "$own6" || return 1; done < <(facts web)
}
cluster_ip_from_nodes() {
    local n
    for n in 1 2 3; do cluster_ip_from "node$n" "$1" '' '' || return 1; done
}
all_answer() {
    local vip
    vip=$(target "$(k get service web -o json | jq -r '.spec.clusterIPs[0]')" 80)
    # shellcheck disable=SC2046 # sixty targets
    is "$(probe node1 get tcp 3 $(yes "$vip" | head -60) | cut -d' ' -f2 | sort -u | xargs)" "$(pods_of web | sort | xargs)"
}
# node_ports_from PLACE PROTOCOL SERVICE
node_ports_from() {
    local n port targets=()
    port=$(node_port "$3" "$2")
    for n in 1 2 3; do targets+=("$(node4 "$n"):$port" "[$(node6 "$n")]:$port"); done
    probe "$1" get "$2" 3 "${targets[@]}" "${targets[@]}" "${targets[@]}"
}
node_ports_from_pods() {
    local name
    for name in $(pods_of web); do node_ports_from "$name" tcp web || return 1; done
}
node_ports_from_nodes() {
    local n
    for n in 1 2 3; do
        node_ports_from "node$n" tcp web && answers "node$n" tcp 127.0.0.1 "$(node_port web tcp)" 'web-*' || return 1
    done
}
local_policy() {
    local n
    for n in 1 2 3; do
        answers outside tcp "$(node4 "$n")" "$(node_port local tcp)" "web-* $outside4" &&
            answers outside tcp "$(node6 "$n")" "$(node_port local tcp)" "web-* $outside6" || return 1
    done
}
local_policy_without_pod() {
    local bad=0
    pod single 1
    service single single NodePort 'externalTrafficPolicy: Local'
    within 20 answers outside tcp "$(node4 1)" "$(node_port single tcp)" "single $outside4" &&
        silent outside tcp "$(node4 2)" "$(node_port single tcp)" && silent outside tcp "$(node6 2)" "$(node_port single tcp)" || bad=1
    k delete service single >/dev/null
    no_pods single
    return $bad
}
slices() {
    is "$(k get endpointslices -l kubernetes.io/service-name=headless -o json | jq -r '.items[].endpoints[].addresses[]' | sort)" \
        "$(facts web | cut -d' ' -f3,4 | tr ' ' '\n' | sort)"
}
