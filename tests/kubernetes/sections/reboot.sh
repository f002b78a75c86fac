# A node loses its power and boots again: its pods come back, and nothing of their former runs is left.

section_reboot() {
    local begun
    k get deployment web >/dev/null 2>&1 || deployment web 6
    scale web 6
    pod a 1
    pod published 2 8088
    on 2 find /var/lib/cni/networks/pods -type f >"$WORK/reserved"
    begun=$EPOCHREALTIME
    power_off 2
    node_up 2
    check "its pods run again" within 120 restarted
    measured "from the power cut to all pods running" "$(seconds_since "$begun")"
    check "its reservations are those of its pods" within 60 only_pods_reserved 2
    check "the host port" within 30 answers outside tcp "$(node4 2)" 8088 "published $outside4"
    check "its pods are reached from another node" within 30 reached
    no_pods a published
}
restarted() {
    is "$(k get pods -o json | jq '[.items[] | select(.spec.nodeName == "node2") | .status.containerStatuses[0] | select(.ready and .restartCount > 0)] | length')" 3
}
# only_pods_reserved N: what host-local has given away on node N are the addresses of its running pods
only_pods_reserved() {
    is "$(reserved "$1" | sort | xargs)" "$(k get pods -A -o json | jq -r --arg node "node$1" \
        '.items[] | select(.spec.nodeName == $node and (.spec.hostNetwork | not)) | .status.podIPs[].ip' | sort | xargs)"
}
reached() {
    local name at4 at6
    while read -r name _ at4 at6; do
        answers a tcp "$at4" 8080 "$name $(ip4 a)" && answers a udp "$at6" 8080 "$name $(ip6 a)" || return 1
    done < <(facts web)
}
