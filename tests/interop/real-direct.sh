#!/usr/bin/env bash
# Direct without the controller, on real nodes: static pods of Proxy become a Deployment in the pod network. It is asked through
# port-forward, as the runbook has it, and a drain of both masters at once never ends it.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"
# shellcheck source=tests/interop/real-deckhouse.sh
source "$(dirname "$0")/real-deckhouse.sh"

need helm docker-registry htpasswd skopeo
cd "$INTEROP_SCRIPTS/../.."
own_machine

rolled() { k -n d8-system rollout status deployment/d8-registry --watch=false | grep -q 'successfully rolled out'; }
servers() { k -n d8-system get pods -l component=registry-server -o json; }
# in_pod_network: the Deployment's pods alone are left.
in_pod_network() { rolled && servers | jq -e '.items | length == 2 and all(.metadata.ownerReferences[0].kind == "ReplicaSet")'; }
budget() { k -n d8-system get poddisruptionbudget d8-registry -o json; }

say "two masters, with static pods of a Proxy"
first_images
app_images 6
start_upstream
fill_upstream
start_control_plane
prepare_cluster
for node in "master-1 1" "master-2 2"; do
    read -r name number <<<"$node"
    make_node "$name" "$number"
    import_ours "$name"
    join "$name" master
done
install_release --set mode=Proxy,controller.enabled=false,image.pullSecrets=null \
    --set "upstream.imagesRepo=$UPSTREAM/$EDITION,upstream.scheme=HTTP,upstream.license=$LICENCE"
await_for 120 serves master-1
await_for 120 serves master-2

say "Direct: a Deployment, and a budget that counts its pods"
change_release --set mode=Direct
await_for 240 in_pod_network
counts() { budget | jq -e '.status.expectedPods == 2 and .status.disruptionsAllowed == 1'; }
await_for 60 counts

say "a port-forward, as the runbook has it: /status, and a pull with the upstream's pair alone"
part port-forward kube kubectl -n d8-system port-forward deploy/d8-registry 5001 5002
forward=$PART
is_direct() { curl -fsS --max-time 5 http://127.0.0.1:5002/status | jq -e '.mode == "Direct" and .upstream.outcome == "ok"'; }
await_for 60 is_direct
authority
mkdir "$WORK/forward"
cp "$WORK/authority.crt" "$WORK/forward/ca.crt"
pull() { skopeo copy -q --preserve-digests --src-creds "$1" --src-cert-dir "$WORK/forward" docker://127.0.0.1:5001/system/deckhouse/app:v2 "oci:$WORK/pulled:v2"; }
pull "license-token:$LICENCE"
same "$(jq -r '.manifests[0].digest' "$WORK/pulled/index.json")" "$(jq -r '.manifests[0].digest' "$CLUSTER/app-2/index.json")" "the image that was pulled"
refused pull license-token:other
kill "$forward"
wait "$forward" || true

say "both masters are drained at once: the budget holds one of them up until the other's pod is back"
before=$(servers | jq -c '[.items[].metadata.uid]')
part watch kube kubectl -n d8-system get deployment d8-registry --watch -o json
watch=$PART
await test -s "$CLUSTER/watch.log"
drains=()
for node in master-1 master-2; do
    kube kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout=200s >"$CLUSTER/drain-$node.log" 2>&1 &
    drains+=($!)
done
for drain in "${drains[@]}"; do wait "$drain" || fail "not drained: $(tail -n 3 "$CLUSTER"/drain-*.log)"; done
k uncordon master-1 master-2 >/dev/null
await_for 120 in_pod_network
grep -q 'would violate the pod.s disruption budget' "$CLUSTER"/drain-*.log || fail "no drain was held up: $(cat "$CLUSTER"/drain-*.log)"
servers | jq -e --argjson before "$before" 'all(.items[]; .metadata.uid as $uid | $before | index($uid) | not)' >/dev/null || fail "a pod was not evicted"
kill "$watch"
wait "$watch" || true
same "$(jq -s 'map(.status.availableReplicas // 0) | min' "$CLUSTER/watch.log")" 1 "least pods that were available"

nothing_failed
warned=$(k get events -A -o json | jq -r '.items[] | select(.involvedObject.kind == "PodDisruptionBudget" and .type == "Warning") | .message')
same "$warned" "" "warnings about the budget"
