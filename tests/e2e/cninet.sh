#!/usr/bin/env bash
# The operator's command on a node with two runtimes, Podman and containerd's CRI, and a program on libcni.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/containerd.sh"
. "$(dirname "$0")/libpod.sh"

image=docker.io/library/peer:1
cninet() { /opt/cni/bin/cninet "$@"; }
netns() { cat "$work/$1.netns"; }

# podman_run NAME PORT, pod_run NAME PORT: a container of either runtime that serves on 80
podman_run() {
    podman run -d --name "$1" --network podman -p "$2:80/tcp" -p "$2:80/udp" "$image" /bin/peer serve "$1" 80 >/dev/null &&
        podman inspect -f '{{.NetworkSettings.SandboxKey}}' "$1" >"$work/$1.netns" &&
        podman inspect -f '{{.Id}}' "$1" >"$work/$1.id" && within 20 ask "$1" tcp 127.0.0.1 80
}
pod_run() {
    kubelet run "$1" "$2" && kubelet netns "$1" >"$work/$1.netns" && within 20 ask "$1" tcp 127.0.0.1 80 || return 1
    # /var/run or /run.
    cninet ps --network pods --json | jq -er --arg netns "$(basename "$(netns "$1")")" '.[] | select(.namespace | endswith($netns)) | .containerId' >"$work/$1.id" || { cninet ps --no-trunc && netns "$1" && ls /var/lib/cni/results && return 1; }
}
id() { cat "$work/$1.id"; }

# row CONTAINER FIELD: of ps, for the container's first network
row() { cninet ps --container "$(id "$1")" --json | jq -r ".[0].$2"; }

listed() {
    is "$(row web network) $(row web state) $(row web ifName)" "podman running eth0" &&
        is "$(row pod network) $(row pod state)" "pods running" &&
        is "$(row web 'addresses[0]')" "$(address web 4)/24" && is "$(row pod 'addresses[0]')" "$(address pod 4)/24" &&
        is "$(cninet ps --port 8081 --json | jq -r '.[].containerId')" "$(id web)" &&
        is "$(cninet ps --ip "$(address pod 4)" --json | jq -r '.[].containerId')" "$(id pod)" &&
        is "$(cninet ls --json | jq -c '[.[] | [.name, .attachments]]')" '[["pods",2],["podman",2],["second",0]]'
}
no_leaks() { is "$(cninet leaks --unrecorded --json)" '[]'; }

# Both get a second network and reach each other there, and lose it again.
connect_both() {
    for one in web pod; do cninet connect second "$(id "$one")" --json || return 1; done
    at web ping -q -n -c1 -w10 "$(cninet ps --network second --container "$(id pod)" --json | jq -r '.[0].addresses[0] | split("/")[0]')" &&
        reached web 8081 outside && reached pod 8083 outside
}
disconnect_both() {
    for one in web pod; do
        cninet disconnect second "$(id "$one")" || return 1
        ! at "$one" ip link show eth1 2>/dev/null || { echo "eth1 is still there" && return 1; }
    done
    is "$(cninet ps --network second --json)" '[]' && no_leaks && reached web 8081 outside && reached pod 8083 outside
}

flush() {
    local tool
    [ "${BACKEND:-nftables}" = iptables ] || { nft flush ruleset && return; }
    for tool in iptables ip6tables; do "$tool" -F && "$tool" -t nat -F || return 1; done
}
reloaded() {
    flush || return 1
    cninet reload && reached web 8081 outside && reached pod 8083 outside && masqueraded web && masqueraded pod &&
        is "$(cninet reload | tail -1)" "0 repaired, 4 were whole"
}

# The runtimes and their monitors are killed, containers with them; their namespaces are unmounted, as at a crash of the node's services.
killed() {
    local name pid path
    pkill -KILL -x containerd || true
    for name in web2 pod2; do
        path=$(netns "$name")
        # Every process in the namespace, then its mount.
        for pid in $(ip netns pids "$(basename "$path")"); do kill -KILL "$pid"; done
        umount -l "$path" 2>/dev/null || true
        rm -f "$path"
    done
    within 20 gone
}
gone() { is "$(cninet leaks --json | jq -r '[.[].containerId] | unique | sort | join(" ")')" "$(sort "$work"/{web2,pod2}.id | paste -sd' ')"; }

