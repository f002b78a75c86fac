#!/usr/bin/env bash
# Times the firewall plugin on a node whose FORWARD policy is DROP and that lets through 10, 250 and 1000 other containers:
# ADD and DEL (milliseconds, median), and a new TCP connection (microseconds, median) of the container that came last, and
# to a published port of it: ours with both backends and another firewall plugin with iptables, interleaved. The published
# port is measured with policy ACCEPT, for under DROP the Go plugin lets nobody in.
# Usage: [ROUNDS=20] [TOOLS=legacy] hack/bench-firewall.sh [OUR-FIREWALL [OTHER-FIREWALL]]
#        default: the iptables of PATH, bin/firewall, /usr/lib/cni/firewall
#
# The others' rules are copies of those that the plugin made for a first container, and elements of our sets: a thousand
# ADDs of the other plugin would take minutes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ -z "${CNI_BENCH_INSIDE:-}" ]; then
    need_root
    need_tools
    need_packages python3
    [ -n "${1:-}" ] || "$repo/hack/build.sh"
    [ -n "${2:-}" ] || need_packages containernetworking-plugins
    ours=$(realpath "${1:-$repo/bin/firewall}")
    other=$(realpath "${2:-/usr/lib/cni/firewall}")
    [ -x "$ours" ] || fail "no $ours"
    [ -x "$other" ] || fail "no $other"
    # On one processor: where the scheduler puts client and server makes more difference than what is measured.
    exec taskset -c 1 env CNI_BENCH_INSIDE=1 unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$repo/hack/bench-firewall.sh" "$ours" "$other"
fi
ours=$1 other=$2 rounds=${ROUNDS:-20}
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
if [ "${TOOLS:-}" = legacy ]; then
    mkdir /run/tools
    for tool in iptables ip6tables; do
        for part in '' -save -restore; do ln -s "/usr/sbin/$tool-legacy$part" "/run/tools/$tool$part"; done
    done
    export XTABLES_LOCKFILE=/run/xtables.lock
    PATH=/run/tools:$PATH
fi

# `none` has no plugin, and always the policy ACCEPT
variants=(none nftables iptables other)
executable() { if [ "$1" = other ]; then echo "$other"; else echo "$ours"; fi; }
backend() { if [ "$1" = other ]; then echo iptables; else echo "$1"; fi; }

# node VARIANT: a container, a node and an outside host, one veth each
node() {
    local n=n-$1 c=c-$1 w=w-$1 ns
    for ns in "$n" "$c" "$w"; do
        ip netns add "$ns"
        ip -n "$ns" link set lo up
    done
    ip -n "$n" link add up0 type veth peer name eth0 netns "$w"
    ip -n "$n" link add veth0 type veth peer name eth0 netns "$c"
    ip -n "$n" addr add 192.0.2.1/24 dev up0
    ip -n "$n" addr add 10.88.0.1/24 dev veth0
    ip -n "$w" addr add 192.0.2.2/24 dev eth0
    ip -n "$c" addr add 10.88.0.2/24 dev eth0
    for end in "$n up0" "$n veth0" "$w eth0" "$c eth0"; do ip -n "${end% *}" link set "${end#* }" up; done
    ip -n "$w" route add default via 192.0.2.1
    ip -n "$c" route add default via 10.88.0.1
    ip netns exec "$n" sysctl -qw net.ipv4.ip_forward=1
    ip netns exec "$n" iptables -t nat -A PREROUTING -i up0 -p tcp --dport 8080 -j DNAT --to-destination 10.88.0.2:80
    [ "$1" = none ] || ip netns exec "$n" iptables -P FORWARD DROP
    ip netns exec "$w" python3 "$repo/hack/bench-connect.py" serve &
    ip netns exec "$c" python3 "$repo/hack/bench-connect.py" serve &
}

# conf VARIANT ADDRESS
conf() {
    cat <<EOF
{"cniVersion": "1.0.0", "name": "bench", "type": "firewall", "backend": "$(backend "$1")",
 "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/c-$1"}],
  "ips": [{"address": "$2/24", "interface": 1}]}}
EOF
}

# firewall VARIANT VERB CONTAINER ADDRESS
firewall() {
    conf "$1" "$4" | CNI_COMMAND=$2 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/c-$1 CNI_IFNAME=eth0 CNI_PATH=/nowhere \
        ip netns exec "n-$1" "$(executable "$1")" >/run/out || fail "$1: firewall $2: $(cat /run/out)"
}

