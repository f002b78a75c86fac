# A node of its own: what every client's script sources first. Runs inside the namespaces that hack/test-e2e.sh makes.
#
# From the environment: CLIENT, the column's name; PLUGINS, the directory under test; BUILT, what was built for the
# suite; RESULTS, the file to which every check appends its line.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=1.0.0 # the newest that every client here can speak

# --- what is checked -------------------------------------------------------------------------------------------------

# check WHAT COMMAND...: one line of the table; goes on after a failure
check() {
    local what=$1 said begun=$EPOCHREALTIME
    shift
    if said=$("$@" 2>&1); then
        printf '%s\t%s\tok\n' "$CLIENT" "$what" >>"$RESULTS"
        printf '   ok      %s\n' "$what"
    else
        printf '%s\t%s\tFAILED\n' "$CLIENT" "$what" >>"$RESULTS"
        printf '   FAILED  %s\n%s\n' "$what" "$(sed 's/^/           /' <<<"$said" | head -40)"
    fi
    [ -z "${TIMES:-}" ] || echo "           $(((${EPOCHREALTIME/./} - ${begun/./}) / 1000)) ms"
}

# skip WHAT WHY: a line of the table that says that it wasn't tried
skip() {
    printf '%s\t%s\tskipped\n' "$CLIENT" "$1" >>"$RESULTS"
    printf '   skipped %s: %s\n' "$1" "$2"
}

# must COMMAND...: what isn't checked but has to work; the client's script ends with it
must() {
    local said
    said=$("$@" 2>&1) && return
    printf '%s\tends early\tFAILED\n' "$CLIENT" >>"$RESULTS"
    printf '   FAILED  %s\n%s\n' "$*" "$(sed 's/^/           /' <<<"$said" | tail -20)"
    exit 1
}

is() { [ "$1" = "$2" ] || { echo "expected '$2', got '$1'" && return 1; }; }

# within SECONDS COMMAND...: until it holds
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || { echo "not within the time: $*" && "$@" && return 1; return 1; }
        sleep 0.05
    done
}

# --- the node --------------------------------------------------------------------------------------------------------

node4=192.0.2.1 node6=2001:db8::1 world4=192.0.2.2 world6=2001:db8::2

