#!/usr/bin/env bash
# A node is upgraded under running pods, and rolled back: what one set of plugins added for containerd, the other removes.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/containerd.sh"

netns() { cat "$work/$1.netns"; }
start() { kubelet run "$1" "$2" && kubelet netns "$1" >"$work/$1.netns" && within 20 ask "$1" tcp 127.0.0.1 80; }
stop() { kubelet stop "$1" && kubelet remove "$1"; }

noticed() { within 20 knows "$1"; }
knows() { [[ $(kubelet networks) = *"$1"* ]]; }

node
conflist e2e cni0 78 >/etc/cni/net.d/e2e.conflist
cri_up
upgrade_story 78
