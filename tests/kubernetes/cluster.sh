# Sourced by run.sh: the wire, the router and the nodes.

# network: this namespace becomes the router of the nodes' wire; `control` is a host on it, `outside` one behind the router
network() {
    mount -t tmpfs -o mode=0755 tmpfs /run
    mkdir -p /run/netns /run/lock
    ip link set lo up
    ip netns add control
    ip netns add outside
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    # The wire is a wire: packet rules of the router don't see its frames.
    ip link add wire type bridge mcast_snooping 0 nf_call_iptables 0 nf_call_ip6tables 0
    ip link set wire up
    ip addr add "$router4/24" dev wire
    ip addr add "$router6/64" dev wire nodad
    ip link add control type veth peer name eth0 netns control
    ip link set control master wire up
    host control "$control4" "$control6" "$router4" "$router6"
    ip link add outside type veth peer name eth0 netns outside
    ip addr add 198.51.100.1/24 dev outside
    ip addr add 2001:db8:51::1/64 dev outside nodad
    ip link set outside up
    host outside "$outside4" "$outside6" 198.51.100.1 2001:db8:51::1
}

# host NAMESPACE ADDRESS4 ADDRESS6 GATEWAY4 GATEWAY6
host() {
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
    ip -n "$1" addr add "$2/24" dev eth0
    ip -n "$1" addr add "$3/64" dev eth0 nodad
    ip -n "$1" route add default via "$4"
    ip -n "$1" -6 route add default via "$5"
}

# cgroups: the mount points of the hierarchies of version 1
cgroups() { awk '$3 == "cgroup" { print $2 }' /proc/mounts | grep '^/sys/fs/cgroup/' | sort -u; }

# node_group N: makes node N's group in every hierarchy, and joins it
node_group() {
    local hierarchy group file
    for hierarchy in $(cgroups); do
        mkdir -p "$hierarchy/$CGROUP/node$1"
        for group in "$CGROUP" "$CGROUP/node$1"; do
            for file in cpuset.cpus cpuset.mems; do
                [ ! -e "$hierarchy/$group/$file" ] || cat "$hierarchy/$file" >"$hierarchy/$group/$file"
            done
        done
        echo $BASHPID >"$hierarchy/$CGROUP/node$1/cgroup.procs"
    done
}

# node_up N: boots node N and puts its interface on the wire
node_up() {
    local n=$1 folder=$WORK/node$1 parent
    mkdir -p "$WORK/log"
    rm -f "$folder/up" "$folder/ready"
    (
        node_group "$n"
        exec unshare --net --mount --pid --fork --kill-child --uts --ipc --cgroup --mount-proc --propagation private \
            bash "$here/node.sh" "$n"
    ) >>"$WORK/log/node$n" 2>&1 </dev/null &
    parent=$!
    within 30 test -e "$folder/up"
    pgrep -P "$parent" >"$folder/pid"
    ip link del "wire$n" 2>/dev/null || true
    ip link add "wire$n" type veth peer name eth0 netns "$(<"$folder/pid")"
    ip link set "wire$n" master wire up
    within 120 test -e "$folder/ready"
}

# power_off N: all that ran there is gone at once. Its cgroups too: the kubelet would wait for what is in them.
power_off() {
    local hierarchy
    kill -KILL "$(<"$WORK/node$1/pid")"
    sleep 0.5
    for hierarchy in $(cgroups); do
        within 10 no_groups "$hierarchy/$CGROUP/node$1"
    done
}
no_groups() {
    [ ! -d "$1" ] || find "$1" -depth -mindepth 1 -type d -exec rmdir {} +
}
