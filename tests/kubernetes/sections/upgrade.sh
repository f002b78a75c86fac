# The executables change under running pods: from the Go plugins to these, and back.

section_upgrade() {
    local n
    for n in 1 2; do pod "warm$n" "$n" 8099; done
    no_pods warm1 warm2
    plugins_are "$GO_PLUGINS"
    for n in 1 2; do pod "warm$n" "$n" 8099; done
    no_pods warm1 warm2
    for n in 1 2; do remember "$n"; done

    pod old 1 8088
    pod peer 2
    check "pods of the Go plugins" reachable old peer
    plugins_are "$PLUGINS"
    check "with these plugins installed they go on" reachable old peer
    pod later 1
    check "and a new pod reaches them" answers later tcp "$(ip4 old)" 8080 "old $(ip4 later)"
    no_pods old peer later
    for n in 1 2; do check "deleted by these plugins: node$n is as before" within 30 as_before "$n"; done

    pod new 1 8088
    pod peer 2
    plugins_are "$GO_PLUGINS"
    check "back to the Go plugins: pods go on" reachable new peer
    no_pods new peer
    # What these plugins hold in nftables is unknown to the Go plugins of this version.
    [ "$BACKEND" = iptables ] ||
        { plugins_are "$PLUGINS" && check "what the Go plugins leave in nftables is removed by GC" collect 1; }
    for n in 1 2; do check "deleted by the Go plugins: node$n is as before" within 30 as_before "$n"; done
    plugins_are "$PLUGINS"
}
# plugins_are DIR: on all nodes, each file replaced in one step
plugins_are() {
    local n
    for n in 1 2 3; do
        on "$n" bash -c 'for file in "$0"/{bridge,host-local,portmap,loopback}; do
            cp "$file" /opt/cni/bin/.new && mv /opt/cni/bin/.new "/opt/cni/bin/$(basename "$file")"; done' "$1"
    done
}
reachable() { # PUBLISHED PEER
    answers outside tcp "$(node4 1)" 8088 "$1 $outside4" && answers outside udp "$(node6 1)" 8088 "$1 $outside6" &&
        answers "$2" tcp "$(ip4 "$1")" 8080 "$1 $(ip4 "$2")" && answers "$1" udp "$(ip6 "$2")" 8080 "$2 $(ip6 "$1")"
}
# collect N: GC of the node's network, by its plugins; valid are the sandboxes that containerd knows
# shellcheck disable=SC2016 # the node's shell fills them in
collect() {
    on "$1" bash -c 'valid=$(ctr -n k8s.io containers ls "labels.\"io.cri-containerd.kind\"==sandbox" -q |
            jq -Rn "[inputs | {containerID: ., ifname: \"eth0\"}]")
        jq -c --argjson valid "$valid" ".name as \$name | .plugins[]
            | . + {name: \$name, cniVersion: \"1.1.0\", \"cni.dev/valid-attachments\": \$valid}" /etc/cni/net.d/10-pods.conflist |
        while read -r plugin; do
            CNI_COMMAND=GC CNI_PATH=/opt/cni/bin "/opt/cni/bin/$(jq -r .type <<<"$plugin")" <<<"$plugin" || exit 1
        done'
}
