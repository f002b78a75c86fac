# Podman and buildah in the node's namespaces. Sourced after node.sh.

# libpod_up: their configuration and the image
libpod_up() {
    mkdir -p /run/libpod-e2e
    cat >"$work/containers.conf" <<TOML
[containers]
default_sysctls = []
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
TOML
    cat >"$work/storage.conf" <<TOML
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
TOML
    export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
}
