#!/usr/bin/env bash
# Starts or stops a node's service; runs on the node.
# Usage: service.sh start containerd|kubelet|kube-proxy
#        service.sh stop containerd|kubelet|kube-proxy [SIGNAL]
. "$(dirname "$0")/lib.sh"
name=$(hostname) service=$2
folder=$WORK/$name n=${name#node}

# run COMMAND...
run() {
    # A command that came in from outside isn't in the node's cgroup yet.
    local procs
    for procs in /sys/fs/cgroup/*/cgroup.procs; do echo $$ >"$procs"; done
    setsid "$@" >>"$folder/log/$service" 2>&1 </dev/null &
    echo $! >"/run/$service.pid"
}

start_containerd() {
    local image
    cat >/etc/containerd.toml <<EOF
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  # Nobody may lower what the test was started with.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    # Debian's default is /usr/lib/cni.
    bin_dir = "/opt/cni/bin"
EOF
    run containerd -c /etc/containerd.toml
    within 60 ctr version >/dev/null
    for image in pause probe agent masq; do
        # After a reboot they are there.
        [ -e "/var/lib/containerd/$image.imported" ] || ctr -n k8s.io image import "$WORK/images/$image.tar" >/dev/null
        touch "/var/lib/containerd/$image.imported"
    done
}

start_kubelet() {
    # There are no cgroups by quality of service: their limits would be the machine's.
    run "$KUBERNETES/kubelet" --kubeconfig="$WORK/$name.conf" --hostname-override="$name" --v=2 \
        --node-ip="$(families "$(node4 "$n")" "$(node6 "$n")")" --feature-gates="$gates,LocalStorageCapacityIsolation=false" \
        --container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
        --cgroups-per-qos=false --enforce-node-allocatable= --cgroup-driver=cgroupfs --fail-swap-on=false --oom-score-adj=0 \
        --anonymous-auth=true --authorization-mode=AlwaysAllow --cert-dir=/var/lib/kubelet/pki --resolv-conf= \
        --volume-plugin-dir=/var/lib/kubelet/volume-plugins --serialize-image-pulls=false \
        --eviction-hard='memory.available<100Mi' --image-gc-high-threshold=100
}

start_kube-proxy() {
    # The size of the connection table is the machine's.
    run "$KUBERNETES/kube-proxy" --kubeconfig="$WORK/proxy.conf" --hostname-override="$name" --v=1 --proxy-mode=iptables \
        --cluster-cidr="$pod_ranges" --feature-gates="$gates" --conntrack-max-per-core=0 --oom-score-adj=0
}

stop() {
    local pid
    pid=$(<"/run/$service.pid")
    kill -s "${1:-TERM}" "$pid"
    within 30 test ! -e "/proc/$pid"
}

case $1 in
start) "start_$service" ;;
stop) stop "${3:-}" ;;
esac
