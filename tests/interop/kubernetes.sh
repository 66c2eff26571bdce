# shellcheck shell=bash
# An API server of Kubernetes for an interop test, with its etcd. Sourced after harness.sh; a test runs in a process namespace
# of its own (run.sh), so both end with it.

# start_kubernetes sets KUBE_DIR and KUBECONFIG (system:masters).
start_kubernetes() {
    need kube etcd openssl curl
    KUBE_DIR=$WORK/kubernetes
    export KUBE_DIR KUBE=$INTEROP_TOOLS/kube
    KUBECONFIG=$(tests/interop/kube-cluster.sh up "$KUBE_DIR") || fail "no API server: $(tail -n 3 "$KUBE_DIR/api.log")"
    export KUBECONFIG
}

# stop_kubernetes ends it, and keeps its log.
stop_kubernetes() {
    cp "$KUBE_DIR/api.log" "$INTEROP_LOGS/$INTEROP_NAME.api.log" 2>/dev/null || true
    tests/interop/kube-cluster.sh down "$KUBE_DIR"
}
