#!/usr/bin/env bash
# containerd's Kubernetes interface, with a small client in the kubelet's place. It sends keys with capital letters, calls
# loopback first, and DEL twice for a pod, the second time without a namespace.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"
. "$(dirname "$0")/containerd.sh"

netns() { cat "$work/$1.netns"; }

start() {
    kubelet run "$1" "$2" && kubelet netns "$1" >"$work/$1.netns" && within 20 ask "$1" tcp 127.0.0.1 80
}
stop() { kubelet stop "$1" && kubelet remove "$1"; }

# both_families: the runtime reports to Kubernetes all of the pod's addresses
both_families() { is "$(kubelet ip one)" "$(address one 4) $(address one 6)"; }

loopback() { pings one 127.0.0.1 && pings one ::1; }

# The runtime asks again for what it has stopped already.
stopped_again() { kubelet stop one && kubelet stop one && kubelet stop one && kubelet remove one; }

# A pod whose namespace vanished under the runtime.
without_netns() {
    local path
    path=$(netns two)
    kubelet ip two && umount "$path" && rm "$path" && stop two
}

# A port that is taken: no sandbox, and nothing left of the attempt.
port_taken() {
    ! kubelet run taken 8081 >"$work/taken" || { echo "it started" && return 1; }
    grep -q 8081 "$work/taken" || { cat "$work/taken" && return 1; }
    reached one 8081 outside
}

node
conflist e2e cni0 75 >/etc/cni/net.d/e2e.conflist
cri_up
story

must start one 8081
must start two 8082
check "pod's addresses reported" both_families
check "loopback" loopback
check "port taken: refused" port_taken
check "stopped three times" stopped_again
check "namespace vanished" without_netns
check "nothing left after these" nothing_left

# The runtime leaves the pod's resolv.conf to the kubelet: whatever server is asked, names are found.
names() {
    local name
    within 20 kubelet ready && start three 8083 && start four 8084 || return 1
    for name in four four.e2e four.dns.test; do
        is "$(at three dig +short +time=5 "$name" @8.8.8.8)" "$(address four 4)" || return 1
    done
    stop four && is "$(at three dig +short +time=5 four.dns.test @8.8.8.8)" "" && stop three
}
if has_names; then
    conflist e2e cni0 75 | jq '.plugins += [{type: "dnsname", domainName: "dns.test", intercept: true}]' >"$work/names" &&
        mv "$work/names" /etc/cni/net.d/e2e.conflist
    sleep 1
    check "names, whatever server is asked" names
fi
