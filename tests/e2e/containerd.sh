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
