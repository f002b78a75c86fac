#!/usr/bin/env bash
# Builds a Debian package of the executables with dpkg's own tools.
# Usage: hack/package.sh [--from DIR] [--to DIR]   prints the package's path
#   --from   where the executables are; default: bin/, built if it isn't there
#   --to     where the package goes; default: target/
# DEBFULLNAME and DEBEMAIL name the maintainer. The same commit gives the same bytes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

from='' to=$repo/target
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || fail "$1 needs a value"
    case $1 in
    --from) from=$(cd "$2" && pwd) || fail "no directory $2" ;;
    --to) mkdir -p "$2" && to=$(cd "$2" && pwd) ;;
    *) fail "unknown option $1" ;;
    esac
    shift 2
done

need_packages dpkg dpkg-dev jq
need_cargo
cd "$repo"
if [ -z "$from" ]; then
    [ -x bin/bridge ] || hack/build.sh
    from=$repo/bin
fi

name=cni-plugins-rust
mapfile -t names < <(plugins)
# They are for people, and in their PATH; runtimes look for plugins only, in the directory of these.
mapfile -t tools < <(tools)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)-1
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-$(id -un)} <${DEBEMAIL:-$(id -un)@$(hostname -f 2>/dev/null || hostname)}>"
# Files in the package have the commit's time.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/$name
share=$root/usr/share
mkdir -p "$root/DEBIAN" "$root/usr/lib/cni" "$root/usr/bin" "$doc" "$share/lintian/overrides" "$share/man/man8" \
    "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
umask 022

# put FILE DIR
put() {
    [ -x "$from/$1" ] || fail "$from/$1 is missing: hack/build.sh"
    case $(file -b "$from/$1") in
    *'dynamically linked'* | *interpreter*) fail "$from/$1 is not static, and the package declares no dependencies: build it with hack/build.sh" ;;
    esac
    install -m 0755 "$from/$1" "$root$2/$1"
}
for file in "${names[@]}"; do put "$file" /usr/lib/cni; done
for file in "${tools[@]}"; do
    put "$file" /usr/bin
    # A tool of few options has its manual page written by hand, and no completions.
    if [ -e "hack/man/$file.8" ]; then
        gzip -9nc "hack/man/$file.8" >"$share/man/man8/$file.8.gz"
        continue
    fi
    "$from/$file" man | gzip -9n >"$share/man/man8/$file.8.gz"
    "$from/$file" completions bash >"$share/bash-completion/completions/$file"
    "$from/$file" completions zsh >"$share/zsh/vendor-completions/_$file"
    "$from/$file" completions fish >"$share/fish/vendor_completions.d/$file.fish"
done

# The units of dhcp's daemon, of dnsname's resolver and of cni-noded. No maintainer script enables or starts them: without the first two the
# first call starts a daemon.
# Where Debian 12 has the reference package's units of the same names, which are diverted.
units=(/lib/systemd/system/cni-dhcp.{socket,service} /lib/systemd/system/cni-{dnsname,noded}.service)
for file in "${units[@]}"; do install -D -m 0644 "hack/systemd/${file##*/}" "$root$file"; done

# --- documentation ---------------------------------------------------------------------------------------------------

# The Rust packages that are linked into the executables: name, version, licence.
linked() {
    cargo tree --locked --target "$(build_target)" --prefix none --edges normal,no-proc-macro --format '{p}	{l}' "${names[@]/#/--package=}" "${tools[@]/#/--package=}" |
        sed 's/ (\*)$//' | awk -F'\t' '{ split($1, p, " ") } $1 !~ /\(\// { sub("^v", "", p[2]); print p[1] "\t" p[2] "\t" $2 }' | sort -u
}
linked >"$work/linked"

# Their licence files, from the sources.
cargo metadata --locked --format-version 1 --filter-platform "$(build_target)" | jq -r '.packages[] | "\(.name)\t\(.version)\t\(.manifest_path | rtrimstr("/Cargo.toml"))"' |
    sort | awk -F'\t' 'NR == FNR { wanted[$1, $2]; next } ($1, $2) in wanted' "$work/linked" - |
    while IFS=$'\t' read -r crate its_version folder; do
        find "$folder" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) | sort |
            while read -r file; do
                printf '=== %s %s: %s\n\n' "$crate" "$its_version" "${file##*/}"
                cat "$file"
                echo
            done
    done | gzip -9n >"$doc/licenses.gz"

{
    cat <<'DEP5'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: cni-plugins-rust
Comment:
 The executables contain the Rust packages below, under the licences that they
 declare ("OR" leaves the choice, "AND" does not). Their texts and notices are
 in licenses.gz.
DEP5
    printf ' .\n'
    awk -F'\t' '{ printf " %s %s: %s\n", $1, $2, $3 }' "$work/linked"
    cat <<'DEP5'

Files: *
Copyright: 2026 the authors of cni-plugins-rust
License: Apache-2.0
 On Debian systems, the text of the Apache License version 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
DEP5
} >"$doc/copyright"
{
    printf '%s (%s) unstable; urgency=medium\n\n  * Built from the source tree; see changelog.gz for the changes.\n\n' "$name" "$version"
    printf ' -- %s  %s\n' "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.Debian.gz"
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
mkdir -p "$doc/examples"
cp conf-examples/*.conflist "$doc/examples/"
cp docs/*.md "$doc/"
find "$doc" -name '*.md' -size +4k -exec gzip -9n {} +
cp hack/debian/lintian-overrides "$root/usr/share/lintian/overrides/$name"

# --- control ---------------------------------------------------------------------------------------------------------

size=$(du -sk --exclude DEBIAN "$root" | cut -f1)
for file in control preinst postrm; do
    sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$architecture|; s|@MAINTAINER@|$maintainer|; s|@SIZE@|$size|" \
        -e "s|@FILES@|${names[*]/#//usr/lib/cni/} ${units[*]}|" "hack/debian/$file.in" >"$root/DEBIAN/$file"
done
chmod 0755 "$root/DEBIAN/preinst" "$root/DEBIAN/postrm"
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
find "$root" -type d -exec chmod 0755 {} +
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$to"
dpkg-deb --root-owner-group --build "$root" "$to/${name}_${version}_$architecture.deb" >/dev/null
echo "$to/${name}_${version}_$architecture.deb"