# populate VARIANT FROM TO: further containers, with addresses in 10.77.0.0/16
populate() {
    local table='/10\.77\.0\.1\/32/ { rules[++count] = $0 }
        END {
            print "*filter"
            for (i = from; i <= to; i++) for (r = 1; r <= count; r++) {
                rule = rules[r]
                gsub(/10\.77\.0\.1\//, "10.77." int(i / 250) "." (i % 250 + 1) "/", rule)
                gsub(/id: first/, "id: first" i, rule)
                print rule
            }
            print "COMMIT"
        }'
    case $1 in
    none) ;;
    nftables)
        for ((i = $2; i <= $3; i++)); do
            echo "add element inet cni_firewall accept4 { 10.77.$((i / 250)).$((i % 250 + 1)) comment \"other $i\" }"
        done | ip netns exec "n-$1" nft -f -
        ;;
    *)
        ip netns exec "n-$1" iptables-save -t filter | awk -v from="$2" -v to="$3" "$table" >/run/rules
        ip netns exec "n-$1" iptables-restore --noflush </run/rules
        ;;
    esac
}

cat >/run/call.py <<'EOF'
import os, subprocess, sys, time
executable, netns, conf = sys.argv[1], sys.argv[2], open("/run/conf", "rb").read()
base = dict(os.environ, CNI_CONTAINERID="measured", CNI_NETNS=netns, CNI_IFNAME="eth0", CNI_PATH="/nowhere")
for verb in ["ADD", "DEL"]:
    start = time.perf_counter_ns()
    subprocess.run([executable], input=conf, env=dict(base, CNI_COMMAND=verb), stdout=subprocess.DEVNULL, check=True)
    print(verb, (time.perf_counter_ns() - start) / 1e6)
EOF

# ask NAMESPACE ADDRESS PORT: microseconds, a line each
ask() { ip netns exec "$1" timeout 60 python3 "$repo/hack/bench-connect.py" ask "$2" "$3" 100; }
median() { sort -n | awk '{ v[NR] = $1 } END { if (NR) printf "%.1f", v[int((NR + 1) / 2)]; else printf "-" }'; }

for v in "${variants[@]}"; do node "$v"; done
for v in "${variants[@]:1}"; do firewall "$v" ADD first 10.77.0.1; done
sleep 1
printf '%-12s %-10s %14s %14s %14s %14s\n' containers what "no firewall" "ours nftables" "ours iptables" "Go iptables"
there=1
for count in 10 250 1000; do
    for v in "${variants[@]}"; do
        populate "$v" "$there" $((count - 1))
        rm -f /run/*-"$v"
        : >/run/ms-"$v"
    done
    there=$count
    for ((round = 0; round < rounds; round++)); do
        for v in "${variants[@]:1}"; do
            conf "$v" 10.88.0.9 >/run/conf
            ip netns exec "n-$v" python3 /run/call.py "$(executable "$v")" "/run/netns/c-$v" >>/run/ms-"$v"
        done
    done
    for v in "${variants[@]:1}"; do firewall "$v" ADD measured 10.88.0.2; done
    for ((round = 0; round < rounds; round++)); do
        for v in "${variants[@]}"; do ask "c-$v" 192.0.2.2 80 >>"/run/out-$v"; done
    done
    for v in "${variants[@]:1}"; do ip netns exec "n-$v" iptables -P FORWARD ACCEPT; done
    for ((round = 0; round < rounds; round++)); do
        for v in "${variants[@]}"; do ask "w-$v" 192.0.2.1 8080 >>"/run/in-$v"; done
    done
    for v in "${variants[@]:1}"; do ip netns exec "n-$v" iptables -P FORWARD DROP; done
    for what in ADD DEL; do
        row=()
        for v in "${variants[@]}"; do row+=("$(awk -v verb=$what '$1 == verb { print $2 }' /run/ms-"$v" | median)"); done
        printf '%-12s %-10s %14s %14s %14s %14s\n' "$count" "$what ms" "${row[@]}"
    done
    for what in out in; do
        row=()
        for v in "${variants[@]}"; do row+=("$(median <"/run/$what-$v")"); done
        printf '%-12s %-10s %14s %14s %14s %14s\n' "$count" "$what us" "${row[@]}"
    done
    for v in "${variants[@]:1}"; do firewall "$v" DEL measured 10.88.0.2; done
done
