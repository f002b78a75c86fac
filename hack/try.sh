#!/usr/bin/env bash
# Shows what the plugins do, in a private sandbox: two dual-stack containers on a bridge, names, egress and published ports.
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
    # Of other plugins it is the runtime too.
    cninet=$dir/cninet
    [ -x "$cninet" ] || cninet=$repo/bin/cninet
    [ -x "$cninet" ] || fail "no cninet in $dir or bin/, which calls the plugins here: hack/build.sh"
    # The PID namespace ends every server with the script.
    exec env CNI_TRY_INSIDE=1 cninet="$cninet" unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
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

# The Go plugins of that name need dnsmasq and have no STATUS.
has_names() { CNI_COMMAND=VERSION CNI_PATH=$dir "$dir/dnsname" </dev/null 2>/dev/null | jq -e '.supportedVersions | index("1.1.0")' >/dev/null; }
names=$(has_names && jq -n --arg b "$backend" '[{type: "dnsname", backend: $b, domainName: "dns.test"}]' || echo '[]')
# hairpinMode: where br_netfilter hands bridged packets to the rules, a port reaches itself only with it.
mkdir /run/net.d
jq -n --arg v "$version" --arg b "$backend" --argjson names "$names" '{cniVersion: $v, name: "try", plugins: ([
    {type: "bridge", bridge: "cni0", isDefaultGateway: true, ipMasq: true, ipMasqBackend: $b, hairpinMode: true,
     ipam: {type: "host-local", ranges: [[{subnet: "10.88.0.0/24"}], [{subnet: "fd00:88::/64"}]]}},
    {type: "portmap", backend: $b, capabilities: {portMappings: true}}] + $names)}' >/run/net.d/try.conflist

# --- what a runtime does ---------------------------------------------------------------------------------------------

export NETCONFPATH=/run/net.d CNI_PATH=$dir

# ports CONTAINER: the runtime's port mappings of a container
ports() {
    case $1 in
    web) echo '[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":5353,"containerPort":53,"protocol":"udp"}]' ;;
    *) echo '[]' ;;
    esac
}

# chain VERB CONTAINER: the plugins' ADD, CHECK or DEL, one after the other
chain() { CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=$2" CAP_ARGS="{\"portMappings\": $(ports "$2")}" "$cninet" "$1" try "/run/netns/$2" --id "$2"; }

# attach CONTAINER: the result goes to /run/CONTAINER.json
attach() { chain add "$1" >"/run/$1.json" || fail "ADD of $1"; }
check() { chain check "$1" 2>&1; }
detach() { chain del "$1" || fail "DEL of $1"; }

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

# plain ADDRESS: in the usual notation; socat prints brackets and leading zeros
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

# pings_name PLACE 4|6 NAME: with the resolv.conf that a runtime writes of the result
pings_name() {
    jq -r '.dns | (.nameservers[] | "nameserver \(.)"), "search \(.search | join(" "))"' "/run/$1.json" >"/run/$1.resolv.conf"
    at "$1" unshare --mount sh -c 'mount --bind "$1" /etc/resolv.conf && ping "$2" -q -n -c1 -W3 "$3" >/dev/null' sh "/run/$1.resolv.conf" "-$2" "$3"
}

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
    iptables-save | grep -e '10\.88\.0\.' -e '^:CNI-DN-' -e '^:CNI-[0-9a-f]' || true
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
"$cninet" inspect try | jq '.[0] | {Name, Driver, IPAM, Containers}'
web4=$(address web 4) web6=$(address web 6)
serve outside tcp 7000
serve web tcp 80
serve web udp 53
sleep 0.3

say "container to container, and egress"
ok "client pings web at $web4" pings client "$web4"
ok "client pings web at $web6" pings client "$web6"
ok "outside sees the node's address 192.0.2.1, not the container's" sees client tcp 192.0.2.2 7000 192.0.2.1
ok "outside sees the node's address 2001:db8::1, not the container's" sees client tcp 2001:db8::2 7000 2001:db8::1

if has_names; then
    say "names"
    for name in web web.try web.dns.test; do
        ok "client pings $name" pings_name client 4 "$name"
    done
    ok "client pings web over IPv6" pings_name client 6 web
fi

say "published ports 8080/tcp and 5353/udp of web"
ok "outside reaches 192.0.2.1:8080, and web sees outside's address" sees outside tcp 192.0.2.1 8080 192.0.2.2
ok "outside reaches [2001:db8::1]:8080, and web sees outside's address" sees outside tcp 2001:db8::1 8080 2001:db8::2
ok "outside reaches 192.0.2.1:5353/udp" sees outside udp 192.0.2.1 5353
ok "the node reaches it by its own address" sees node tcp 192.0.2.1 8080
ok "the node reaches it by 127.0.0.1" sees node tcp 127.0.0.1 8080
ok "client reaches it by the node's address" sees client tcp 192.0.2.1 8080
ok "web reaches itself by the node's address (hairpin)" sees web tcp 192.0.2.1 8080
ok "web reaches itself by the node's IPv6 address (hairpin)" sees web tcp 2001:db8::1 8080

say "CHECK"
complaint=$(check web) || fail "CHECK of an untouched container: $complaint"
echo "   ok  web: no difference"
break_port
if complaint=$(check web); then fail "CHECK did not notice the missing port"; fi
printf '   ok  CHECK says: %s\n' "$complaint"

say "DEL"
for name in web client; do
    detach "$name"
    detach "$name"
done
if has_names; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do pgrep -x dnsname >/dev/null || break; sleep 0.1; done
    ok "the resolver has ended" eval '! pgrep -x dnsname >/dev/null'
fi
ok "links, rules and reservations are what they were before ADD" nothing_left
echo "OK: ADD, CHECK and DEL work with the plugins of $dir"
