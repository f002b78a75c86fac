# containerd in the node's namespaces. Sourced after node.sh.

without_cri='disabled_plugins = ["io.containerd.grpc.v1.cri"]'

# containerd_up NAMESPACE TOML: starts the daemon with more of its configuration, and loads the image
containerd_up() {
    mkdir -p /run/containerd
    printf 'version = 2\nroot = "/var/lib/containerd"\nstate = "/run/containerd"\n%s\n' "$2" >"$work/containerd.toml"
    containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
    must within 20 ctr version
    must ctr --namespace "$1" images import "$BUILT/peer.tar"
}

# kubelet VERB WORD...: one request to the CRI client; prints what it says
kubelet() {
    local answer
    answer=$(socat -t 120 - "UNIX-CONNECT:$work/kubelet" <<<"$*") && [[ $answer = "ok "* ]] || { echo "kubelet $*: $answer" && return 1; }
    echo "${answer#ok }"
}

# cri_up: containerd with its CRI, and a client for it
cri_up() {
    containerd_up k8s.io '
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"'
    must ctr --namespace k8s.io images import "$BUILT/pause.tar"
    PYTHONPATH=$BUILT/cri "$BUILT/cri/bin/python" "$here/cri/kubelet.py" /run/containerd/containerd.sock "$work/kubelet" >"$work/kubelet.log" 2>&1 &
    must within 20 kubelet ready
}
