#!/usr/bin/env bash
# Podman 4 with its CNI backend.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/libpod.sh"

image=docker.io/library/peer:1

netns() { cat "$work/$1.netns"; }

# run NAME OPTION...: a container that serves on 80
run() {
    podman run -d --name "$1" "${@:2}" "$image" /bin/peer serve "$1" 80 >/dev/null &&
        podman inspect -f '{{.NetworkSettings.SandboxKey}}' "$1" >"$work/$1.netns" &&
        within 20 ask "$1" tcp 127.0.0.1 80
}
start() { run "$1" --network "${network:-e2e}" -p "$2:80/tcp" -p "$2:80/udp"; }
stop() { podman rm -f -t 0 "$1"; }

# --- what only Podman does -------------------------------------------------------------------------------------------

connect() {
    podman network connect second one && pings one "$(address other 4)" &&
        is "$(at one ip -4 -o addr show dev eth1 | wc -l)" 1 && reached one 8081 outside
}
disconnect() {
    podman network disconnect second one &&
        { ! at one ip link show eth1 2>/dev/null || { echo "eth1 is still there" && return 1; }; } &&
        reached one 8081 outside
}

# A restart of the firewall wipes every rule; a reload brings those of the containers back.
reload() {
    local address
    address=$(address one 4)
    nft flush ruleset
    podman network reload --all >/dev/null || return 1
    is "$(address one 4)" "$address" && every outside one 8081 two 8082 && masqueraded one
}

pod() {
    podman pod create --name pod --network e2e -p 8083:80/tcp -p 8083:80/udp -p 8084:81/tcp >/dev/null &&
        podman run -d --name in-pod --pod pod "$image" /bin/peer serve in-pod 80 &&
        podman run -d --name also-in-pod --pod pod "$image" /bin/peer serve also 81 &&
        within 20 both outside "$node4" 8083 "in-pod *" && both outside "$node6" 8083 "in-pod *" &&
        sees outside tcp "$node4" 8084 "also $world4"
}
pod_end() { podman pod rm -f -t 0 pod && closed 8083 8084 && nothing_left; }

requested() {
    run fixed --network "e2e:ip=10.73.0.77,mac=02:00:00:00:00:77" &&
        is "$(address fixed 4)" 10.73.0.77 && is "$(at fixed ip -j link show eth0 | jq -r '.[0].address')" 02:00:00:00:00:77
}

restarted() {
    podman restart -t 0 one >/dev/null && podman inspect -f '{{.NetworkSettings.SandboxKey}}' one >"$work/one.netns" &&
        within 20 reached one 8081 outside
}

# The port is held by one: the second container must not start, and must leave nothing.
port_taken() {
    ! run taken --network e2e -p 8081:80 2>"$work/taken" || { echo "it started" && return 1; }
    podman rm -f -t 0 taken >/dev/null
    reached one 8081 outside
}

host_ip() {
    run bound --network e2e -p "$node4:8085:80/tcp" && sees outside tcp "$node4" 8085 "bound $world4" &&
        { ! ask node tcp 127.0.0.1 8085 2>/dev/null || { echo "127.0.0.1 answers too" && return 1; }; }
}

two_networks() {
    run both --network e2e --network second -p 8086:80/tcp && sees outside tcp "$node4" 8086 "both $world4" &&
        is "$(at both ip -4 -o addr show scope global | wc -l)" 2 && stop both
}

with_capabilities() { jq '.plugins[0].capabilities = {ips: true, mac: true}'; }

# --- networks that Podman writes itself: bridge, portmap, firewall and tuning at 0.4.0 -------------------------------

created() {
    podman network create --ipv6 --subnet 10.79.0.0/24 --subnet fd00:79::/64 own >/dev/null &&
        run owned --network own -p 8087:80/tcp -p 8087:80/udp && reached owned 8087 127.0.0.1 && reached owned 8087 host &&
        reached owned 8087 outside && masqueraded owned
}

# The default policy of many a node: a container's ways out and its published ports work, what nobody asked for doesn't.
forward_drop() {
    local tool result=0
    for tool in iptables ip6tables; do "$tool" -P FORWARD DROP; done
    at outside ip route add 10.79.0.0/24 via "$node4"
    masqueraded owned && reached owned 8087 outside || result=1
    ! ask outside tcp "$(address owned 4)" 80 2>/dev/null || { echo "it is reached unasked" && result=1; }
    at outside ip route del 10.79.0.0/24
    for tool in iptables ip6tables; do "$tool" -P FORWARD ACCEPT; done
    return $result
}

created_with_mac() {
    run mac --network own --mac-address 02:00:00:00:00:79 &&
        is "$(at mac ip -j link show eth0 | jq -r '.[0].address')" 02:00:00:00:00:79 && stop mac
}

# Podman writes dnsname itself where it finds it, and its resolv.conf of the result; the program in the container asks the name.
created_names() {
    grep -q '"dnsname"' /etc/cni/net.d/*own* || { echo "the network has no dnsname" && return 1; }
    run second-owned --network own --network-alias db || return 1
    local name
    for name in second-owned db db.dns.podman db.own; do
        podman exec owned /bin/peer ask tcp "$name:80" | grep -q '^second-owned ' || { echo "$name is not found" && return 1; }
    done
    podman exec second-owned /bin/peer ask tcp owned:80 | grep -q '^owned ' && stop second-owned &&
        { ! podman exec owned /bin/peer ask tcp db:80 2>/dev/null || { echo "db is still found" && return 1; }; }
}

# internal: no way out, by Podman's own configuration without a gateway's route
internal() {
    podman network create --internal --subnet 10.80.0.0/24 inner >/dev/null && run inside --network inner &&
        run beside --network inner && pings beside "$(address inside 4)" && { ! masqueraded inside 2>/dev/null || { echo "it gets out" && return 1; }; } &&
        stop inside && stop beside && podman network rm inner
}

created_gone() {
    stop owned && podman network rm own >/dev/null && closed 8087 &&
        { ! state | grep -F -e 10.79.0 -e fd00:79: | grep -v ' cni-podman'; }
}

by_podman() {
    check "network create" created
    check "network create: FORWARD policy DROP" forward_drop
    if has_names; then check "network create: names and --network-alias" created_names; fi
    check "network create: requested MAC" created_with_mac
    check "network create --internal" internal
    check "network rm: nothing left" created_gone
}

node
libpod_up
conflist e2e cni0 73 | with_capabilities >/etc/cni/net.d/e2e.conflist
# Only one network has the default route: with two of them, answers to datagrams leave by the wrong one.
conflist second cni1 74 | with_capabilities | jq '.plugins[0] |= (del(.isDefaultGateway) | .isGateway = true)' >/etc/cni/net.d/second.conflist
must podman load -i "$BUILT/peer.tar"
must run warm --network second -p 8079:80
must stop warm
story

must run other --network second -p 8079:80
must start one 8081
must start two 8082
check "network connect" connect
check "network disconnect" disconnect
check "network reload after a flush" reload
check "restart" restarted
check "port taken: refused" port_taken
must stop one
must stop two
must stop other
check "nothing left after these" nothing_left

check "pod with ports" pod
check "pod: nothing left" pod_end
check "requested address and MAC" requested
check "port on one address only" host_ip
must stop fixed
must stop bound
check "two networks at once" two_networks
check "nothing left at the end" nothing_left

if [ -x /opt/cni/bin/firewall ]; then by_podman; else skip "network create" "no firewall in the directory"; fi
