# Sourced by run.sh and by the sections: checks, and what many sections need.

# --- the table -------------------------------------------------------------------------------------------------------

# row RESULT WHAT: RESULT is ok, FAILED or a measurement
row() { printf '%s\t%s\t%s\t%s\n' "$BACKEND" "${section:-}" "$2" "$1" >>"$WORK/results"; }

# check WHAT COMMAND...: a row of the table; goes on after a failure
check() {
    local what=$1 said begun=$EPOCHREALTIME
    shift
    if said=$("$@" 2>&1); then
        row ok "$what"
        printf '   ok      %s (%s)\n' "$what" "$(seconds_since "$begun")"
    else
        row FAILED "$what"
        printf '   FAILED  %s\n%s\n' "$what" "$(sed 's/^/           /' <<<"$said" | tail -20)"
    fi
}

# measured WHAT VALUE: a row with what it took
measured() {
    row "$2" "$1"
    printf '           %s: %s\n' "$1" "$2"
}

# --- objects ---------------------------------------------------------------------------------------------------------

# deployment NAME REPLICAS [ROUND [SECONDS]]: spread over the nodes; another ROUND is another template, SECONDS is how long a
# pod that ends goes on serving
deployment() {
    local lifecycle='{}'
    [ -z "${4:-}" ] || lifecycle="{preStop: {exec: {command: [/probe, sleep, \"$4\"]}}}"
    k apply -f - >/dev/null <<EOF
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: $2
  selector: {matchLabels: {app: $1}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: $((${4:-0} + 1))
      enableServiceLinks: false
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: $1}}}
      containers:
        - name: probe
          image: probe:1
          imagePullPolicy: Never
          env: [{name: ROUND, value: "${3:-1}"}]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          lifecycle: $lifecycle
EOF
}

# service NAME APP TYPE [KEY: VALUE]
service() {
    k apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Service
metadata: {name: $1}
spec:
  type: $3
  ipFamilyPolicy: RequireDualStack
  selector: {app: $2}
  ports:
    - {name: tcp, port: 80, targetPort: 8080, protocol: TCP}
    - {name: udp, port: 80, targetPort: 8080, protocol: UDP}
  ${4:-}
EOF
}

# pod NAME NODE [PORT]...: with host ports, each TCP and UDP; PORT is `8088` or `8088,hostIP: ADDRESS`. Waits until it is ready.
pod() {
    local ports='' port protocol name=$1 node=$2
    shift 2
    for port in "$@"; do
        for protocol in TCP UDP; do ports+="{containerPort: 8080, protocol: $protocol, hostPort: $port},"; done
    done
    k apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Pod
metadata: {name: $name, labels: {app: $name}}
spec:
  nodeName: node$node
  terminationGracePeriodSeconds: 1
  containers:
    - {name: probe, image: "probe:1", imagePullPolicy: Never, ports: [$ports]}
EOF
    k wait --for=condition=Ready "pod/$name" --timeout=60s >/dev/null
}
# no_pods NAME...: deleted, and gone
no_pods() { k delete pod "$@" --wait=true --timeout=120s >/dev/null; }

available() { k rollout status "deployment/$1" --timeout=180s; }
# scale NAME REPLICAS: and waits until it is so
scale() {
    k scale "deployment/$1" --replicas="$2" >/dev/null && available "$1" >/dev/null
    [ "$2" != 0 ] || within 120 none_of "$1"
}
none_of() { is "$(k get pods -l "app=$1" -o name)" ""; }

pods_of() { k get pods -l "app=$1" -o json | jq -r '.items[] | select(.metadata.deletionTimestamp == null) | .metadata.name'; }
# facts APP: a line for each pod: its name, node, IPv4 and IPv6 address
facts() {
    k get pods -l "app=$1" -o json | jq -r '.items[] | select(.metadata.deletionTimestamp == null)
        | ([.status.podIPs[].ip] | [map(select(contains(":") | not))[0], map(select(contains(":")))[0]]) as $ips
        | "\(.metadata.name) \(.spec.nodeName) \($ips[0]) \($ips[1])"'
}
ip4() { facts "$1" | cut -d' ' -f3; }
ip6() { facts "$1" | cut -d' ' -f4; }