# Each of the two, with address, cache and rules, and nothing else.
named() {
    local name
    for name in web2 pod2; do
        is "$(cninet leaks --json | jq -r --arg id "$(id $name)" '[.[] | select(.containerId == $id).kind] | unique | map(select(. != "link" and . != "backup")) | join(" ")')" "address cache rules" || return 1
    done
    gone
}
collected() {
    cninet gc --dry-run && named && cninet gc && no_leaks || return 1
    ! nft -s list ruleset 2>/dev/null | grep -e "$(id web2)" -e "$(id pod2)"
}
others_go_on() { reached web 8081 outside && reached pod 8083 outside && masqueraded web; }

# --- one cache with Go's libcni ----------------------------------------------------------------------------------------

# go VERB NAME
go() { "$BUILT/attach" "$1" /etc/cni/net.d/podman.conflist /opt/cni/bin "$2" "/run/netns/$2"; }
rust() { cninet "$1" podman "/run/netns/$2" --id "$2"; }

# passed ADDS DELETES NUMBER: one implementation adds, both check, the other one deletes
passed() {
    local name=x$1$3
    ip netns add "$name" && "$1" add "$name" >/dev/null && go check "$name" && rust check "$name" && "$2" del "$name" &&
        [ ! -e "/var/lib/cni/results/podman-$name-eth0" ] && "$1" del "$name" && ip netns del "$name"
}
either() { if [ $(($1 % 2)) = 0 ]; then passed go rust "$1"; else passed rust go "$1"; fi; }
concurrently() { in_parallel either && no_leaks; }

sorted() { while read -r line; do case $line in {*) jq -cS . <<<"$line" ;; *) echo "$line" ;; esac; done <"$1"; }
# Plugins that write down how they are called get the same of both.
same_calls() {
    local caller verb dir=$work/recorded
    mkdir -p "$dir/bin" "$dir/net.d"
    cp "$here/../../crates/cni-runtime/tests/recorded/plugin.sh" "$dir/bin/first" && cp "$dir/bin/first" "$dir/bin/second"
    for list in "$here"/../../crates/cni-runtime/tests/recorded/v{0.3.1,0.4.0,1.0.0}.conflist; do
        # Debian's libcni is of a time before these keys, and drops them.
        jq 'walk(if type == "object" then del(.mtu, .priority, .table, .scope) else . end)' "$list" >"$dir/net.d/n.conflist"
        for caller in go rust; do
            for verb in add check del; do
                export RECORD=$dir/$caller
                if [ $caller = go ]; then
                    "$BUILT/attach" $verb "$dir/net.d/n.conflist" "$dir/bin" c1 /run/netns/none "$(mappings 80)" || true
                else
                    CAP_ARGS="{\"portMappings\":$(mappings 80)}" CNI_PATH=$dir/bin NETCONFPATH=$dir/net.d cninet $verb "$(jq -r .name "$list")" /run/netns/none --id c1 || true
                fi
            done
        done >/dev/null 2>&1
    done
    # Since 1.2 libcni sorts the keys of results.
    diff <(sorted "$dir/go") <(sorted "$dir/rust") && [ "$(grep -c ' ADD$' "$dir/rust")" = 6 ]
}

node
version=1.0.0
conflist podman cni0 91 | jq '.plugins += [{type: "firewall"}]' >/etc/cni/net.d/podman.conflist
conflist pods cni1 92 >/etc/cni/net.d/10-pods.conflist
# A second network must not take the first one's default route.
conflist second cni2 93 | jq '.plugins[0] |= (del(.isDefaultGateway) | .isGateway = true)' >/etc/cni/net.d/second.conflist
libpod_up
must podman load -q -i "$BUILT/peer.tar"
cri_up

check "calls as Go's libcni makes them" same_calls
must podman_run web 8081
must podman_run web2 8082
must pod_run pod 8083
must pod_run pod2 8084
check "both runtimes' containers are listed" listed
check "no leaks" no_leaks
check "connect a second network" connect_both
check "disconnect it" disconnect_both
check "reload after the rules were flushed" reloaded
check "killed with kill -9: leaks are named" killed
check "each leak, and nothing else" named
check "gc removes them" collected
check "the others go on" others_go_on
check "Go adds, cninet deletes, and back, at once" concurrently
