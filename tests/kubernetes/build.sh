#!/usr/bin/env bash
# Builds Kubernetes 1.20 from Debian 12's source package into CACHE/bin, unless it is there: ten minutes on two processors, 34 MB to download.
# Usage: tests/kubernetes/build.sh CACHE
set -euo pipefail
. "$(dirname "$0")/../../hack/lib.sh"

cache=$1
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
[ ! -e "$cache/bin/complete" ] || exit 0
need_packages golang-go golang-github-modern-go-reflect2-dev debian-archive-keyring dpkg-dev make rsync gcc libc6-dev

# An apt configuration of its own: this machine's needs no sources, and its lists stay as they are.
mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial"
# shellcheck disable=SC2016 # apt fills these in
apt-get indextargets 'Created-By: Packages' --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' | sort -u |
    awk '$4 == "Debian" && $3 == "main" { print "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $1, $2, $3 }' \
        >"$cache/apt/sources.list"
# The source is unpacked as the calling user: apt's own user may not write there.
apt_here() {
    apt-get -o "Dir::Etc::sourcelist=$cache/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt/cache" -o APT::Sandbox::User=root "$@"
}

say "source of Kubernetes"
rm -rf "$cache/source" && mkdir -p "$cache/source"
apt_here update -qq
(cd "$cache/source" && apt_here source -qq kubernetes) || fail "no source package kubernetes: Debian 12 has it"
cd "$cache"/source/kubernetes-*/
version=v$(sed -n '1s/.*really\([0-9.]*\)-.*/\1/p' debian/changelog)

# The vendored reflect2 1.0.1 calls a function of Go's runtime with the signature that it had until Go 1.17: what is built
# with a later Go dies within seconds ("fatal error: fault"). Debian's package of it is later.
reflect2=vendor/github.com/modern-go/reflect2
rm "$reflect2"/*.{go,s}
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$reflect2/"

say "build of Kubernetes $version"
cat >build-version <<EOF
KUBE_GIT_COMMIT=debian
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=$version
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=$(cut -d. -f2 <<<"$version")
EOF
mkdir -p .go/src/k8s.io home
ln -s ../../.. .go/src/k8s.io/kubernetes
env -u GOFLAGS HOME="$PWD/home" GOPATH="$PWD/.go" CGO_ENABLED=0 KUBE_GIT_VERSION_FILE="$PWD/build-version" \
    nice -n 19 make "WHAT=${programs[*]/#/cmd/}" >"$cache/build.log" 2>&1 || fail "Kubernetes doesn't build: see $cache/build.log"
mkdir -p "$cache/bin"
cp "${programs[@]/#/_output/bin/}" "$cache/bin/"
touch "$cache/bin/complete"
# What is kept are the executables.
cd "$cache"
chmod -R u+w source
rm -rf source apt
