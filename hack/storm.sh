#!/usr/bin/env bash
# A storm: many containers come and go at once on whole chains (bridge and ptp with host-local, tuning, portmap, firewall; both
# backends; dual stack) while GC and STATUS run, plugins are killed, run out of descriptors, threads, buffers or disk, and
# namespaces die. Each kill is followed by one DEL or one GC. Nothing may be left, held twice, lost, hang, abort or print
# anything but JSON. Prints calls by verb and outcome, kills, findings with the calls that led there, p50 and p99.
# Usage: hack/storm.sh [--minutes N] [--seed N] [--scene nftables|iptables|both|kinds|mixed]... [--workers N] [--self-test] [DIR]
#   --minutes    how long; without it each scene has one round of 20 s, as in CI
#   --seed       repeats the choices of a storm (not its timing); each storm prints its own
#   --scene      kinds: macvlan, tap, and names, limits, shared ports, a closed door and vxlan behind a bridge;
#                mixed: each call by DIR or by the Go plugins. Default: all five, one after the other
#   --self-test  instead: plugins that are wrong on purpose, each of which has to be found out
#   DIR          the plugins; without it: builds bin/
set -euo pipefail
. "$(dirname "$0")/lib.sh"

dir='' options=() self_test=''
while [ $# -gt 0 ]; do
    case $1 in
    --minutes | --seed | --scene | --workers)
        [ $# -gt 1 ] || fail "$1 needs a value"
        options+=("$1" "$2") && shift
        ;;
    --self-test) self_test=--self-test ;;
    -*) fail "unknown option $1" ;;
    *) dir=$(cd "$1" && pwd) || fail "no directory $1" ;;
    esac
    shift
done

need_root
need_tools
need_build
need_packages containernetworking-plugins
cd "$repo"
if [ -z "$dir" ]; then
    say "build"
    hack/build.sh
    dir=$repo/bin
fi
cargo build --quiet --locked -p cni-tests --bin storm

say "storm over $dir"
# The PID namespace ends whatever a killed plugin leaves running.
unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
    "${CARGO_TARGET_DIR:-target}/debug/storm" $self_test "${options[@]}" --other /usr/lib/cni "$dir" || fail "see above"
echo "OK: nothing found"
