#!/usr/bin/env bash
# ADD and DEL of host-local at growing numbers of reservations, ours and the Go plugin's alternately, in milliseconds.
#
#   hack/bench-host-local.sh [OURS [THEIRS]]
#
# Everything happens in a directory of its own under TMPDIR; no root needed. RUNS=n sets the number of pairs (21).
set -euo pipefail
cd "$(dirname "$0")/.."
ours=${1:-target/release/host-local}
theirs=${2:-/usr/lib/cni/host-local}
runs=${RUNS:-21}
[ -x "$ours" ] || { echo "no $ours: cargo build --release -p host-local" >&2; exit 1; }
[ -x "$theirs" ] || { echo "no $theirs: apt install containernetworking-plugins; only ours is measured" >&2; theirs=; }
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
export CNI_PATH=/nonexistent CNI_NETNS=/nonexistent CNI_IFNAME=eth0

conf() { # NETWORK
  printf '{"cniVersion":"1.0.0","name":"%s","ipam":{"type":"host-local","dataDir":"%s","ranges":[[{"subnet":"10.64.0.0/16"}]]}}' \
    "$1" "$state" >"$state/$1.conf"
}

# Reserves addresses from 10.64.0.2 on, except every 4096th of them if GAPS is set.
fill() { # NETWORK COUNT GAPS
  mkdir -p "$state/$1"
  (
    cd "$state/$1"
    for ((i = 2; i < $2 + 2; i++)); do
      if [ -n "$3" ] && ((i % 4096 == 7)); then continue; fi
      printf '%064x\r\neth0' "$i" >"10.64.$((i / 256)).$((i % 256))"
    done
  )
}

# Runs one call and appends its milliseconds to the file.
call() { # FILE VERB PLUGIN NETWORK ID
  local before=$EPOCHREALTIME
  CNI_COMMAND=$2 CNI_CONTAINERID=$5 "$3" <"$state/$4.conf" >"$state/out"
  local after=$EPOCHREALTIME
  echo $((${after/./} - ${before/./})) >>"$state/$1"
}

median() { # FILE
  [ -e "$state/$1" ] || { echo -; return; }
  sort -n "$state/$1" | awk '{v[NR]=$1} END {printf "%.2f", v[int((NR+1)/2)]/1000}'
}

printf '%-22s %10s %10s %10s %10s\n' reservations "ADD ours" "DEL ours" "ADD Go" "DEL Go"
row() { # LABEL COUNT GAPS
  rm -rf "$state"/{ours,theirs}* "$state/.host-local"
  for net in ours ${theirs:+theirs}; do
    conf "$net"
    fill "$net" "$2" "$3"
  done
  # The first call after somebody else's change reads every file and makes the index; it is not what is measured.
  CNI_COMMAND=DEL CNI_CONTAINERID=none "$ours" <"$state/ours.conf"
  for ((run = 0; run < runs; run++)); do
    call ours-add ADD "$ours" ours "run$run"
    [ -z "$theirs" ] || call theirs-add ADD "$theirs" theirs "run$run"
    call ours-del DEL "$ours" ours "run$run"
    [ -z "$theirs" ] || call theirs-del DEL "$theirs" theirs "run$run"
  done
  printf '%-22s %10s %10s %10s %10s\n' "$1" \
    "$(median ours-add)" "$(median ours-del)" "$(median theirs-add)" "$(median theirs-del)"
}
for count in 0 250 1000 10000 60000; do
  row "$count" "$count" ""
done
row "16 of a /16 free" 65533 gaps
