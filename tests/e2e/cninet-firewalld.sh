#!/usr/bin/env bash
# cninet reload after firewalld has been reloaded and restarted: what firewalld knew of containers is lost with its runtime
# configuration. A download runs through it all.
. "$(dirname "$0")/node.sh"
. "$(dirname "$0")/story.sh"

cninet() { /opt/cni/bin/cninet "$@"; }
netns() { echo "/run/netns/$1"; }

start() {
    ip netns add "$1" && ip -n "$1" link set lo up || return 1
    CAP_ARGS="{\"portMappings\":$(mappings "$2")}" cninet add walled "$(netns "$1")" --id "$1" >"$work/$1.json" || return 1
    nsenter --net="$(netns "$1")" "$BUILT/peer" serve "$1" 80 >/dev/null 2>&1 &
    within 20 ask "$1" tcp 127.0.0.1 80
}

# firewalld_up: on a bus of its own
firewalld_up() {
    mkdir -p /run/dbus /run/firewalld
    mount -t tmpfs tmpfs /etc/firewalld
    # Containers are behind the node, which forwards for known sources only.
    printf 'DefaultZone=public\nFirewallBackend=%s\nIPv6_rpfilter=no\nLogDenied=off\n' "$BACKEND" >/etc/firewalld/firewalld.conf
    printf '<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/><allow user="*"/></policy></busconfig>' >/run/dbus/e2e.conf
    dbus-daemon --config-file=/run/dbus/e2e.conf --nofork --nopidfile 2>/dev/null &
    must within 20 test -S /run/dbus/system_bus_socket
    firewalld --nofork --nopid >"$work/firewalld.log" 2>&1 &
    echo $! >"$work/firewalld.pid"
    must within 60 firewall-cmd --state
}
firewalld_again() {
    kill "$(cat "$work/firewalld.pid")" && within 30 sh -c '! firewall-cmd --state' || return 1
    firewalld --nofork --nopid >>"$work/firewalld.log" 2>&1 &
    echo $! >"$work/firewalld.pid"
    within 60 firewall-cmd --state
}

works() { masqueraded one && masqueraded two && reached one 8081 outside && reached two 8082 outside; }
known() { firewall-cmd --get-zone-of-source="$(address one 4)/32"; }

# A slow download from the world outside, through masquerading and firewalld, over all that happens.
download_begins() {
    nsenter --net=/run/netns/outside sh -c 'for n in $(seq 200); do echo 0123456789; sleep 0.1; done | nc -l -p 7777 -N' &
    sleep 1
    nsenter --net="$(netns one)" nc "$world4" 7777 </dev/null >"$work/download" &
    within 10 test -s "$work/download"
}
download_ends() { within 60 whole; }
whole() { is "$(wc -l <"$work/download")" 200; }

reload() { firewall-cmd --reload && { ! known || { echo "it still knows the containers" && return 1; }; } && cninet reload && known && works; }
restart() { firewalld_again && cninet reload && known && works; }
twice() { is "$(cninet reload | tail -1)" "0 repaired, 2 were whole"; }
ends() {
    local name
    for name in one two; do cninet del walled "$(netns "$name")" --id "$name" || return 1; done
    ! known && is "$(cninet leaks --unrecorded --json)" '[]'
}

node
conflist walled cni0 94 | jq '.plugins[1].capabilities = {portMappings: true} | .plugins += [{type: "firewall", backend: "firewalld"}]' >/etc/cni/net.d/walled.conflist
firewalld_up
must start one 8081
must start two 8082
check "firewalld: containers work" works
must download_begins
check "firewalld: cninet reload after its reload" reload
check "firewalld: cninet reload after its restart" restart
check "firewalld: nothing to do after that" twice
check "firewalld: the download went on" download_ends
check "firewalld: detached" ends