# node: hides the machine behind empty directories and joins the node to an outside host
node() {
    # A fresh sysfs belongs to this network namespace; the cgroup mounts below it have to be kept.
    local cgroups folder
    cgroups=$(mktemp -d)
    mount --rbind /sys/fs/cgroup "$cgroups"
    mount -t sysfs sysfs /sys
    mount --rbind "$cgroups" /sys/fs/cgroup
    umount -R -l "$cgroups" && rmdir "$cgroups"
    for folder in /var/lib/cni /var/lib/containerd /var/lib/containers /etc/cni /opt; do
        mkdir -p "$folder" 2>/dev/null || true
    done
    for folder in /run /var/lib /etc/cni /etc/containerd /opt; do mount -t tmpfs -o mode=0755 tmpfs "$folder"; done
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mkdir -p /var/lib/{cni,containerd,containers} /run/lock /opt/cni/bin /etc/cni/net.d
    install -m 0755 "$PLUGINS"/* /opt/cni/bin/
    work=$(mktemp -d -p /run)
    # Debian's containerd and Podman look there too; they must find what is under test.
    [ ! -d /usr/lib/cni ] || cp -r /usr/lib/cni "$work/theirs"
    mount -t tmpfs -o mode=0755 tmpfs /usr/lib/cni
    ip link set lo up
    ip netns add outside
    ip -n outside link set lo up
    ip link add up0 type veth peer name eth0 netns outside
    ip addr add "$node4/24" dev up0 && ip addr add "$node6/64" dev up0 nodad && ip link set up0 up
    ip -n outside addr add "$world4/24" dev eth0 && ip -n outside addr add "$world6/64" dev eth0 nodad
    ip -n outside link set eth0 up
    ip route add default via "$world4" && ip -6 route add default via "$world6"
    nsenter --net=/run/netns/outside "$BUILT/peer" serve world 7000 &
    cd "$work"
}

# has_names: the directory has this project's dnsname; the Go plugin of that name knows no version 1.1.0
has_names() { CNI_COMMAND=VERSION /opt/cni/bin/dnsname </dev/null 2>/dev/null | jq -e '.supportedVersions | index("1.1.0")' >/dev/null; }

# conflist NAME BRIDGE NET [PORT-MAPPINGS]: the network of most clients, dual stack; ports fixed or given by the runtime
conflist() {
    jq -n --arg v "$version" --arg name "$1" --arg bridge "$2" --arg n "$3" --arg backend "${BACKEND:-nftables}" \
        --argjson ports "${4:-null}" '{cniVersion: $v, name: $name, plugins: [
        {type: "bridge", bridge: $bridge, isDefaultGateway: true, ipMasq: true, ipMasqBackend: $backend, hairpinMode: true,
         ipam: {type: "host-local", ranges: [[{subnet: "10.\($n).0.0/24"}], [{subnet: "fd00:\($n)::/64"}]]}},
        ({type: "portmap", backend: $backend, capabilities: {portMappings: true}}
         + if $ports then {runtimeConfig: {portMappings: $ports}} else {} end)]}'
}

# mappings PORT: how PORT is published everywhere: both protocols, to 80 inside
mappings() {
    jq -nc --argjson p "$1" '[{hostPort: $p, containerPort: 80, protocol: "tcp"}, {hostPort: $p, containerPort: 80, protocol: "udp"}]'
}

# --- looking into it -------------------------------------------------------------------------------------------------

# at PLACE COMMAND...: runs a command as `node`, `outside`, or in a container's network namespace
at() {
    case $1 in
    node) "${@:2}" ;;
    outside) nsenter --net=/run/netns/outside "${@:2}" ;;
    *) nsenter --net="$(netns "$1")" "${@:2}" ;;
    esac
}

# address CONTAINER 4|6
address() { at "$1" ip -j addr show scope global | jq -er --arg f "$2" '[.[] | .addr_info[] | select(.family == ({"4": "inet", "6": "inet6"}[$f])) | .local][0]'; }

pings() { at "$1" ping -q -n -c1 -w10 "$2"; }

ask() { # PLACE PROTOCOL ADDRESS PORT
    local to=$3
    case $3 in *:*) to="[$3]" ;; esac
    at "$1" "$BUILT/peer" ask "$2" "$to:$4"
}

# sees PLACE PROTOCOL ADDRESS PORT ANSWER...: one of the answers comes, and no other. On a busy machine it may take a while.
sees() {
    local said answer
    for _ in {1..5}; do said=$(ask "$1" "$2" "$3" "$4") && break; done
    [ -n "$said" ] || { echo "no answer for $1 at $3 $4/$2" && return 1; }
    for answer in "${@:5}"; do
        # shellcheck disable=SC2053 # the answer is a pattern
        [[ $said != $answer ]] || return 0
    done
    echo "$1 asked $3 $4/$2: expected '${*:5}', got '$said'" && return 1
}

# both PLACE ADDRESS PORT ANSWER...: over tcp and udp
both() { sees "$1" tcp "${@:2}" && sees "$1" udp "${@:2}"; }

# state: everything that a container could leave behind
state() {
    local tool
    echo "# links"
    ip -o link | awk '{ sub("@.*", "", $2); sub(":$", "", $2); print $2 }'
    # Without link-local ones: they appear when their interface has finished looking for duplicates.
    echo "# addresses and routes"
    ip -o addr | awk '$4 !~ /^fe80/ { print $2, $3, $4 }'
    { ip route show table all && ip -6 route show table all; } | sed '/^\(broadcast\|anycast\|multicast\|ff00\)/d; /fe80/d; s/ pref medium//; s/ expires [0-9]*sec//; s/ linkdown//'
    # Sorted: rules of the node's own come in the order in which its networks were first used.
    echo "# rules"
    nft -s list ruleset 2>/dev/null | sed 's/counter packets [0-9]* bytes [0-9]*//' | sort || true
    for tool in iptables ip6tables iptables-legacy ip6tables-legacy; do
        "$tool-save" 2>/dev/null | sed '/^#/d; s/\[[0-9]*:[0-9]*\]//' | sort || true
    done
    echo "# files"
    { find /var/lib/cni /run/netns /run/cni /etc/cni -mindepth 1 ! -name 'last_reserved_ip.*' ! -type d -printf '%p %m\n' 2>/dev/null || true; } | sed '/\/lock /d; /\/.host-local\//d' | sort
    echo "# namespaces"
    readlink /proc/[0-9]*/ns/net | sort -u | wc -l
    echo "# processes"
    ps -e -o comm= | sed -E '/^(ps|awk|sed|grep|bash|sort|diff)$/d' | sort
}

# remember: what to compare with later. The bridge's address has its route only when no duplicate was found, which the Go
# plugins don't wait for.
remember() {
    within 20 settled && state >"$work/before"
}
settled() { [ -z "$(ip -6 -o addr show tentative scope global)" ]; }

# nothing_left: links, addresses, rules, files, namespaces and processes are as they were. The kernel and the runtimes'
# helpers finish in their own time.
nothing_left() {
    local round left
    for round in {1..40}; do
        left=$(diff "$work/before" <(state)) && return 0
        sleep 0.1
    done
    grep '^[<>]' <<<"$left" && return 1
}
