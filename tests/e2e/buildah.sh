#!/usr/bin/env bash
# buildah attaches every `run` to the network for as long as the command lasts. It has no option for ports, so every container
# gets a configuration of its own that names them.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/libpod.sh"

image=docker.io/library/peer:1

server() { pgrep -f "^/bin/peer serve $1 80"; }
netns() { echo "/proc/$(server "$1")/ns/net"; }

start() {
    buildah from --pull-never --network e2e --name "$1" "$image" >/dev/null || return 1
    mkdir -p "$work/$1"
    conflist e2e cni0 76 "$(mappings "$2")" >"$work/$1/e2e.conflist"
    unshare --mount bash -c 'mount --bind "$1" /etc/cni/net.d && exec buildah run --isolation oci "$2" -- /bin/peer serve "$2" 80' \
        - "$work/$1" "$1" >"$work/$1.log" 2>&1 </dev/null &
    echo $! >"$work/$1.pid"
    within 20 ask "$1" tcp 127.0.0.1 80 || { cat "$work/$1.log" && return 1; }
}

gone() { ! kill -0 "$(cat "$work/$1.pid")"; }

# The server ends at its signal, and buildah with it.
stop() {
    kill "$(server "$1")" && within 20 gone "$1" && buildah rm "$1" >/dev/null
    [ ! -s "$work/$1.log" ] || { cat "$work/$1.log" && return 1; }
}

bud() {
    printf 'FROM %s\nRUN /bin/peer ask tcp %s:7000\n' "$image" "$world4" >"$work/Containerfile"
    local said
    said=$(buildah bud --isolation oci --pull-never --no-cache --network e2e -t built -f "$work/Containerfile" "$work") &&
        grep -q "^world $node4" <<<"$said" && nothing_left
}

# The command dies of a signal that nobody can handle.
killed() {
    start one 8081 || return 1
    kill -KILL "$(server one)" && within 20 gone one && buildah rm one >/dev/null && nothing_left
}

node
libpod_up
conflist e2e cni0 76 >/etc/cni/net.d/e2e.conflist
must buildah pull "docker-archive:$BUILT/peer.tar"
story
check "RUN of a build reaches out" bud
check "nothing left: killed" killed
