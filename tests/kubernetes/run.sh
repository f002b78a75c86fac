#!/usr/bin/env bash
# The cluster and its story, in the sandbox that hack/test-kubernetes.sh makes.
# Usage: tests/kubernetes/run.sh SECTION...
. "$(dirname "$0")/lib.sh"
. "$here/cluster.sh"
. "$here/checks.sh"
for file in "$here"/sections/*.sh; do
    # shellcheck source=/dev/null
    . "$file"
done

must() {
    local said
    said=$("$@" 2>&1) || { row FAILED "the cluster starts" && printf '%s: %s\n' "$*" "$said" && exit 1; }
}
begun=$EPOCHREALTIME
network
must "$here/control.sh"
for n in 1 2 3; do node_up "$n" & done
wait
registered() { is "$(k get nodes -o name | wc -l)" 3; }
must within 60 registered
say "API server and three nodes after $(seconds_since "$begun")"

for section in "$@"; do
    say "$section, $BACKEND"
    begun=$EPOCHREALTIME
    # A section that cannot go on ends; the others still run. Bash heeds -e only where nobody looks at the outcome.
    set +e
    (
        set -e
        trap 'ended=$?; [ $ended = 0 ] || echo "           ended by: $BASH_COMMAND"' EXIT
        "section_$section"
    )
    outcome=$?
    set -e
    [ $outcome = 0 ] || row FAILED "the section comes to its end"
    measured took "$(seconds_since "$begun")"
done
if [ -n "${SHELL_AFTER:-}" ]; then
    say "a shell in the sandbox; its end is the cluster's"
    bash --rcfile <(printf '. %q\n' "$here"/{lib,cluster,checks}.sh "$here"/sections/*.sh; echo 'set +eu') -i
fi
