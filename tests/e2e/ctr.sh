#!/usr/bin/env bash
# containerd's own client. Its `run --cni` sends ADD with /proc/PID/ns/net, and DEL without any namespace when the
# container has ended. It has no option for ports, so every container gets a configuration of its own that names them.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/containerd.sh"

netns() { echo "/proc/$(ctr task ls | awk -v id="$1" '$1 == id { print $2 }')/ns/net"; }

start() {
    mkdir -p "$work/$1"
    conflist e2e cni0 72 "$(mappings "$2")" >"$work/$1/e2e.conflist"
    # In the foreground, for a detached one is never detached from its network.
    unshare --mount bash -c 'mount --bind "$1" /etc/cni/net.d && exec ctr run --rm --cni docker.io/library/peer:1 "$2" /bin/peer serve "$2" 80' \
        - "$work/$1" "$1" >"$work/$1.log" 2>&1 </dev/null &
    echo $! >"$work/$1.pid"
    within 20 answers "$1" || { cat "$work/$1.log" && return 1; }
}

# The client attaches before it starts the program, so an answer means both.
answers() { ask "$1" tcp 127.0.0.1 80; }
gone() { ! kill -0 "$(cat "$work/$1.pid")"; }

stop() {
    ctr task kill -s SIGKILL "$1" || return 1
    within 20 gone "$1"
    [ ! -s "$work/$1.log" ] || { cat "$work/$1.log" && return 1; }
}

node
containerd_up default "$without_cri"
story
