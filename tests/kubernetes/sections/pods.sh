# Pods reach each other, the nodes and themselves with their own addresses.

section_pods() {
    local protocol family
    deployment web 6
    check "six pods, on all nodes" spread
    # IPv6 first: on bridges that are seconds old nothing may still wait for duplicate address detection.
    for protocol in tcp udp; do
        for family in 6 4; do check "each pod reaches each: $protocol, IPv$family; it sees the pod's address" mesh "$protocol" "$family"; done
    done
    for family in 4 6; do check "each node reaches each pod, IPv$family; from another node with the node's address" nodes_to_pods "$family"; done
    for family in 4 6; do check "each pod reaches each node, IPv$family; it sees the pod's address" pods_to_nodes "$family"; done
    check "each pod reaches itself at 127.0.0.1 and ::1" loopback
}
spread() { available web && is "$(facts web | cut -d' ' -f2 | sort | uniq -c | xargs)" "2 node1 2 node2 2 node3"; }
mesh() { # PROTOCOL FAMILY
    local all name address
    all=$(facts web | cut -d' ' "-f1,$(($2 / 2 + 1))")
    while read -r name address; do
        answers_all "$name" "$1" "$(while read -r to at; do echo "$(target "$at" 8080) $to $address"; done <<<"$all")" || return 1
    done <<<"$all"
}
nodes_to_pods() { # FAMILY
    local all n
    all=$(facts web)
    for n in 1 2 3; do
        answers_all "node$n" tcp "$(while read -r to on at4 at6; do
            at=$at4 own=$(node4 "$n") bridge=$(on "$n" ip -j -4 addr show cni0 | jq -r '.[].addr_info[0].local')
            [ "$1" = 4 ] || { at=$at6 own=$(node6 "$n") bridge=$(on "$n" ip -j -6 addr show cni0 scope global | jq -r '.[].addr_info[0].local'); }
            [ "$on" != "node$n" ] || own=$bridge
            echo "$(target "$at" 8080) $to $own"
        done <<<"$all")" || return 1
    done
}
# serve_on_nodes / serve_no_more: a server of the node itself
serve_on_nodes() { for n in 1 2 3; do on "$n" bash -c 'setsid "$0" serve 9000 >/dev/null 2>&1 </dev/null & echo $! >/run/server.pid' "$PROBE"; done; }
serve_no_more() { for n in 1 2 3; do on "$n" bash -c 'kill "$(</run/server.pid)"'; done; }
pods_to_nodes() { # FAMILY
    local name own4 own6 own bad=0
    serve_on_nodes
    while read -r name _ own4 own6; do
        own=$own4
        [ "$1" = 4 ] || own=$own6
        answers_all "$name" tcp "$(for n in 1 2 3; do echo "$(target "$("node$1" "$n")" 9000) node$n $own"; done)" || bad=1
    done < <(facts web)
    serve_no_more
    return $bad
}
loopback() {
    local name
    for name in $(pods_of web); do
        answers_all "$name" tcp "127.0.0.1:8080 $name 127.0.0.1
[::1]:8080 $name ::1" || return 1
    done
}
