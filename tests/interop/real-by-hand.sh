#!/usr/bin/env bash
# INSTALL "In place of the present registry", steps 6 to 8, and back, by hand: a release without the controller on a cluster that
# pulls from an upstream, the nodes' settings written by kubectl as the document has them. Users' pods roll meanwhile, and none may
# fail to get an image that its source had.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"
# shellcheck source=tests/interop/real-deckhouse.sh
source "$(dirname "$0")/real-deckhouse.sh"
# shellcheck source=tests/interop/real-present.sh
source "$(dirname "$0")/real-present.sh"
# shellcheck source=tests/interop/real-documents.sh
source "$(dirname "$0")/real-documents.sh"

need helm docker-registry htpasswd python3 ctr2
cd "$INTEROP_SCRIPTS/../.."
own_machine
open_document INSTALL
place="In place of the present registry"

say "images, and an upstream that has them"
first_images
app_images 6
start_upstream
fill_upstream

say "two masters and a worker that pull from the upstream, Deckhouse and its users"
start_control_plane
prepare_cluster
prepare_deckhouse
deckhouse_protects
users_may_pull
begin_roles
for node in "master-1 1 master" "master-2 2 master" "worker-1 3 worker"; do
    read -r name number role <<<"$node"
    make_node "$name" "$number"
    upstream_files "$name"
    join "$name" "$role"
    preflight "$name"
done
await_for 120 renders_with "$UPSTREAM/$EDITION"

say "a release without the controller, in Proxy"
cat >"$DESK/values.yaml" <<YAML
mode: Proxy
controller: {enabled: false}
image: {reference: "$UPSTREAM/$EDITION/d8-registry:$OURS_VERSION"}
upstream: {imagesRepo: "$UPSTREAM/$EDITION", scheme: HTTP, license: $LICENCE}
drainSeconds: 5
resources: {requests: {cpu: 5m}}
nodeProxy: {resources: {requests: {cpu: 1m}}}
store: {reserveBytes: "0"}
YAML
eval "$(written "What has to be there" "export HELM_KUBEASUSER")"
as_written "What has to be there" "helm upgrade --install"
await k -n d8-system get secret registry-pki
authority
for node in "${!ADDRESS_OF[@]}"; do await_for 150 answers "$node"; done
as_written "What has to be there" "get secret registry-pki"
nothing_failed

say "step 6: nodes have both sources"
# node_yaml VERSION: the document's own, with this cluster's names.
node_yaml() {
    local password
    password=$(secret registry-user-ro password)
    block "$place" "proxyEndpoints: []" "version: \"1\"=>version: \"$1\"" "...the authority of registry-pki...=>$(sed '2,$s/^/          /' "$DESK/ca.crt")" \
        "password: ...}}=>password: $LICENCE}}" "password: ...=>password: $password" "10.0.0.1=>${ADDRESS_OF[master-1]}" \
        "10.0.0.2=>${ADDRESS_OF[master-2]}" "registry.deckhouse.io=>$UPSTREAM" "host: $UPSTREAM, scheme: https=>host: \"$UPSTREAM\", scheme: http"
}
write_nodes() {
    as_written "$place" "create secret generic registry-bashible-config"
    BASHIBLE_VERSION=$(sed -n 's/^version: "\(.*\)".*/\1/p' "$DESK/node.yaml")
    await_for 60 nodes_have_it
}
# without HOST: the document's node.yaml without one of its two sources.
without() { python3 -c 'import sys
skips = False
for line in sys.stdin:
    if line.startswith("  ") and line[2] != " ":
        skips = line.strip().strip("\":") == sys.argv[1]
    if not skips:
        print(line, end="")' "$1"; }
node_yaml 1 >"$DESK/node.yaml"
on worker-1 mkdir -p /etc/d8-registry
# As an administrator of a node without bashible would look first: nothing is in the way, and nothing is written.
readonly HOSTS_TOML="/etc/containerd/registry.d/registry.d8-system.svc:5001/hosts.toml"
as_written on worker-1 "$place" "node-config --config node.yaml --check"
if on worker-1 test -e "$HOSTS_TOML"; then fail "the node has it already"; fi
# By the program that the image has, as on a node outside of bashible; ctr of containerd 1 has no --user.
on worker-1 cp "$DESK/node.yaml" /etc/d8-registry/node.yaml
on worker-1 ctr -n k8s.io images ls -q | grep -F "/d8-registry:$OURS_VERSION" >/dev/null || fail "the image is not on worker-1"
as_written on worker-1 "$place" "IMAGE node-config" "ctr -n=>$INTEROP_TOOLS/ctr2 -n" "IMAGE=>$UPSTREAM/$EDITION/d8-registry:$OURS_VERSION"
on worker-1 grep -q 127.0.0.1:5001 "$HOSTS_TOML" || fail "the node has no mirror at 127.0.0.1:5001"
write_nodes
as_written "$place" "kubectl get nodes -o custom-columns"
nothing_failed

say "step 7: Deckhouse has the other address; it is Deckhouse's own command, played here"
mkdir -p "$CLUSTER/present"
cp "$DESK/ca.crt" "$CLUSTER/present/ca.crt"
secret registry-user-ro password >"$CLUSTER/present/ro"
deckhouse_registry_is present
await_for 120 renders_with "$SERVED"
await_rollouts 2
nothing_failed

say "step 8: the upstream is no source of the nodes any more"
node_yaml 2 | without "$UPSTREAM" >"$DESK/node.yaml"
write_nodes
await_rollouts 2
nothing_failed

say "back: both sources, Deckhouse's address, the upstream alone"
node_yaml 3 >"$DESK/node.yaml"
write_nodes
deckhouse_registry_is upstream
await_for 120 renders_with "$UPSTREAM/$EDITION"
node_yaml 4 | without "${SERVED%%/*}" | sed 's|^imagesBase: .*|imagesBase: '"$UPSTREAM/$EDITION"'|' >"$DESK/node.yaml"
write_nodes
await_rollouts 1

say "the release goes"
as_written "Removing it" "helm upgrade d8-registry"
as_written "Removing it" "rollout status"
as_written "Removing it" "helm uninstall"
for node in "${!ADDRESS_OF[@]}"; do await_for 60 nothing_listens "$node"; done
await_rollouts 1
nothing_failed
say "$(grep -c rollout "$CLUSTER/roles.log") rollouts"