# --- questions -------------------------------------------------------------------------------------------------------

# target ADDRESS PORT
target() { case $1 in *:*) echo "[$1]:$2" ;; *) echo "$1:$2" ;; esac; }

# probe PLACE ARGUMENT...: PLACE is `outside`, `router`, `node1` or a pod
probe() {
    case $1 in
    outside) outside "$PROBE" "${@:2}" ;;
    router) "$PROBE" "${@:2}" ;;
    node[0-9]) on "${1#node}" "$PROBE" "${@:2}" ;;
    *) k exec "$1" -- /probe "${@:2}" ;;
    esac
}

# answers PLACE PROTOCOL ADDRESS PORT ANSWER: "POD CLIENT-ADDRESS" as a pattern
answers() {
    local to said
    to=$(target "$3" "$4")
    said=$(probe "$1" get "$2" 3 "$to") || { echo "$1 asked $to/$2: $said" && return 1; }
    # shellcheck disable=SC2053 # a pattern
    [[ $said = "$to "$5 ]] || { echo "$1 asked $to/$2: expected '$5', got '$said'" && return 1; }
}
# silent PLACE PROTOCOL ADDRESS PORT: no answer
silent() {
    local said
    ! said=$(probe "$1" get "$2" 1 "$(target "$3" "$4")") || { echo "$1 got an answer: $said" && return 1; }
}

# answers_all PLACE PROTOCOL LINES: each line is "TARGET ANSWER"; one call asks them all
answers_all() {
    local targets said
    mapfile -t targets < <(cut -d' ' -f1 <<<"$3")
    said=$(probe "$1" get "$2" 3 "${targets[@]}") || true
    diff <(echo "$3") <(echo "$said")
}

# --- a node's state --------------------------------------------------------------------------------------------------

# state N: what pods can leave behind. kube-proxy's and the kubelet's own rules come and go.
# shellcheck disable=SC2016 # the node's shell fills them in
state() {
    on "$1" bash -c '
        ip -o link | sed "s/^[0-9]*: //; s/[:@].*//" | sort
        ip -o addr | awk "\$4 !~ /^fe80/ { print \$2, \$4 }" | sort
        { ip route; ip -6 route; } | grep -v fe80 | sed "s/ linkdown//; s/ pref medium//" | sort
        for tool in iptables ip6tables; do
            $tool-save | grep "^[-:]" | grep -v -e KUBE- -e "^:[A-Z]* ACCEPT" | sed "s/ \[[0-9:]*\]//" | sort
        done
        nft list tables | grep " cni_" | while read -r table; do
            nft -s list $table | sed "s/counter packets [0-9]* bytes [0-9]*//"
        done
        find /var/lib/cni -type f ! -name "last_reserved_ip*" ! -name "*lock" | sort
        ls /run/netns
        ps -e -o comm= | grep -xE "bridge|portmap|host-local|loopback|iptables.*|nft" | sort' 2>/dev/null || true
}
remember() { state "$1" >"$WORK/before$1"; }
as_before() { diff "$WORK/before$1" <(state "$1"); }

node_status() { k get node "node$1" -o json | jq -r '.status.conditions[] | select(.type == "Ready") | .status'; }
node_is() { is "$(node_status "$2")" "$1"; }
all_ready() { is "$(k get nodes -o json | jq -r '.items[].status.conditions[] | select(.type == "Ready") | .status' | sort -u)" True; }
ranges_of() { k get node "node$1" -o json | jq -r '.spec.podCIDRs[]'; }
agents() { k -n kube-system get pods -l app.kubernetes.io/name=cni-plugins-rust "$@"; }
agent_ready() { k -n kube-system rollout status daemonset/cni-plugins-rust --timeout=120s; }
