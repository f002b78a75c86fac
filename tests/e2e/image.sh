#!/usr/bin/env bash
# Makes an image of one executable, in the archive format that every runtime can load.
# Usage: tests/e2e/image.sh EXECUTABLE NAME:TAG FILE COMMAND...
set -euo pipefail
executable=$1 name=$2 file=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/root"/{bin,etc,tmp}
install -m 0755 "$executable" "$work/root/bin/peer"
# busybox is for what runtimes start in an image: a shell and its tools.
install -m 0755 /bin/busybox "$work/root/bin/busybox"
for applet in sh ip sleep cat; do ln -s busybox "$work/root/bin/$applet"; done
echo 'root:x:0:0:root:/:/bin/sh' >"$work/root/etc/passwd"
tar -C "$work/root" --owner=0 --group=0 --sort=name --mtime=@0 -cf "$work/layer.tar" .

jq -n --arg layer "sha256:$(sha256sum "$work/layer.tar" | cut -d' ' -f1)" '{
    architecture: "amd64", os: "linux", created: "1970-01-01T00:00:00Z",
    config: {Cmd: $ARGS.positional, Env: ["PATH=/bin"], StopSignal: "SIGKILL"},
    rootfs: {type: "layers", diff_ids: [$layer]},
    history: [{created: "1970-01-01T00:00:00Z"}]}' --args -- "$@" >"$work/config.json"
jq -n --arg name "$name" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' >"$work/manifest.json"
tar -C "$work" -cf "$file" manifest.json config.json layer.tar
