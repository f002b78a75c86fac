# A rolling update under requests loses none, if pods go on serving until kube-proxy has heard of their end.

section_rolling() {
    local begun
    deployment rolled 4 1 5
    available rolled >/dev/null
    service rolled rolled NodePort
    pod client 2
    within 30 answers client tcp "$(cluster_ip)" 80 'rolled-*' >/dev/null
    probe outside load "$(node4 1):$(node_port rolled tcp)" 30 40 >"$WORK/load.outside" 2>&1 &
    probe client load "$(target "$(cluster_ip)" 80)" 30 40 >"$WORK/load.client" 2>&1 &
    sleep 2
    begun=$EPOCHREALTIME
    deployment rolled 4 2 5
    check "four pods are replaced, one after the other" available rolled
    measured "rolling update of four pods" "$(seconds_since "$begun")"
    within 60 grep -q lost "$WORK/load.outside" >/dev/null || true
    within 60 grep -q lost "$WORK/load.client" >/dev/null || true
    check "NodePort from outside: no connection is lost" none_lost outside
    check "ClusterIP from a pod: no connection is lost" none_lost client
    no_pods client
    k delete deployment,service rolled >/dev/null
    within 60 none_of rolled
}
cluster_ip() { k get service rolled -o json | jq -r '.spec.clusterIPs[0]'; }
none_lost() {
    cat "$WORK/load.$1"
    grep -q '^0 of [1-9]' "$WORK/load.$1"
}
