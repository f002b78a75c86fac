#!/usr/bin/env bash
# Installs the executables on this node, or removes them and restores what was there before.
# Usage: hack/install.sh [--from DIR] [--bin-dir DIR] [--conf NAME [--conf-dir DIR]]
#        hack/install.sh --undo [--bin-dir DIR] [--conf-dir DIR]
#   --from      where the executables are; default: bin/, built if it isn't there
#   --bin-dir   where the runtime looks for them; default /opt/cni/bin (Debian's containerd and Podman: /usr/lib/cni)
#   --conf      also installs conf-examples/NAME.conflist
#   --conf-dir  where the runtime looks for networks; default /etc/cni/net.d
#   --undo      removes what was installed and restores what it had replaced
# Containers may be attached and detached meanwhile: every file is replaced atomically, by a rename.
# Replaced files are kept in .replaced/ of the same directory; a second installation does not overwrite them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

from='' bin_dir=/opt/cni/bin conf='' conf_dir=/etc/cni/net.d undo=''
while [ $# -gt 0 ]; do
    case $1 in
    --from | --bin-dir | --conf | --conf-dir)
        [ $# -gt 1 ] || fail "$1 needs a value"
        option=${1#--}
        printf -v "${option//-/_}" %s "$2"
        shift
        ;;
    --undo) undo=1 ;;
    *) fail "unknown option $1: see the head of $0" ;;
    esac
    shift
done

digest() { sha256sum <"$1" | cut -d' ' -f1; }

# swap_in FILE TARGET: FILE's content takes TARGET's place in one step, and is on the disk by then
swap_in() {
    local new
    new=$(dirname "$2")/.$(basename "$2").new
    cp --no-dereference --preserve=mode,timestamps,links "$1" "$new"
    [ -L "$new" ] || sync "$new"
    mv --no-target-directory "$new" "$2"
}

# put FILE TARGET MODE: installs one file; .replaced/ keeps what was there, .replaced/.installed says what is ours
put() {
    local name kept
    name=$(basename "$2")
    kept=$(dirname "$2")/.replaced
    mkdir -p "$kept"
    touch "$kept/.installed"
    if ! grep -q " $name\$" "$kept/.installed" && { [ -e "$2" ] || [ -L "$2" ]; }; then
        swap_in "$2" "$kept/$name"
    fi
    # The list is written first: after a crash in between, undo finds either the old file or ours.
    { grep -v " $name\$" "$kept/.installed" || true; echo "$(digest "$1") $name"; } >"$kept/.installed.new"
    mv "$kept/.installed.new" "$kept/.installed"
    swap_in "$1" "$2"
    chmod "$3" "$2"
}

# take_back DIR: undoes every `put` into a directory
take_back() {
    local sum name
    [ -e "$1/.replaced/.installed" ] || { echo "nothing was installed in $1" && return; }
    while read -r sum name; do
        if [ ! -e "$1/$name" ] || [ "$(digest "$1/$name")" = "$sum" ] || same "$1/$name" "$1/.replaced/$name"; then
            if [ -e "$1/.replaced/$name" ] || [ -L "$1/.replaced/$name" ]; then
                mv --no-target-directory "$1/.replaced/$name" "$1/$name"
                echo "restored  $1/$name"
            else
                rm -f "$1/$name"
                echo "removed   $1/$name"
            fi
        else
            # Another program has installed a file of this name since: it stays.
            echo "kept      $1/$name: another program has replaced it since"
            rm -f "$1/.replaced/$name"
        fi
    done <"$1/.replaced/.installed"
    rm -f "$1/.replaced/.installed"
    rmdir "$1/.replaced"
}
same() { [ -e "$1" ] && [ -e "$2" ] && cmp -s "$1" "$2"; }

# only_one DIR: no other installation works in the directory until this one ends
only_one() {
    exec {lock}<"$1"
    flock "$lock"
}

if [ -n "$undo" ]; then
    for dir in "$bin_dir" "$conf_dir"; do
        [ -d "$dir" ] || continue
        only_one "$dir"
        take_back "$dir"
    done
    exit
fi

if [ -z "$from" ]; then
    from=$repo/bin
    [ -x "$from/bridge" ] || "$repo/hack/build.sh"
fi
[ -z "$conf" ] || [ -e "$repo/conf-examples/$conf.conflist" ] ||
    fail "no conf-examples/$conf.conflist; available: $(cd "$repo/conf-examples" && basename -s .conflist *.conflist | xargs)"

# Every file must start on this machine; all are tried before the first target is touched.
for file in "$from"/*; do
    # The tools are no plugins; they say their name and version. They go beside them, where cninet looks for plugins first.
    [[ $("$file" --version </dev/null 2>&1) != "$(basename "$file") "* ]] || continue
    said=$(CNI_COMMAND=VERSION CNI_PATH=$from "$file" </dev/null 2>&1) && [[ $said == *supportedVersions* ]] ||
        fail "$file does not answer VERSION: $said"
done
mkdir -p "$bin_dir"
only_one "$bin_dir"
for file in "$from"/*; do put "$file" "$bin_dir/$(basename "$file")" 0755; done
echo "$(find "$from" -maxdepth 1 -type f ! -name '.*' | wc -l) executables installed in $bin_dir"

if [ -n "$conf" ]; then
    mkdir -p "$conf_dir"
    only_one "$conf_dir"
    put "$repo/conf-examples/$conf.conflist" "$conf_dir/$conf.conflist" 0644
    echo "network installed: $conf_dir/$conf.conflist"
fi
