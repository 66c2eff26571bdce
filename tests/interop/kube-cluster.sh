#!/usr/bin/env bash
# A real API server of Kubernetes with its etcd, on loopback, for tests:
#
#   kube-cluster.sh up DIR      starts both, waits until /readyz says yes, prints DIR/admin.kubeconfig
#   kube-cluster.sh down DIR    ends both
#   kube-cluster.sh pause DIR   ends the API server alone: etcd keeps what it has; `resume DIR` starts it again, at the same address
#
# KUBE is the binary made of tests/tools/kube (default: kube in PATH). DIR is made anew. Nothing listens outside of 127.0.0.1,
# but where KUBE_ADDRESS names another address of this machine: then kubelets may sign in there with certificates of pki/ca.crt.
# Nodes and pods are objects only: no kubelet, no scheduler, no controller runs. Kubeconfigs in DIR: `admin` (system:masters;
# Deckhouse's policies count for it) and `deckhouse` (a ServiceAccount of d8-system with all rights).
set -euo pipefail

order=${1:?up, down, pause or resume} directory=$(realpath -m "${2:?a directory}")
kube=${KUBE:-kube} address=${KUBE_ADDRESS:-127.0.0.1}
PATH=$PATH:/usr/sbin:/sbin

make_pki() {
    mkdir -p pki
    openssl ecparam -genkey -name prime256v1 -noout -out pki/ca.key
    openssl req -x509 -new -key pki/ca.key -subj /CN=test-ca -days 2 -out pki/ca.crt
    openssl ecparam -genkey -name prime256v1 -noout -out pki/api.key
    openssl req -new -key pki/api.key -subj /CN=kube-apiserver -out pki/api.csr
    openssl x509 -req -in pki/api.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 2 -out pki/api.crt -extfile <(
        echo 'subjectAltName=DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:'"$address"
        echo 'extendedKeyUsage=serverAuth,clientAuth'
    )
    openssl genrsa -out pki/sa.key 2048
} 2>pki.log

write_access() {
    cat >tokens.csv <<'CSV'
admin-token,admin,admin,"system:masters"
deckhouse-token,system:serviceaccount:d8-system:deckhouse,deckhouse,"system:masters,system:serviceaccounts,system:serviceaccounts:d8-system"
CSV
    local user
    for user in admin deckhouse; do
        cat >"$user.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$address:$1", certificate-authority: $directory/pki/ca.crt}}]
users: [{name: $user, user: {token: $user-token}}]
contexts: [{name: test, context: {cluster: test, user: $user, namespace: d8-system}}]
current-context: test
YAML
    done
}

start_etcd() {
    etcd --data-dir "$directory/etcd" --listen-client-urls "http://127.0.0.1:$1" \
        --advertise-client-urls "http://127.0.0.1:$1" --listen-peer-urls "http://127.0.0.1:$(($1 + 1))" \
        --initial-advertise-peer-urls "http://127.0.0.1:$(($1 + 1))" \
        --initial-cluster "default=http://127.0.0.1:$(($1 + 1))" --unsafe-no-fsync --logger zap --log-level warn \
        >etcd.log 2>&1 </dev/null &
    echo $! >etcd.pid
}

start_api() {
    local nodes=(--authorization-mode=RBAC --endpoint-reconciler-type=none)
    [[ $address == 127.0.0.1 ]] || nodes=(--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
        --kubelet-client-certificate=pki/api.crt --kubelet-client-key=pki/api.key --kubelet-preferred-address-types=InternalIP)
    "$kube" kube-apiserver --etcd-servers="http://127.0.0.1:$2" --bind-address="$address" --advertise-address="$address" \
        --secure-port="$1" --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key --client-ca-file=pki/ca.crt \
        --cert-dir=pki --token-auth-file=tokens.csv --anonymous-auth=false \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.key \
        --service-account-signing-key-file=pki/sa.key --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true \
        "${nodes[@]}" >>api.log 2>&1 </dev/null &
    echo $! >api.pid
}

# ready PID PORT waits for as long as the process runs.
ready() {
    until curl -sf --cacert pki/ca.crt -H 'Authorization: Bearer admin-token' "https://$address:$2/readyz" >/dev/null; do
        kill -0 "$1" 2>/dev/null || return 1
        sleep 0.1
    done
}

# stop NAME ends it at once: the API server would wait for its watches, and nothing of it is needed any more.
stop() {
    local pid
    [[ -f $1.pid ]] || return 0
    pid=$(cat "$1.pid")
    kill -KILL "$pid" 2>/dev/null || true
    # Whoever adopted it may not have taken note of its end.
    while kill -0 "$pid" 2>/dev/null && [[ $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) != Z ]]; do sleep 0.05; done
    rm -f "$1.pid"
}

up() {
    local try port
    for try in 1 2 3 4 5; do
        rm -rf "$directory"
        mkdir -p "$directory"
        cd "$directory"
        # Below the range that the kernel gives to outgoing connections.
        port=$((20000 + RANDOM % 3000 * 4))
        echo "$port" >port
        make_pki
        write_access "$port"
        start_etcd $((port + 1))
        start_api "$port" $((port + 1))
        if ready "$(cat api.pid)" "$port"; then
            echo "$directory/admin.kubeconfig"
            return
        fi
        stop api
        stop etcd
        echo "no API server at port $port (try $try): $(tail -n 1 api.log) $(tail -n 1 etcd.log)" >&2
    done
    exit 1
}

case $order in
    up) up ;;
    down)
        cd "$directory"
        stop api
        stop etcd
        ;;
    pause)
        cd "$directory"
        stop api
        ;;
    resume)
        cd "$directory"
        start_api "$(cat port)" $(($(cat port) + 1))
        ready "$(cat api.pid)" "$(cat port)"
        ;;
    *)
        echo "up, down, pause or resume" >&2
        exit 2
        ;;
esac
