#!/usr/bin/env bash
# Makes the images of the cluster's pods, as archives that `ctr image import` reads; no builder and no registry is needed.
#   probe.tar   the probe, for pods and their sandboxes
#   agent.tar   what hack/kubernetes/Dockerfile describes, on a Debian from mmdebstrap
#   masq.tar    the same with "ipMasq": true, as an operator would change the network
# Usage: tests/kubernetes/images.sh DIR CACHE PROBE PLUGINS nftables|iptables
set -euo pipefail
. "$(dirname "$0")/../../hack/lib.sh"

target=$1 cache=$2 probe=$3 plugins=$4 backend=$5
dockerfile=$repo/hack/kubernetes/Dockerfile
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# layer DIR FILE: the content of a folder as a layer
layer() { tar -C "$1" --owner=0 --group=0 --sort=name -cf "$2" .; }

# image FILE NAME:TAG ENTRYPOINT LAYER...: an archive in Docker's format; ENTRYPOINT is a JSON list
image() {
    local folder=$work/image file=$1 name=$2 entrypoint=$3 part number=0 layers=() digests=()
    shift 3
    rm -rf "$folder" && mkdir "$folder"
    for part in "$@"; do
        number=$((number + 1))
        ln "$part" "$folder/$number.tar" 2>/dev/null || cp "$part" "$folder/$number.tar"
        layers+=("$number.tar") digests+=("sha256:$(sha256sum "$part" | cut -d' ' -f1)")
    done
    # The probe handles no signals, and the first process of a container isn't ended by those that it doesn't handle.
    jq -n --argjson entrypoint "$entrypoint" --arg signal "${STOP_SIGNAL:-SIGTERM}" '{architecture: "amd64", os: "linux",
        config: {Entrypoint: $entrypoint, StopSignal: $signal, Env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        rootfs: {type: "layers", diff_ids: $ARGS.positional}, history: []}' --args "${digests[@]}" >"$folder/config.json"
    jq -n --arg name "$name" '[{Config: "config.json", RepoTags: [$name], Layers: $ARGS.positional}]' --args "${layers[@]}" \
        >"$folder/manifest.json"
    tar -C "$folder" -cf "$file" manifest.json config.json "${layers[@]}"
}

# The Dockerfile's base: Debian, and the packages that it installs.
packages=$(sed -n 's/.*--no-install-recommends \(.*\) \\$/\1/p' "$dockerfile" | xargs | tr ' ' ',')
debian=$cache/debian-$(tr ',' '-' <<<"$packages").tar
if [ ! -e "$debian" ]; then
    say "Debian with $packages"
    unshare --mount --propagation private mmdebstrap --quiet --mode=root --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/debian.tar" \
        >"$work/log" 2>&1 || fail "mmdebstrap: $(tail -3 "$work/log")"
    cp "$work/debian.tar" "$debian.new"
    mv "$debian.new" "$debian"
fi

# copied FOLDER: what the Dockerfile's lines COPY put into the image, from a tree like a checkout's
copied() {
    local words
    while read -r -a words; do
        mkdir -p "$1${words[-1]}"
        (cd "$work/tree" && for source in "${words[@]:1:${#words[@]}-2}"; do
            if [ -d "$source" ]; then cp -r "$source/." "$1${words[-1]}"; else cp "$source" "$1${words[-1]}"; fi
        done)
    done < <(grep '^COPY ' "$dockerfile")
}
mkdir -p "$work/tree"
cp -r "$repo/hack" "$repo/conf-examples" "$work/tree/"
cp -r "$plugins" "$work/tree/bin"
network=$work/tree/conf-examples/90-kubernetes-node.conflist
entrypoint=$(sed -n 's/^ENTRYPOINT //p' "$dockerfile")

change() { jq --arg backend "$backend" "$1" "$network" >"$network.new" && mv "$network.new" "$network"; }
change '(.plugins[] | select(.type == "portmap")).backend = $backend'
for variant in agent masq; do
    [ "$variant" = agent ] || change '(.plugins[] | select(.type == "bridge")) += {ipMasq: true, ipMasqBackend: $backend}'
    rm -rf "$work/root" && mkdir "$work/root"
    copied "$work/root"
    layer "$work/root" "$work/$variant.layer"
    tag=0.1.0
    [ "$variant" = agent ] || tag=masq
    image "$target/$variant.tar" "docker.io/library/cni-plugins-rust:$tag" "$entrypoint" "$debian" "$work/$variant.layer"
done

mkdir -p "$work/probe"/{etc,proc,sys,dev,run,tmp}
install -m 0755 "$probe" "$work/probe/probe"
layer "$work/probe" "$work/probe.layer"
STOP_SIGNAL=SIGKILL image "$target/probe.tar" docker.io/library/probe:1 '["/probe", "serve", "8080"]' "$work/probe.layer"
STOP_SIGNAL=SIGKILL image "$target/pause.tar" docker.io/library/pause:1 '["/probe", "pause"]' "$work/probe.layer"
