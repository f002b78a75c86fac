#!/usr/bin/env bash
# Times our plugins against those of other directories, interleaved, in private sandboxes.
# Usage: hack/bench.sh [attach|bursts|plugins|ports|firewall|host-local|overlay|names|share] [--rounds N] [OPTIONS] [--ours DIR] [--against DIR[=BACKEND]]...
#   attach        ADD and DEL of a whole chain: bridge, host-local, masquerade, portmap (the default); beside that, the start of
#                 its executables, and the floor: what the kernel takes for the same when it is asked without a plugin
#     --population N  containers that are attached before the measurement (a bridge takes about 1000)
#     --dual-stack    also with IPv6
#   bursts        ADD and DEL of many such chains, 1, 4, 16 and 32 at once
#   plugins       ADD and DEL of single plugins, each on what it needs and no more
#     --only PLUGIN   this one; more than once: these
#   ports         a new TCP connection through a published port while the node publishes 10, 1000 and 3000
#   firewall      ADD, DEL and new TCP connections on a node that lets 10, 250 and 1000 other containers through
#     --legacy        with the legacy iptables tools
#   host-local    ADD, CHECK and DEL at up to 65533 reservations
#   overlay       round trips and throughput between containers of two hosts, beside the underlay and a VXLAN made by hand
#   names         lookups of containers' names beside dnsmasq and aardvark-dns; ADD, memory, the time without an answer after a kill
#   share         ports that several containers share: spread, connections and ADD with 1 and 1000 shares, a container that leaves
#   --ours DIR      our plugins; without it: builds bin/
#   --against DIR   a directory to compare with; default: Debian's Go plugins. The first one is the measure.
# Ours are measured with both backends where packet rules are made.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

what=attach
case ${1:-} in
attach | bursts | plugins | ports | firewall | host-local | overlay | names | share) what=$1 && shift ;;
esac
ours=
others=()
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --ours | --against | --rounds | --population | --only) [ $# -gt 1 ] || fail "$1 needs a value" ;;&
    --ours) ours=$(cd "$2" && pwd) || fail "no directory $2" && shift ;;
    --against) others+=("$2") && shift ;;
    --rounds | --population | --only) options+=("$1" "$2") && shift ;;
    --dual-stack | --legacy) options+=("$1") ;;
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

contestants=("${others[@]}" "$ours=nftables" "$ours=iptables")
case $what in
host-local | plugins) contestants=("${others[@]}" "$ours") ;;
overlay | share) contestants=("$ours") ;;
names) need_packages dnsmasq-base aardvark-dns && contestants=("$ours") ;;
esac
say "bench $what"
"${CARGO_TARGET_DIR:-target}/release/bench" "$what" ${options[@]+"${options[@]}"} "${contestants[@]}"
