#!/usr/bin/env bash
# A cluster of the version before (prepare-before.sh) in Proxy is upgraded to this one by helm, switched to Local, and rolled back,
# while Deployments are rolled on all nodes. No pod may fail to get an image that its source had. How long 127.0.0.1:5001 was silent is
# said.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"
# shellcheck source=tests/interop/real-deckhouse.sh
source "$(dirname "$0")/real-deckhouse.sh"

BEFORE=$INTEROP_BEFORE
[[ -x $BEFORE/d8-registry ]] || skip "$(cat "$BEFORE/why" 2>/dev/null || echo "the version before is not built: tests/interop/prepare-before.sh")"
need helm docker-registry htpasswd python3
cd "$INTEROP_SCRIPTS/../.."
own_machine

# Both versions have the same number.
readonly TAG_BEFORE=before
readonly OURS_BEFORE=$SERVED/d8-registry:$TAG_BEFORE CHART_BEFORE=$BEFORE/source/deploy/helm/d8-registry
image_before() {
    build_image "$BEFORE/source" "$BEFORE/d8-registry" before
    jq -c --arg tag "$TAG_BEFORE" '.manifests[0].annotations["org.opencontainers.image.ref.name"] = $tag' "$CLUSTER/before/oci/index.json" >"$WORK/index.json"
    mv "$WORK/index.json" "$CLUSTER/before/oci/index.json"
    tar -C "$CLUSTER/before/oci" -cf "$CLUSTER/before.tar" blobs index.json oci-layout
}

# ours_run IMAGE: every pod of the release is Ready with this image, on every node.
ours_run() {
    daemonsets_done && controllers_ready && k -n d8-system get pods -l app=d8-registry -o json | jq -e --arg image "$1" --argjson nodes "${#ADDRESS_OF[@]}" '
        ([.items[] | select(.metadata.labels.component == "registry-node-proxy")] | length == $nodes)
        and all(.items[]; all(.spec.containers[]; .image == $image) and all(.status.containerStatuses // [{ready: false}] | .[]; .ready)
            and .metadata.deletionTimestamp == null)'
}

# changes_to IMAGE COMMAND...: helm changes the release, and users roll their Deployments until after all of it has the image.
changes_to() {
    local node image=$1
    for node in "${!ADDRESS_OF[@]}"; do probe "$node"; done
    "${@:2}"
    await_for 600 ours_run "$image"
    await_rollouts 2
    # Said and not judged: pods of the version before hand nothing over (INSTALL).
    for node in "${!ADDRESS_OF[@]}"; do silence "$node"; done
    nothing_failed
}

say "images of both versions, and an upstream that has them"
first_images
image_before
app_images 6
start_upstream
MORE_IMAGES=("$CLUSTER/before/oci:$TAG_BEFORE|/d8-registry:$TAG_BEFORE")
fill_upstream

say "a control plane, two masters, a worker; Deckhouse and its users"
start_control_plane
prepare_cluster
prepare_deckhouse
for node in "master-1 1 master" "master-2 2 master" "worker-1 3 worker"; do
    read -r name number role <<<"$node"
    make_node "$name" "$number"
    import_image "$name" "$CLUSTER/before.tar"
    upstream_files "$name"
    join "$name" "$role"
    preflight "$name"
done
begin_roles

say "the version before: Unmanaged to begin with, then Proxy"
VALUES=(--set "image.reference=$OURS_BEFORE" "${RELEASE[@]}" --set mode=Unmanaged)
run_helm install d8-registry "$CHART_BEFORE" "${VALUES[@]}"
await_for 120 controllers_ready
mode_is Proxy "$(upstream_settings)"
await_for 120 ours_run "$OURS_BEFORE"
await_rollouts 2
nothing_failed

say "this version"
changes_to "$OURS" change_release --set "image.reference=$OURS"

say "Local, of which the version before has stored nothing"
ask_for Local '{}'
fill_local
reached Local
await_rollouts 2
nothing_failed

say "back to the version before, in the mode of now"
changes_to "$OURS_BEFORE" run_helm rollback d8-registry 1
[[ $(secret registry-state mode) == Local ]] || fail "the mode is another one: $(secret registry-state mode)"
mode_is Proxy "$(upstream_settings)"
await_rollouts 2
nothing_failed
say "$(grep -c rollout "$CLUSTER/roles.log") rollouts, $(k get events -A -o json | jq '[.items[] | select(.reason == "Pulled")] | length') pulls in events"
