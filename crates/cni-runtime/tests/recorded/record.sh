#!/usr/bin/env bash
# Records what libcni calls plugins with: environment and stdin of each call, and the cache's file.
# Usage: record.sh CNITOOL [NAME...]    CNITOOL is libcni's program; writes NAME.calls for each NAME.conflist
# Needs root, for cnitool's cache is in /var/lib/cni; everything is in a mount namespace of its own.
# The recordings here are of libcni 1.3.0. tests/libcni.rs compares this crate with them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${RECORDING:-}" ]; then
    exec env RECORDING=1 unshare --mount --propagation private "$0" "$@"
fi
tool=$(realpath "$1")
shift
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /mnt
cd "$here"
[ $# -gt 0 ] || set -- $(basename -s .conflist -- *.conflist)

for name in "$@"; do
    export RECORD=$here/$name.calls
    rm -rf /mnt/* /var/lib/cni
    mkdir /mnt/net.d /mnt/bin
    install -m 0755 "$here/plugin.sh" /mnt/bin/first
    install -m 0755 "$here/plugin.sh" /mnt/bin/second
    cp "$name.conflist" /mnt/net.d/
    export NETCONFPATH=/mnt/net.d CNI_PATH=/mnt/bin:/other CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAME=a' TRACEPARENT=00-1-2-01
    export CAP_ARGS='{"portMappings": [{"hostPort": 8080, "containerPort": 80}], "mac": "02:00:00:00:00:01", "none": 1}'
    : >"$RECORD"
    network=$(jq -r .name "$name.conflist")
    for verb in add check del add gc status; do
        echo "# $verb" >>"$RECORD"
        "$tool" "$verb" "$network" /run/netns/blue >/dev/null 2>/mnt/error || echo "failed: $(tail -1 /mnt/error)" >>"$RECORD"
        # The containers of cnitool are named by a hash of the namespace's path.
        for file in /var/lib/cni/results/*; do [ ! -e "$file" ] || { echo "cache ${file##*/}: $(cat "$file")" >>"$RECORD"; }; done
    done
    sed -i '/^failed: .*Usage:/d' "$RECORD"
done
