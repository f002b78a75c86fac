#!/usr/bin/env bash
# Times a new TCP connection through a published port while the node publishes 10, 1000 and 3000: ours with both backends,
# another portmap with iptables, and no translation at all, interleaved in turning order. Microseconds, of ROUNDS x 100
# connections: the tenth part is as fast as this, or faster / the median. Where a processor goes to sleep between two packets or
# has other work, the median jumps, and the first number is the one to compare.
# Usage: [ROUNDS=20] hack/bench-ports.sh [OUR-PORTMAP [OTHER-PORTMAP]]   default: bin/portmap, /usr/lib/cni/portmap
#
# The measured port comes last. The others, thousands of ADDs, would take hours: with iptables their rules are copies of those
# that the plugin made for a first container, with nftables they are a range of one container, which is an element a port.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ -z "${CNI_BENCH_INSIDE:-}" ]; then
    need_root
    need_tools
    need_packages python3
    [ -n "${1:-}" ] || "$repo/hack/build.sh"
    [ -n "${2:-}" ] || need_packages containernetworking-plugins
    ours=$(realpath "${1:-$repo/bin/portmap}")
    other=$(realpath "${2:-/usr/lib/cni/portmap}")
    [ -x "$ours" ] || fail "no $ours"
    [ -x "$other" ] || fail "no $other"
    exec env CNI_BENCH_INSIDE=1 unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$repo/hack/bench-ports.sh" "$ours" "$other"
fi
ours=$1 other=$2 rounds=${ROUNDS:-20}
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys

# plugin and backend of each variant; `direct` has none
variants=(direct nftables iptables other)
executable() { if [ "$1" = other ]; then echo "$other"; else echo "$ours"; fi; }
backend() { if [ "$1" = other ]; then echo iptables; else echo "$1"; fi; }

# node VARIANT: a client, a node and a container, one veth each
node() {
    local n=n-$1 c=c-$1 w=w-$1 ns
    for ns in "$n" "$c" "$w"; do
        ip netns add "$ns"
        ip -n "$ns" link set lo up
    done
    ip -n "$n" link add up0 type veth peer name eth0 netns "$c"
    ip -n "$n" link add veth0 type veth peer name eth0 netns "$w"
    ip -n "$n" addr add 192.0.2.1/24 dev up0
    ip -n "$n" addr add 10.88.0.1/24 dev veth0
    ip -n "$c" addr add 192.0.2.2/24 dev eth0
    ip -n "$w" addr add 10.88.0.2/24 dev eth0
    ip -n "$n" link set up0 up
    ip -n "$n" link set veth0 up
    ip -n "$c" link set eth0 up
    ip -n "$w" link set eth0 up
    ip -n "$c" route add default via 192.0.2.1
    ip -n "$w" route add default via 10.88.0.1
    ip netns exec "$n" sysctl -qw net.ipv4.ip_forward=1
    ip netns exec "$w" python3 "$repo/hack/bench-connect.py" serve &
}

# portmap VARIANT VERB CONTAINER HOST-PORT [RANGE]
portmap() {
    CNI_COMMAND=$2 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/w-$1 CNI_IFNAME=eth0 CNI_PATH=/nowhere \
        ip netns exec "n-$1" "$(executable "$1")" >/run/out <<EOF || fail "$1: portmap $2: $(cat /run/out)"
{"cniVersion": "1.0.0", "name": "bench", "type": "portmap", "backend": "$(backend "$1")",
 "runtimeConfig": {"portMappings": [{"hostPort": $4, "containerPort": 80, "protocol": "tcp", "range": ${5:-1}}]},
 "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/w-$1"}],
  "ips": [{"address": "10.88.0.2/24", "interface": 1}]}}
EOF
}

# publish VARIANT FROM TO: host ports 20000+FROM up to 20000+TO, all to the same container
publish() {
    local i
    case $1 in
    direct) ;;
    nftables) portmap "$1" ADD "c$2" $((20000 + $2)) $(($3 - $2 + 1)) ;;
    *)
        ip netns exec "n-$1" iptables-save -t nat | awk -v from="$2" -v to="$3" '
            / 20000 |:20000 |dports 20000/ || /-A CNI-DN-/ { rules[++count] = $0 }
            /^-A CNI-HOSTPORT-DNAT/ && /dports 20000/ { chain = $NF }
            END {
                print "*nat"
                for (i = from; i <= to; i++) {
                    name = sprintf("CNI-DN-%021x", i)
                    print ":" name " - [0:0]"
                    for (r = 1; r <= count; r++) {
                        if (index(rules[r], chain) == 0) continue
                        rule = rules[r]
                        gsub(chain, name, rule); gsub(/20000/, 20000 + i, rule); gsub(/id: \\"c0\\"/, "id: \\\"c" i "\\\"", rule)
                        gsub(/id: c0,/, "id: c" i ",", rule)
                        print rule
                    }
                }
                print "COMMIT"
            }' >/run/rules
        ip netns exec "n-$1" iptables-restore --noflush </run/rules
        ;;
    esac
}

# ask VARIANT COUNT: microseconds, a line each
ask() {
    local to=192.0.2.1 port=19999
    [ "$1" != direct ] || to=10.88.0.2 port=80
    ip netns exec "c-$1" timeout 60 python3 "$repo/hack/bench-connect.py" ask "$to" "$port" "$2"
}

# summary FILE: first decile / median
summary() { sort -n "$1" | awk '{ v[NR] = $1 } END { printf "%.1f / %.1f", v[int((NR + 9) / 10)], v[int((NR + 1) / 2)] }'; }

for v in "${variants[@]}"; do node "$v"; done
for v in "${variants[@]:1}"; do portmap "$v" ADD c0 20000; done
sleep 1
printf '%-16s %14s %16s %16s %16s\n' "published ports" "no NAT" "ours nftables" "ours iptables" "Go iptables"
published=1
for count in 10 1000 3000; do
    for v in "${variants[@]:1}"; do
        publish "$v" "$published" $((count - 2))
        portmap "$v" ADD last 19999
    done
    published=$((count - 1))
    for v in "${variants[@]}"; do ask "$v" 50 >/dev/null && : >"/run/us-$v"; done
    for ((round = 0; round < rounds; round++)); do
        for ((turn = 0; turn < ${#variants[@]}; turn++)); do
            v=${variants[(turn + round) % ${#variants[@]}]}
            ask "$v" 100 >>"/run/us-$v"
        done
    done
    row=()
    for v in "${variants[@]}"; do row+=("$(summary "/run/us-$v")"); done
    printf '%-16s %14s %16s %16s %16s\n' "$count" "${row[@]}"
    for v in "${variants[@]:1}"; do portmap "$v" DEL last 19999; done
done
