#!/usr/bin/env bash
# A node is upgraded under running containers, and rolled back: what one set of plugins added in Podman, the other removes.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/libpod.sh"

image=docker.io/library/peer:1
netns() { cat "$work/$1.netns"; }
start() {
    podman run -d --name "$1" --network e2e -p "$2:80/tcp" -p "$2:80/udp" "$image" /bin/peer serve "$1" 80 >/dev/null &&
        podman inspect -f '{{.NetworkSettings.SandboxKey}}' "$1" >"$work/$1.netns" &&
        within 20 ask "$1" tcp 127.0.0.1 80
}
stop() { podman rm -f -t 0 "$1"; }

node
libpod_up
must podman load -i "$BUILT/peer.tar"
upgrade_story 77
