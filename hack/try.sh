#!/usr/bin/env bash
# Shows the main job in a private sandbox: two dual-stack containers on a bridge, reaching out and being reached.
# Usage: hack/try.sh [--backend nftables|iptables] [DIR]   without DIR: builds and tries bin/
set -euo pipefail
. "$(dirname "$0")/lib.sh"

backend=nftables
dir=
while [ $# -gt 0 ]; do
    case $1 in
    --backend) backend=$2 && shift ;;
    *) dir=$(cd "$1" && pwd) || fail "no directory $1" ;;
    esac
    shift
done

# Outside of the sandbox: install, build, enter.
if [ -z "${CNI_TRY_INSIDE:-}" ]; then
    need_root
    need_tools
    if [ -z "$dir" ]; then
        need_build
        say "build"
        "$repo/hack/build.sh"
        dir=$repo/bin
    fi
    # The PID namespace ends every server with the script.
    exec env CNI_TRY_INSIDE=1 unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$repo/hack/try.sh" --backend "$backend" "$dir"
fi

for mountpoint in /run /var/lib; do mount -t tmpfs tmpfs "$mountpoint"; done
mount -t sysfs sysfs /sys
ip link set lo up

# --- the configuration -----------------------------------------------------------------------------------------------

# prints the newest of the versions that all three plugins support
newest_version() {
    local version plugin
    for version in 1.1.0 1.0.0 0.4.0; do
        for plugin in bridge host-local portmap; do
            CNI_COMMAND=VERSION CNI_PATH=$dir "$dir/$plugin" </dev/null |
                jq -e --arg v "$version" '.supportedVersions | index($v)' >/dev/null || continue 2
        done
        echo "$version" && return
    done
    fail "no version from 0.4.0 on in $dir"
}
version=$(newest_version)

# hairpinMode: where br_netfilter hands bridged packets to the rules, a port reaches itself only with it.
bridge_conf=$(jq -n --arg v "$version" --arg b "$backend" '{
    cniVersion: $v, name: "try", type: "bridge", bridge: "cni0", isDefaultGateway: true, ipMasq: true, ipMasqBackend: $b,
    hairpinMode: true,
    ipam: {type: "host-local", ranges: [[{subnet: "10.88.0.0/24"}], [{subnet: "fd00:88::/64"}]]}}')
portmap_conf=$(jq -n --arg v "$version" --arg b "$backend" '{cniVersion: $v, name: "try", type: "portmap", backend: $b}')

# --- what a runtime does ---------------------------------------------------------------------------------------------

# plugin VERB TYPE CONTAINER CONFIG: one call, as a runtime makes it
plugin() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/$3 CNI_IFNAME=eth0 CNI_PATH=$dir "$dir/$2" <<<"$4"
}

# ports CONTAINER: the runtime's port mappings of a container
ports() {
    case $1 in
    web) echo '[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":5353,"containerPort":53,"protocol":"udp"}]' ;;
    *) echo '[]' ;;
    esac
}

# with_result CONFIG RESULT CONTAINER
with_result() { jq -c --argjson r "$2" --argjson p "$(ports "$3")" '.prevResult = $r | .runtimeConfig.portMappings = $p' <<<"$1"; }

# attach CONTAINER: the chain's ADD; the result goes to /run/CONTAINER.json
attach() {
    local result
    result=$(plugin ADD bridge "$1" "$bridge_conf") || fail "bridge ADD: $result"
    result=$(plugin ADD portmap "$1" "$(with_result "$portmap_conf" "$result" "$1")") || fail "portmap ADD: $result"
    echo "$result" >"/run/$1.json"
}

# check CONTAINER: the chain's CHECK; prints the first complaint
check() {
    local result
    result=$(cat "/run/$1.json")
    plugin CHECK bridge "$1" "$(with_result "$bridge_conf" "$result" "$1")" &&
        plugin CHECK portmap "$1" "$(with_result "$portmap_conf" "$result" "$1")"
}

# detach CONTAINER: the chain's DEL, in reverse
detach() {
    local result
    result=$(cat "/run/$1.json")
    plugin DEL portmap "$1" "$(with_result "$portmap_conf" "$result" "$1")" || fail "portmap DEL of $1"
    plugin DEL bridge "$1" "$(with_result "$bridge_conf" "$result" "$1")" || fail "bridge DEL of $1"
}

# --- what one sees ---------------------------------------------------------------------------------------------------

# address CONTAINER 4|6
address() { jq -r --arg f "$2" '[.ips[].address | select(contains(":") == ($f == "6")) | sub("/.*"; "")][0]' "/run/$1.json"; }

# at PLACE COMMAND...: runs a command in a namespace; the node is where we are
at() {
    if [ "$1" = node ]; then "${@:2}"; else nsenter --net="/run/netns/$1" "${@:2}"; fi
}

# answer PLACE tcp|udp ADDRESS PORT: what the server says; it says which address it saw
answer() {
    local address=$3
    case $3 in *:*) address="[$3]" ;; esac
    at "$1" timeout 5 socat -T 2 - "${2^^}:$address:$4" <<<'?' 2>/dev/null | tr -d '\r'
}

# serve PLACE tcp|udp PORT: servers of both families that answer with the address they saw
serve() {
    local family kind=LISTEN
    [ "$2" = tcp ] || kind=RECVFROM
    for family in 4 6; do
        at "$1" socat "${2^^}$family-$kind:$3,fork,reuseaddr$([ $family = 4 ] || echo ,ipv6only=1)" \
            SYSTEM:'read x; echo from $SOCAT_PEERADDR' &
    done
}

