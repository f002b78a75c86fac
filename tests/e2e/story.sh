# What every client goes through. A client's script provides, for containers named by the story:
#
#   start NAME PORT   starts a container that serves on 80, published as PORT (tcp and udp); returns when it is attached
#   stop NAME         stops and removes it; returns when the runtime says it is gone
#   netns NAME        prints the path of its network namespace

# reached NAME PORT FROM: one published port from one side, both families where there are two
reached() {
    case $3 in
    127.0.0.1) both node 127.0.0.1 "$2" "$1 *" ;;
    host) both node "$node4" "$2" "$1 *" && both node "$node6" "$2" "$1 *" ;;
    # The container sees who it is: nothing rewrites the source of what comes from outside.
    outside) both outside "$node4" "$2" "$1 $world4" && both outside "$node6" "$2" "$1 $world6" ;;
    *)
        both "$3" "$node4" "$2" "$1 *" && both "$3" "$node6" "$2" "$1 *"
        ;;
    esac
}

every() { # FROM NAME PORT [NAME PORT]
    local from=$1
    shift
    while [ $# -gt 0 ]; do
        reached "$1" "$2" "${from:-$1}" || return 1
        shift 2
    done
}

ping_each_other() {
    local family
    for family in 4 6; do
        pings one "$(address two $family)" && pings two "$(address one $family)" && pings node "$(address one $family)" || return 1
    done
}

# masqueraded CONTAINER: outside sees the node's address
masqueraded() { sees "$1" tcp "$world4" 7000 "world $node4" && sees "$1" udp "$world6" 7000 "world $node6"; }

closed() { # PORT...
    local port
    for port in "$@"; do
        ! ask node tcp "$node4" "$port" >/dev/null 2>&1 || { echo "port $port still answers" && return 1; }
    done
}

ports() {
    check "port from 127.0.0.1" every 127.0.0.1 one 8081 two 8082
    check "port from the host's address" every host one 8081 two 8082
    check "port from outside, source kept" every outside one 8081 two 8082
    check "port from a neighbour" reached two 8082 one
    check "hairpin" every "" one 8081 two 8082
}

pair() { must start one 8081; must start two 8082; }

story() {
    # The first container brings what stays: the bridge, tables and chains.
    must start first 8080
    must stop first
    remember

    pair
    check "ping, IPv4 and IPv6" ping_each_other
    ports
    check "masquerade" masqueraded one
    check "stop the first: second served" stopped_first
    must stop two
    check "nothing left: first, second" nothing_left

    pair
    must stop two
    check "stop the second: first served" reached one 8081 outside
    must stop one
    check "nothing left: second, first" nothing_left

    pair
    check "nothing left: both at once" both_at_once

    check "burst of 20: all answer" burst
    check "burst of 20: nothing left" burst_end
}

both_at_once() {
    stop one &
    local first=$!
    stop two && wait $first && nothing_left
}

stopped_first() { stop one && closed 8081 && reached two 8082 outside; }

# in_parallel COMMAND: `COMMAND NUMBER` for 1 to 20, 8 at a time; fails if one does
in_parallel() {
    local number
    rm -f "$work"/done.*
    for number in {1..20}; do
        # Which of the jobs has ended doesn't matter here, and bash may have forgotten it already.
        while [ "$(jobs -rp | wc -l)" -ge 8 ]; do wait -n || true; done
        { "$1" "$number" && touch "$work/done.$number"; } &
    done
    wait
    for number in {1..20}; do [ -e "$work/done.$number" ] || { echo "number $number failed" && return 1; }; done
}

burst_one() { start "b$1" $((8100 + $1)); }
burst_stop() { stop "b$1"; }
burst() {
    local number
    in_parallel burst_one || return 1
    for number in {1..20}; do reached "b$number" $((8100 + number)) outside || return 1; done
}
burst_end() { in_parallel burst_stop && nothing_left; }

# --- an upgrade under running containers -----------------------------------------------------------------------------

# use ours|theirs: swaps the executables
use() {
    local from=$PLUGINS name
    [ "$1" = ours ] || from=$work/theirs
    for name in "$from"/*; do
        install -m 0755 "$name" "/opt/cni/bin/.new" && mv "/opt/cni/bin/.new" "/opt/cni/bin/$(basename "$name")"
    done
}

# swap FROM TO [WHAT]: containers of one set go through the hands of the other
swap() {
    set -- "$1" "$2" "${3:-}"
    use "$1"
    # What FROM's shared things are is known only when it has run.
    must start first 8080
    must stop first
    use "$2"
    must start first 8080
    must stop first
    remember
    use "$1"
    pair
    use "$2"
    must start three 8083
    check "$1 to $2$3: all are served" every outside one 8081 two 8082 three 8083
    check "$1 to $2$3: stop the first" stopped_first
    must stop two
    must stop three
    check "$1 to $2$3: nothing left" nothing_left
}

# noticed TEXT: the client's script may have to wait until its runtime has read a file with this in it.
noticed() { true; }

# network NET: the client's network, with limits that nothing here reaches. Without sbr: a server on all addresses answers UDP from
# a socket without one, which has no route then.
network() {
    local limits='{type: "bandwidth", ingressRate: 1000000000, ingressBurst: 100000000, egressRate: 1000000000, egressBurst: 100000000}'
    conflist e2e cni0 "$1" | jq ".plugins += [$limits]" >/etc/cni/net.d/e2e.conflist
}

# upgrade_story NET: both ways on the backend that both have, and once more to a network that asks for the other one
upgrade_story() {
    BACKEND=iptables network "$1"
    must noticed bandwidth
    swap theirs ours
    swap ours theirs
    BACKEND=nftables network "$1"
    must noticed nftables
    swap theirs ours ", nftables"
}
