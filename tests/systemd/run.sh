#!/usr/bin/sh
# What outlives a call, under a real systemd: the resolver of names and the daemon of leases, in a scope of their own or under the
# packaged units. Runs in the virtual machine of hack/test-vm.sh, whose first process is systemd, and nowhere else.
set -u
plugins=/usr/lib/cni
passed=0
failed=0

# say STATUS WHAT: counts a line
say() {
    if [ "$1" = 0 ]; then passed=$((passed + 1)) && echo "ok      $2"; else failed=$((failed + 1)) && echo "FAILED  $2"; fi
}

# call VERB ID CONFIGURATION [RESULT]: one plugin, named by the configuration
call() {
    conf=$3
    [ -z "${4:-}" ] || conf=$(echo "$3" | jq -c --argjson result "$4" '.prevResult = $result')
    echo "$conf" | CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 CNI_IFNAME=eth0 CNI_PATH=$plugins \
        CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAME=$2" "$plugins/$(echo "$3" | jq -r .type)"
}

of_plugin() {
    jq -c --arg type "$1" '. as $all | .plugins[] | select(.type == $type) | .name = $all.name | .cniVersion = $all.cniVersion' \
        /conf-examples/93-names.conflist
}
bridge=$(of_plugin bridge)
names=$(of_plugin dnsname)

# add ID, del ID: the chain
add() {
    ip netns add "$1" && result=$(call ADD "$1" "$bridge") && call ADD "$1" "$names" "$result" >/dev/null
}
del() {
    call DEL "$1" "$names" && call DEL "$1" "$bridge" && ip netns del "$1"
}

# finds NAME: from the client
finds() {
    ip netns exec client dig +short +time=1 +tries=3 @10.193.0.1 "$1" | grep -q '^10\.193\.0\.'
}

resolver() {
    pidof dnsname || pgrep -f 'dnsname resolver|dnsname$'
}

# until_true COMMAND...: within 20 s
until_true() {
    for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    return 1
}

# the runtime: a unit whose processes systemd kills all when it is stopped
if [ "${1:-}" = runtime ]; then
    add web && add client && touch /run/added
    exec sleep 1000
fi

none_runs() { ! resolver; }
is_new() { [ "$(systemctl show -P MainPID cni-dnsname)" != "$1" ] && [ "$(systemctl show -P MainPID cni-dnsname)" != 0 ]; }

echo "== the resolver of names in a scope"
systemd-run --quiet --unit=runtime --setenv=PATH="$PATH" /usr/bin/sh "$0" runtime
until_true test -e /run/added
say $? "a runtime's unit adds two containers"
first=$(resolver)
grep -q '/system.slice/run-.*\.scope$' "/proc/$first/cgroup"
say $? "the resolver has a scope of its own: $(cat "/proc/$first/cgroup")"
finds web
say $? "a name is found"
systemctl stop runtime
[ "$(resolver)" = "$first" ] && finds web
say $? "it goes on when the runtime's unit is stopped"

echo "== the packaged unit"
systemctl start cni-dnsname
[ "$(resolver | wc -w)" = 2 ] || until_true /usr/bin/sh -c 'pidof dnsname | grep -q " "'
kill -9 "$first"
until_true finds web
say $? "a name is found again after the scope's was killed: the unit's takes over"
main=$(systemctl show -P MainPID cni-dnsname)
[ "$(resolver)" = "$main" ]
say $? "it is the only one"
status=$(grep -E '^(Uid|Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' "/proc/$main/status" | tr -s '\t\n' ' ')
[ "$status" = "Uid: 65534 65534 65534 65534 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 " ]
say $? "it has no privileges: $status"
kill -9 "$main"
until_true is_new "$main" && until_true finds web
say $? "systemd starts it again when it is killed"
del web && ! finds web
say $? "a container that is deleted is not found"
del client && [ "$(resolver)" = "$(systemctl show -P MainPID cni-dnsname)" ]
say $? "without containers it stays"
add client && of_client=$result && add web && finds web && [ "$(resolver)" = "$(systemctl show -P MainPID cni-dnsname)" ]
say $? "the next ADD uses it and starts none"
systemctl stop cni-dnsname
call CHECK client "$names" "$of_client" && finds web
say $? "after the unit is stopped the next call starts one"
del web
del client && until_true none_runs
say $? "which ends with the last container"

echo "== the daemon of leases"
dhcp='{"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": {"type": "dhcp"}}'
status_of() {
    echo "$dhcp" | CNI_COMMAND=STATUS CNI_PATH=$plugins "$plugins/dhcp"
}
systemctl start cni-dhcp.socket
status_of
say $? "STATUS with the unit's socket"
socket_serves() { systemctl is-active --quiet cni-dhcp.service; }
ip netns add leaseless
ip link add host0 type veth peer name eth0 netns leaseless
echo "$dhcp" | CNI_COMMAND=DEL CNI_CONTAINERID=leaseless CNI_NETNS=/run/netns/leaseless CNI_IFNAME=eth0 CNI_PATH=$plugins "$plugins/dhcp"
say $? "DEL of a container without a lease"
until_true socket_serves
say $? "the first call started the daemon by its socket"

systemctl --failed --no-legend | grep -v test.service | grep .
say $((1 - $?)) "no unit has failed"
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed"
[ $failed = 0 ]
