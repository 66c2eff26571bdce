#!/usr/bin/env bash
# `check --from-cluster` with a real API server: the list is made of Modules, the Deployment of Deckhouse and the install image
# of the release that runs, and made anew when one of them changes; it stays while the API server is away.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/kubernetes.sh"

need crane curl jq tar
start_kubernetes
start_server files

# kubernetes METHOD PATH [CONTENT TYPE]: a call of the API server, its body from stdin.
kubernetes() {
    curl -fsS --max-time 30 --cacert "$KUBE_DIR/pki/ca.crt" -H 'Authorization: Bearer admin-token' -X "$1" \
        -H "Content-Type: ${3:-application/json}" --data-binary @- -o /dev/null "https://127.0.0.1:$(cat "$KUBE_DIR/port")$2"
}

modules() { kubernetes GET /apis/deckhouse.io/v1alpha1/modules <<<''; }

# module NAME SOURCE CRITICAL
module() {
    jq -n --arg name "$1" --arg source "$2" --argjson critical "$3" '{apiVersion: "deckhouse.io/v1alpha1", kind: "Module",
        metadata: {name: $name}, properties: {source: $source, critical: $critical}}' |
        kubernetes POST /apis/deckhouse.io/v1alpha1/modules
}

remove() {
    kubernetes DELETE "/apis/deckhouse.io/v1alpha1/modules/$1" <<<'{"kind": "DeleteOptions", "apiVersion": "v1"}'
}

say "a release in the registry: three modules, one image of which is not there"
BASE=$REGISTRY/system/deckhouse
DOCKER_CONFIG=$(docker_config "$RW")
export DOCKER_CONFIG
crane push "$INTEROP_IMAGES/image" "$BASE:v1.70.1"
crane push "$INTEROP_IMAGES/index" "$BASE:by-digest"
missing=sha256:$(printf 'a%.0s' {1..64})
mkdir -p "$WORK/layer/deckhouse/candi"
jq -n --arg index "$(digest_of index)" --arg missing "$missing" '{nodeManager: {bashibleApiserver: $index},
    upmeter: {upmeter: $missing}, console: {backend: $missing}}' >"$WORK/layer/deckhouse/candi/images_digests.json"
tar -C "$WORK/layer" -cf "$WORK/layer.tar" deckhouse
crane append -f "$WORK/layer.tar" -t "$BASE/install:v1.70.1" 2>"$WORK/append.log" || fail "$(cat "$WORK/append.log")"

say "a cluster that runs it"
kubernetes POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions <<'JSON'
{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "modules.deckhouse.io"},
 "spec": {"group": "deckhouse.io", "scope": "Cluster",
  "names": {"plural": "modules", "singular": "module", "kind": "Module", "listKind": "ModuleList"},
  "versions": [{"name": "v1alpha1", "served": true, "storage": true,
   "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}
JSON
await modules
module node-manager Embedded true
module upmeter Embedded false
module console deckhouse true
kubernetes POST /api/v1/namespaces <<<'{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d8-system"}}' || true
jq -n --arg address "$REGISTRY" --rawfile ca "$CA" --arg auth "$(printf %s "$RO" | base64 -w0)" '{apiVersion: "v1", kind: "Secret",
    metadata: {name: "deckhouse-registry"}, type: "kubernetes.io/dockerconfigjson", stringData: {address: $address,
    path: "/system/deckhouse", scheme: "https", ca: $ca, ".dockerconfigjson": ({auths: {($address): {auth: $auth}}} | tojson)}}' |
    kubernetes POST /api/v1/namespaces/d8-system/secrets
jq -n --arg base "$BASE" '{apiVersion: "apps/v1", kind: "Deployment", metadata: {name: "deckhouse",
    annotations: {"core.deckhouse.io/version": "v1.70.1"}}, spec: {selector: {matchLabels: {app: "deckhouse"}}, template: {
    metadata: {labels: {app: "deckhouse"}}, spec: {
        initContainers: [{name: "init", image: ($base + ":v1.70.1")}],
        containers: [{name: "deckhouse", image: ($base + ":v1.70.1")}, {name: "other", image: "mirror.example/tools:v1"}]}}}}' |
    kubernetes POST /apis/apps/v1/namespaces/d8-system/deployments

printf %s "${RO#*:}" >"$WORK/password"
TARGET=(--registry "master-0=https://$BASE" --ca-file "$CA" --username "${RO%%:*}" --password-file "$WORK/password")
check() { "$INTEROP_SERVER" check --from-cluster "$@" "${TARGET[@]}"; }
same "$(check)" $'Mode: Default\nmaster-0: all 2 items are checked' "what the cluster needs"
same "$(check --mode Relax)" $'Mode: Relax\nmaster-0: all 1 items are checked' "what Relax needs"
same "$(check --from-registry "https://$BASE")" $'Mode: Default\nmaster-0: all 2 items are checked' "with another source"

say "another module counts: the list is made anew"
check --repeat 1h --interval 200ms >"$WORK/said" 2>"$WORK/warned" &
checking=$!
DAEMONS+=("$checking")
await grep -q 'master-0: all 2 items are checked' "$WORK/said"
kubernetes PATCH /apis/deckhouse.io/v1alpha1/modules/upmeter application/merge-patch+json <<<'{"properties": {"critical": true}}'
await grep -q 'master-0: 2 of 3 items processed, 1 items with errors:' "$WORK/said"
grep -qF -- '- source: module/upmeter/upmeter' "$WORK/said" || fail "$(cat "$WORK/said")"
grep -qF "  image: $BASE@$missing" "$WORK/said" || fail "$(cat "$WORK/said")"

say "the API server is away, and back without the module"
tests/interop/kube-cluster.sh pause "$KUBE_DIR"
await grep -q "the API server can't be reached.*; the list before stays" "$WORK/warned"
kill -0 "$checking" || fail "it ended: $(cat "$WORK/warned")"
tests/interop/kube-cluster.sh resume "$KUBE_DIR"
remove upmeter
two() { (($(grep -c 'master-0: all 2 items are checked' "$WORK/said") == 2)); }
await two
kill "$checking"

say "what can't be had is said"
remove node-manager
! check 2>"$WORK/error" || fail "a list out of nothing"
same "$(cat "$WORK/error")" "d8-registry: --from-cluster: modules snapshot contains no entries" "without modules"
stop_kubernetes