# plain ADDRESS: as everybody writes it; socat prints brackets and leading zeros
plain() { getent ahosts "$(tr -d '[]' <<<"$1")" | awk 'NR == 1 { print $1 }'; }

# ok WHAT CONDITION...: one line; the first thing that doesn't hold ends the script
ok() {
    local what=$1
    shift
    "$@" || fail "$what"
    printf '   ok  %s\n' "$what"
}
is() { [ "$1" = "$2" ] || { echo "       expected '$2', got '$1'"; false; }; }

pings() { at "$1" ping -q -n -c1 -W3 "$2" >/dev/null; }

# sees PLACE PROTOCOL ADDRESS PORT EXPECTED-SOURCE
sees() {
    local said
    said=$(answer "$1" "$2" "$3" "$4") && [ -n "$said" ] || { echo "       no answer" && return 1; }
    [ -z "${5:-}" ] || is "$(plain "${said#from }")" "$5"
}

# state: everything that attachments could leave, but for the bridge and what all attachments share
state() {
    ip -br link | awk '{ sub("@.*", "", $1); print $1 }' | grep -vx cni0
    ls /var/lib/cni/networks/try 2>/dev/null | grep -v '^last_reserved_ip\|^lock$' || true
    nft -s list ruleset 2>/dev/null | grep -F -e 10.88.0. -e fd00:88: -e id: -e web || true
    iptables-save | grep -e '10\.88\.0\.' -e '^:CNI-DN' -e '^:CNI-[0-9a-f]' || true
}
nothing_left() {
    local left
    left=$(diff <(sort /run/before) <(state | sort)) || { echo "$left" && return 1; }
}

# break_port: deletes one thing that makes web's port 8080 work, and says which
break_port() {
    local found
    if [ "$backend" = iptables ]; then
        found=$(iptables-save -t nat | grep -e '-j DNAT --to-destination 10\.88' | head -1)
        echo "       deleting: $found"
        eval "iptables -t nat -D ${found#-A }"
        return
    fi
    found=$(nft -j list ruleset | jq -c '[.nftables[]
        | (.rule? // empty | select((. | tostring | contains("8080"))) | {rule: {family, table, chain, handle}}),
          (.map? // empty | . as $m | (.elem // [])[] | select(tostring | contains("8080"))
            | {element: {family: $m.family, table: $m.table, name: $m.name, elem: [.]}})][0]')
    echo "       deleting: $(jq -r '.rule // .element | "\(.family) \(.table) \(.chain // .name)"' <<<"$found")"
    jq -c '{nftables: [{delete: .}]}' <<<"$found" | nft -j -f -
}

# --- the story -------------------------------------------------------------------------------------------------------

say "a node with an uplink, an outside host, and two empty containers"
for name in outside web client; do
    ip netns add "$name"
    ip -n "$name" link set lo up
done
ip link add up0 type veth peer name eth0 netns outside
ip addr add 192.0.2.1/24 dev up0 && ip addr add 2001:db8::1/64 dev up0 nodad && ip link set up0 up
ip -n outside addr add 192.0.2.2/24 dev eth0 && ip -n outside addr add 2001:db8::2/64 dev eth0 nodad
ip -n outside link set eth0 up
ip route add default via 192.0.2.2 && ip -6 route add default via 2001:db8::2
state >/run/before

say "ADD at $version with the plugins of $dir, $backend"
attach web
attach client
jq -c 'del(.dns)' /run/web.json
web4=$(address web 4) web6=$(address web 6)
serve outside tcp 7000
serve web tcp 80
serve web udp 53
sleep 0.3

say "container to container, and out"
ok "client pings web at $web4" pings client "$web4"
ok "client pings web at $web6" pings client "$web6"
ok "outside sees the node's address 192.0.2.1, not the container's" sees client tcp 192.0.2.2 7000 192.0.2.1
ok "outside sees the node's address 2001:db8::1, not the container's" sees client tcp 2001:db8::2 7000 2001:db8::1

say "published ports 8080/tcp and 5353/udp of web"
ok "outside reaches 192.0.2.1:8080, and web sees who it is" sees outside tcp 192.0.2.1 8080 192.0.2.2
ok "outside reaches [2001:db8::1]:8080, and web sees who it is" sees outside tcp 2001:db8::1 8080 2001:db8::2
ok "outside reaches 192.0.2.1:5353/udp" sees outside udp 192.0.2.1 5353
ok "the host reaches it by its address" sees node tcp 192.0.2.1 8080
ok "the host reaches it by 127.0.0.1" sees node tcp 127.0.0.1 8080
ok "the neighbour reaches it by the host's address" sees client tcp 192.0.2.1 8080
ok "web reaches itself by the host's address (hairpin)" sees web tcp 192.0.2.1 8080
ok "web reaches itself by the host's IPv6 address (hairpin)" sees web tcp 2001:db8::1 8080

say "CHECK"
complaint=$(check web) || fail "CHECK of an untouched container: $(jq -r '.msg' <<<"$complaint")"
echo "   ok  web is as it should be"
break_port
if complaint=$(check web); then fail "CHECK didn't notice"; fi
printf '   ok  CHECK says: %s\n' "$(jq -r '"code \(.code): \(.msg)"' <<<"$complaint")"

say "DEL"
for name in web client; do
    detach "$name"
    detach "$name"
done
ok "nothing is left: links, rules, reservations are as before" nothing_left
echo "OK: the main job works with the plugins of $dir"
