#!/usr/bin/env bash
# A program on libcni, the library that all runtimes share: ADD, CHECK and DEL of namespaces that the script makes.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"

netns() { echo "/run/netns/$1"; }

attach() { # VERB NAME [PORT]
    "$BUILT/attach" "$1" /etc/cni/net.d/e2e.conflist /opt/cni/bin "$2" "$(netns "$2")" "${3:+$(mappings "$3")}"
}

start() {
    ip netns add "$1" && ip -n "$1" link set lo up || return 1
    echo "$2" >"$work/$1.port"
    attach add "$1" "$2" >"$work/$1.json" || return 1
    nsenter --net="$(netns "$1")" "$BUILT/peer" serve "$1" 80 >/dev/null 2>&1 &
    echo $! >"$work/$1.pid"
    within 20 ask "$1" tcp 127.0.0.1 80
}

stop() {
    kill "$(cat "$work/$1.pid")"
    attach del "$1" "$(cat "$work/$1.port")" && ip netns del "$1"
}

# In a burst everything of a namespace may be gone before its DEL comes.
stop_late() {
    kill "$(cat "$work/$1.pid")"
    ip netns del "$1"
    attach del "$1" "$(cat "$work/$1.port")"
}

node
conflist e2e cni0 71 '[]' >/etc/cni/net.d/e2e.conflist
story

must start one 8081
check "CHECK of what is untouched" attach check one 8081
must at one ip route del default
refused() { ! attach check one 8081 2>&1; }
check "CHECK after a route is gone" refused
check "DEL after the namespace is gone" stop_late one
check "DEL again" attach del one 8081
check "nothing left after these" nothing_left
