#!/usr/bin/env bash
# Starts etcd, API server, controller manager and scheduler in the namespace `control`, with keys and tokens of this run.
. "$(dirname "$0")/lib.sh"

# --- keys and accounts -----------------------------------------------------------------------------------------------

mkdir -p "$WORK/pki" "$WORK/log"
cd "$WORK/pki" || exit
{
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test-kubernetes
    openssl req -newkey rsa:2048 -nodes -keyout api.key -out api.csr -subj /CN=kube-apiserver
    openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out api.crt -days 2 -extfile <(echo \
        "subjectAltName=DNS:kubernetes.default.svc,IP:$control4,IP:$control6,IP:10.96.0.1,IP:fd00:96::1")
    openssl genrsa -out accounts.key 2048
} 2>"$WORK/log/openssl"

# account NAME USER [GROUP]: its token is its name
account() {
    echo "$1,$2,$1${3:+,\"$3\"}" >>tokens
    cat >"$WORK/$1.conf" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$control4:6443", certificate-authority: "$WORK/pki/ca.crt"}}]
users: [{name: user, user: {token: "$1"}}]
contexts: [{name: test, context: {cluster: test, user: user}}]
current-context: test
EOF
}
account admin admin system:masters
account controllers system:kube-controller-manager
account scheduler system:kube-scheduler
account proxy system:kube-proxy
for n in 1 2 3 4; do account "node$n" "system:node:node$n" system:nodes; done

# --- processes -------------------------------------------------------------------------------------------------------

# start NAME COMMAND...
start() {
    local name=$1
    shift
    in_control setsid "$@" >"$WORK/log/$name" 2>&1 </dev/null &
}
start etcd etcd --name=test --data-dir="$WORK/etcd" --initial-cluster=test=http://127.0.0.1:2380 --unsafe-no-fsync \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
    --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380
start apiserver "$KUBERNETES/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --feature-gates="$gates" --v=1 \
    --secure-port=6443 --insecure-port=0 --bind-address=:: --advertise-address="$(primary "$control4" "$control6")" \
    --tls-cert-file="$WORK/pki/api.crt" --tls-private-key-file="$WORK/pki/api.key" --cert-dir="$WORK/pki/api" \
    --token-auth-file="$WORK/pki/tokens" --anonymous-auth=false --authorization-mode=Node,RBAC --allow-privileged=true \
    --enable-admission-plugins=NodeRestriction --service-cluster-ip-range="$service_ranges" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$WORK/pki/accounts.key" \
    --service-account-signing-key-file="$WORK/pki/accounts.key" --kubelet-preferred-address-types=InternalIP
start controllers "$KUBERNETES/kube-controller-manager" --kubeconfig="$WORK/controllers.conf" --feature-gates="$gates" --v=1 \
    --leader-elect=false --use-service-account-credentials=true --root-ca-file="$WORK/pki/ca.crt" --cert-dir="$WORK/pki/controllers" \
    --service-account-private-key-file="$WORK/pki/accounts.key" --service-cluster-ip-range="$service_ranges" \
    --allocate-node-cidrs=true --cluster-cidr="$pod_ranges" --node-cidr-mask-size-ipv4=24 --node-cidr-mask-size-ipv6=64 \
    --configure-cloud-routes=false
start scheduler "$KUBERNETES/kube-scheduler" --kubeconfig="$WORK/scheduler.conf" --feature-gates="$gates" --v=1 \
    --leader-elect=false --cert-dir="$WORK/pki/scheduler"
within 90 k get --raw /readyz || { tail -5 "$WORK/log/apiserver" && exit 1; }
