#!/usr/bin/env bash
# Times ADD and DEL of a whole chain against other plugin directories, interleaved, in private sandboxes.
# Usage: hack/bench.sh [--rounds N] [--population N] [--dual-stack] [--ours DIR] [--against DIR[=BACKEND]]...
#   --against     a directory to compare with; default: Debian's Go plugins. The first one is the measure.
#   --population  containers that are attached before the measurement (a bridge takes about 1000)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

ours=
others=()
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --ours) ours=$(cd "$2" && pwd) && shift ;;
    --against) others+=("$2") && shift ;;
    --rounds | --population) options+=("$1" "$2") && shift ;;
    --dual-stack) options+=("$1") ;;
    *) fail "unknown option $1" ;;
    esac
    shift
done

need_root
need_tools
need_build
cd "$repo"
if [ ${#others[@]} -eq 0 ]; then
    need_packages containernetworking-plugins
    others=(/usr/lib/cni)
fi
if [ -z "$ours" ]; then
    say "build"
    hack/build.sh
    ours=$repo/bin
fi
cargo build --quiet --release --locked -p cni-tests --bin bench

say "bench"
"${CARGO_TARGET_DIR:-target}/release/bench" ${options[@]+"${options[@]}"} \
    "${others[@]}" "$ours=nftables" "$ours=iptables"
