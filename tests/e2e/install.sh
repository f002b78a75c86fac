#!/usr/bin/env bash
# hack/install.sh in a directory of its own: what it installs, keeps, and puts back, while plugins are called all the time.
. "$(dirname "$0")/node.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bins=$work/bin confs=$work/net.d
repo=$here/../..

install() { "$repo/hack/install.sh" --from "$PLUGINS" --bin-dir "$bins" --conf-dir "$confs" "$@"; }
undo() { "$repo/hack/install.sh" --undo --bin-dir "$bins" --conf-dir "$confs"; }
content() { (cd "$work" && find bin net.d ! -type d -exec stat -c '%n %a %F' {} + -exec sha256sum {} + 2>/dev/null | sort); }

# What was there: another plugin under a name of ours, one that is none of ours, a link, and a network.
before() {
    rm -rf "$bins" "$confs"
    mkdir -p "$bins" "$confs"
    printf '#!/bin/sh\necho theirs\n' >"$bins/bridge"
    printf '#!/bin/sh\necho other\n' >"$bins/calico"
    chmod 0755 "$bins"/*
    chmod 0700 "$bins/bridge"
    ln -s bridge "$bins/portmap"
    echo '{"theirs": true}' >"$confs/10-dual-stack.conflist"
    content >"$work/before"
}
as_before() { diff "$work/before" <(content); }

installed() {
    local file
    install --conf 10-dual-stack || return 1
    for file in "$PLUGINS"/*; do cmp "$file" "$bins/$(basename "$file")" && [ -x "$bins/$(basename "$file")" ] || return 1; done
    cmp "$repo/conf-examples/10-dual-stack.conflist" "$confs/10-dual-stack.conflist" && is "$("$bins/calico")" other
}
twice() { install --conf 10-dual-stack && install && undo && as_before; }
undone() { undo && as_before && undo && as_before; }
replaced_since() {
    install || return 1
    printf '#!/bin/sh\necho newer\n' >"$work/newer" && chmod 0755 "$work/newer" && mv "$work/newer" "$bins/bridge"
    undo && is "$("$bins/bridge")" newer
}

# Nothing is touched unless everything starts.
broken() {
    mkdir -p "$work/broken"
    cp "$PLUGINS/bridge" "$PLUGINS/loopback" "$work/broken/"
    printf '\x7fELF' >"$work/broken/portmap" && chmod 0755 "$work/broken/portmap"
    ! "$repo/hack/install.sh" --from "$work/broken" --bin-dir "$bins" --conf-dir "$confs" || { echo "it was installed" && return 1; }
    as_before
}

# One who starts the plugin all the time while it is replaced never gets half of one.
caller() {
    local calls=0
    until [ -e "$work/enough" ]; do
        CNI_COMMAND=VERSION CNI_PATH=/none "$bins/loopback" </dev/null >"$work/said" 2>&1 || { echo "call $calls: $(cat "$work/said")" && return 1; }
        calls=$((calls + 1))
    done
    [ $calls -gt 5 ] || { echo "only $calls calls" && return 1; }
}
under_load() {
    local pid round
    install || return 1
    caller &
    pid=$!
    for round in {1..3}; do install || return 1; done
    touch "$work/enough"
    wait $pid
}

before
check "install" installed
check "undo: as before" undone
before
check "install twice, undo" twice
before
check "undo: what is newer stays" replaced_since
before
check "a broken file: nothing touched" broken
before
check "replaced under calls" under_load
check "undo after all" undone
