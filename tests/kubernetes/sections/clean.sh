# Deleted pods leave nothing on their nodes.

section_clean() {
    local n
    deployment web 6
    available web >/dev/null
    # The rules that all pods share, and that stay, come with the first host port.
    for n in 1 2 3; do pod "warm$n" "$n" 8099; done
    no_pods warm1 warm2 warm3
    scale web 0
    for n in 1 2 3; do remember "$n"; done
    scale web 9
    for n in 1 2 3; do pod "published$n" "$n" 8088; done
    check "nine pods, and a host port on each node" published_on_all
    no_pods published1 published2 published3
    scale web 0
    for n in 1 2 3; do check "all deleted: node$n is as before" within 30 as_before "$n"; done
    check "no reservation and no namespace is left" nothing_reserved
    scale web 6
}
published_on_all() { for n in 1 2 3; do answers outside tcp "$(node4 "$n")" 8088 "published$n $outside4" || return 1; done; }
# reserved N: addresses that host-local has given away on node N
reserved() { on "$1" find /var/lib/cni/networks/pods -name '*[.:]*' ! -name 'last*' ! -name '.*' ! -name lock -printf '%f\n'; }
nothing_reserved() { for n in 1 2 3; do is "$(reserved "$n")" "" && is "$(on "$n" ls /run/netns)" "" || return 1; done; }
