# 0 -> 40 -> 0 pods, with these plugins and with the Go plugins, and how long each plugin takes.

section_churn() {
    local n who plugins
    scale_away web
    deployment churn 0
    for who in these Go; do
        plugins=$PLUGINS
        [ "$who" = these ] || plugins=$GO_PLUGINS
        timed "$plugins"
        for n in 1 2 3; do pod "warm$n" "$n" 8099; done
        no_pods warm1 warm2 warm3
        for n in 1 2 3; do remember "$n"; done
        up_and_down "$who"
        for n in 1 2 3; do check "$who plugins: node$n is as before" within 60 as_before "$n"; done
        for n in 1 2 3; do on "$n" rm -f /var/log/cni-times; done
        for n in 1 2 3 4 5; do pod "one$n" 1 8088 && no_pods "one$n"; done
        medians "$who plugins, one pod with a host port"
    done
    k delete deployment churn >/dev/null
    plugins_are "$PLUGINS"
}
# timed DIR: the stopwatch in each plugin's place
# shellcheck disable=SC2016 # the node's shell fills them in
timed() {
    local n
    for n in 1 2 3; do
        on "$n" bash -c 'rm -rf /opt/cni/timed /var/log/cni-times; mkdir /opt/cni/timed
            for name in bridge host-local portmap loopback; do
                cp "$0/$name" /opt/cni/timed/ && cp "$1" /opt/cni/bin/.new && mv /opt/cni/bin/.new "/opt/cni/bin/$name"; done' "$1" "$PROBE"
    done
}
up_and_down() { # WHO
    local begun=$EPOCHREALTIME
    k scale deployment churn --replicas=40 >/dev/null
    check "$1 plugins: 40 pods" available churn
    measured "$1 plugins, 0 to 40 pods" "$(seconds_since "$begun")"
    begun=$EPOCHREALTIME
    k scale deployment churn --replicas=0 >/dev/null
    check "$1 plugins: 0 pods" within 180 none_of churn
    measured "$1 plugins, 40 to 0 pods" "$(seconds_since "$begun")"
    medians "$1 plugins, 40 pods"
}
# medians TEXT: of what the stopwatches wrote, in milliseconds
medians() {
    local plugin command value
    while read -r plugin command value; do measured "$1: $plugin $command" "$value ms"; done < <(
        for n in 1 2 3; do on "$n" cat /var/log/cni-times 2>/dev/null || true; done | grep -E '^(bridge|portmap) (ADD|DEL) ' |
            sort -k1,2 -k3n | awk '
                $1 " " $2 != key { if (key) printf "%s %.1f\n", key, value[int((n + 1) / 2)] / 1000; key = $1 " " $2; n = 0 }
                { value[++n] = $3 }
                END { if (key) printf "%s %.1f\n", key, value[int((n + 1) / 2)] / 1000 }')
}
