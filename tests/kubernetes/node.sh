# The first process of node N, in namespaces of its own: makes the node's files and network, and starts its services.
# Usage: node.sh N
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
n=$1 folder=$WORK/node$1

hostname "node$n"
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/netns /run/lock /run/sysctl

# --- cgroups: the hierarchies of the machine, seen from this node's group --------------------------------------------

mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /sys/fs/cgroup
while IFS=: read -r _ controllers _; do
    [ -n "$controllers" ] || continue # version 2
    name=${controllers#name=}
    mkdir "/sys/fs/cgroup/$name"
    mount -t cgroup -o "${controllers/#name=/none,name=}" cgroup "/sys/fs/cgroup/$name"
    for controller in ${name//,/ }; do
        [ -e "/sys/fs/cgroup/$controller" ] || ln -s "$name" "/sys/fs/cgroup/$controller"
    done
done </proc/self/cgroup

# --- files: the machine's, with what this node changes kept in its own folder, over its reboots -----------------------

first=
[ -d "$folder/etc" ] || first=yes
mkdir -p "$folder"/{etc,opt,var,containerd,kubelet,log,overlay/{etc,opt,var}}
for directory in etc opt var; do
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$folder/$directory,workdir=$folder/overlay/$directory" "/$directory"
done
# A new node has nothing of the machine's containers.
[ -z "$first" ] || rm -rf /etc/cni /opt/cni /var/lib/cni /var/lib/containerd /var/lib/kubelet /var/log/cni-times
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/containerd /var/lib/kubelet /var/log
# An overlay can't hold the layers of containers, which are overlays.
mount --bind "$folder/containerd" /var/lib/containerd
mount --bind "$folder/kubelet" /var/lib/kubelet
# The kubelet shares mounts of volumes with the pods.
mount --make-rshared /
# The kubelet sets these for the whole machine. Here it finds them set, in files of this node.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 \
    kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/${setting//\//.}
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done
touch "$folder/up"

# --- network ---------------------------------------------------------------------------------------------------------

within 20 test -e /sys/class/net/eth0
ip link set lo up
ip addr add "$(node4 "$n")/24" dev eth0
ip addr add "$(node6 "$n")/64" dev eth0 nodad
ip link set eth0 up
ip route add default via "$router4"
ip -6 route add default via "$router6"
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

for service in containerd kubelet kube-proxy; do "$here/service.sh" start "$service"; done
touch "$folder/ready"
# What loses its parent in here is this process's.
trap : CHLD
while true; do sleep infinity & wait || true; done
