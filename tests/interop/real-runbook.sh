#!/usr/bin/env bash
# What RUNBOOK has for a cluster, as written, on real kubelets: Direct without the controller behind port-forward; then the
# controller, Proxy and a switch to Local, with the situations of alerts as far as they are cheap. Commands for a store are
# runbook-store's, the expired licence is real-licence's. At the end every command of the document has been run somewhere.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"
# shellcheck source=tests/interop/real-deckhouse.sh
source "$(dirname "$0")/real-deckhouse.sh"
# shellcheck source=tests/interop/real-documents.sh
source "$(dirname "$0")/real-documents.sh"

need helm docker-registry htpasswd python3 ss
readonly CRDS=$INTEROP_TOOLS/../crds
[[ -d $CRDS ]] || skip "can't get the CRDs"
cd "$INTEROP_SCRIPTS/../.."
own_machine
open_document RUNBOOK
readonly DATA=/opt/deckhouse/registry/d8_data REPOSITORY=system/deckhouse

# does [on NODE] SECTION PIECE [FROM=>TO...]: the command ends well; what it says is in SAID.
does() { SAID=$(as_written "$@" 2>"$WORK/said") || fail "$(<"$WORK/said")"; }
# does_not: it ends with a failure.
does_not() { ! SAID=$( (as_written "$@") 2>&1) || fail "ended well: $*: $SAID"; }
has() {
    local words
    for words; do [[ $SAID == *"$words"* ]] || fail "it does not say '$words': $SAID"; done
}
# The one for metrics is never ready: its other image is nowhere.
nodes_done() { k -n d8-system rollout status daemonset d8-registry-node --watch=false | grep -q 'successfully rolled out'; }
ready_pods() { k -n d8-system get pods -l "component=$1" -o json | jq -e --argjson least "$2" '[.items[].status.conditions[]? | select(.type == "Ready" and .status == "True")] | length >= $least'; }
pod_of() { k -n d8-system get pods -l "component=$1" --field-selector "spec.nodeName=$2" -o 'jsonpath={.items[0].metadata.name}'; }

say "images, and an upstream that has them"
first_images
app_images 6
start_upstream
fill_upstream

say "a master and a worker; Deckhouse. Nodes are without bashible: node-agent has them"
start_control_plane
prepare_cluster
k create namespace d8-monitoring >/dev/null
k apply -f "$CRDS/monitoring.coreos.com_podmonitors.yaml" --server-side >/dev/null
prepare_deckhouse
touch "$CLUSTER/no-bashible"
for node in "master-1 1 master" "worker-1 2 worker"; do
    read -r name number role <<<"$node"
    make_node "$name" "$number"
    import_ours "$name"
    upstream_files "$name"
    join "$name" "$role"
    k label node "$name" node.deckhouse.io/group- >/dev/null
done
touch "$CLUSTER/still"
begin_roles

say "Direct without the controller: port-forward, then the commands as they are"
run_helm install d8-registry "$CHART" --set "image.reference=$OURS" "${RELEASE[@]}" --set controller.enabled=false,mode=Direct \
    --set "upstream.imagesRepo=$UPSTREAM/$EDITION,upstream.scheme=HTTP,upstream.license=$LICENCE"
await_for 120 ready_pods registry-server 1
forward=$(written Runbook "port-forward")
part forward env PATH="$DESK/bin:$PATH" bash -c "exec $forward"
FORWARD=$PART
await_for 30 curl -sf http://127.0.0.1:5002/healthz
does "Nothing pulls" "http://127.0.0.1:5002/healthz"
does "Nothing pulls" "http://127.0.0.1:5002/readyz"
does "Nothing pulls" "http://127.0.0.1:5002/status"
same "$(jq -r '[.. | objects | .outcome? // empty] | first' <<<"$SAID")" ok "what /status says of the upstream"
authority
mkdir -p "$WORK/push-certs"
cp "$WORK/authority.crt" "$WORK/push-certs/ca.crt"
skopeo copy -q --preserve-digests --src-creds "license-token:$LICENCE" --src-cert-dir "$WORK/push-certs" "docker://127.0.0.1:5001/$REPOSITORY/app:v1" "dir:$WORK/pulled"
kill "$FORWARD"

say "its process ends, and what it said before is there"
server=$(k -n d8-system get pods -l component=registry-server -o 'jsonpath={.items[0].metadata.name}')
restarts() { [[ $(k -n d8-system get pod "$server" -o 'jsonpath={.status.containerStatuses[0].restartCount}') -ge 1 ]]; }
for process in $(on master-1 ctr -n k8s.io tasks ls | awk '$3 == "RUNNING" { print $2 }'); do
    if tr '\0' ' ' <"/proc/$process/cmdline" | grep -q 'd8-registry serve'; then kill -KILL "$process"; fi
done
await_for 60 restarts
does D8RegistryInstanceDown "logs --previous" "POD=>$server"
[[ -n $SAID ]] || fail "the log of before is empty"
run_helm uninstall d8-registry
no_pods() { [[ -z $(k -n d8-system get pods -l app=d8-registry -o name) ]]; }
await_for 90 no_pods

say "with the controller: Proxy"
install_release --set mode=Unmanaged --set nodeAgent.enabled=true --set "metrics.kubeRbacProxyImage=$OUTSIDE:1/kube-rbac-proxy:v1"
await_for 120 controllers_ready
mode_is Proxy "$(upstream_settings)"
await_for 60 answers worker-1
authority

say "pods, and what they say"
does D8RegistrySwitchNoController "get pods -l component=registry-controller"
has Running master-1
does D8RegistrySwitchNoController "logs deployment/d8-registry-controller"
has Proxy
does D8RegistryNoTargets "get podmonitor d8-registry"
has d8-registry
does D8RegistryNoTargets "get pods -l app=d8-registry"
has d8-registry-controller d8-registry-node-proxy
does D8RegistryInstanceDown "get pods -l component=registry-metrics"
has master-1
does "D8RegistrySwitchStuck" "get pods -l app=deckhouse"
has Running
does "Work beside requests, and orders" "exec POD -c registry" "POD=>$(pod_of registry-server master-1)"
has upstream-probe eviction
does on worker-1 D8RegistryNodeProxyWaiting "ss -ltnp"
has 127.0.0.1:5001
does on worker-1 D8RegistryNodeProxyNotAnswering "http://127.0.0.1:5007/readyz"
does D8RegistryNodePullFailing "get pods -l component=registry-node-agent" "NODE=>worker-1"
has Running
agent=$(pod_of registry-node-agent worker-1)
does D8RegistryNodePullFailing "kubectl -n d8-system logs POD" "POD=>$agent"
does on worker-1 D8RegistryNodePullFailing "http://127.0.0.1:5007/readyz"
does D8RegistryNodePullFailing "get secret registry-user-ro"
does D8RegistryNodeConfigNotFollowed "kubectl describe node" "describe node=>describe node worker-1"
has registry.deckhouse.io/version
does on worker-1 D8RegistryNodeConfigNotFollowed "http://127.0.0.1:5009/readyz"
does D8RegistrySwitchNotConverged "custom-columns"
has "$(k get node worker-1 -o json | jq -r '.metadata.annotations["registry.deckhouse.io/version"]')"

say "containerd on a node"
secret registry-bashible-config config >"$CLUSTER/worker-1/node.yaml"
does on worker-1 "containerd on a node" "node-config --config FILE --check" "FILE=>$CLUSTER/worker-1/node.yaml"
does on worker-1 "containerd on a node" "ctr images pull" "/...=>/$REPOSITORY/app:v1"
has "registry.d8-system.svc:5001/$REPOSITORY/app:v1"
on worker-1 cp /etc/containerd/config.toml "$WORK/config.toml"
write_containerd worker-1 ""
does_not on worker-1 "containerd on a node" "node-config --config FILE --check" "FILE=>$CLUSTER/worker-1/node.yaml"
has "registry.config_path is not set"
on worker-1 cp "$WORK/config.toml" /etc/containerd/config.toml

say "the certificates of a master, and new ones"
certificate=$(on master-1 find /etc/kubernetes -name 'tls.crt' -path '*d8-registry*' | head -n 1)
does on master-1 D8RegistryMasterSilent "openssl x509" "FILE=>$certificate"
has "IP Address:${ADDRESS_OF[master-1]}" DNS:registry.d8-system.svc
before=$(shown_certificate master-1)
does D8RegistryCertificateExpiring "rollout restart daemonset d8-registry-node"
await_for 240 nodes_done
[[ $(shown_certificate master-1) != "$before" ]] || fail "the certificate is the one before"
await_for 60 serves master-1

say "images ahead of who pulls them, and a list of them"
LOGIN="--username ro --password-file $WORK/ro --ca-file $WORK/authority.crt"
secret registry-user-ro password >"$WORK/ro"
ours=https://${ADDRESS_OF[master-1]}:5001/$REPOSITORY
does D8RegistryExpectedImagesMissing "d8-registry prefetch" "--release VERSION|--images FILE=>--release $RELEASED" "URL=>$ours $LOGIN"
does D8RegistryExpectedImagesMissing "d8-registry check --release VERSION" "VERSION=>$RELEASED" "URL=>$ours $LOGIN" "FILE=>$WORK/list.yaml"
grep -q "$RELEASED" "$WORK/list.yaml" || fail "the list has no release: $(<"$WORK/list.yaml")"

say "Local is asked for, and waits for images"
ask_for Local '{}'
waits_for_images() { "$INTEROP_SERVER" switch status 2>/dev/null | grep -A2 'RegistryContainsRequiredImages' | grep -q False; }
lacks_images() { "$INTEROP_SERVER" switch status --json 2>/dev/null | jq -e 'any(.conditions[]; .type == "RegistryContainsRequiredImages" and .status == "False")'; }
await_for 90 lacks_images
does D8RegistrySwitchStuck "d8-registry switch status"
has "on the way to Local" RegistryContainsRequiredImages "$REPOSITORY:$RELEASED"
fill_local
reached Local
does D8RegistrySwitchHeld "d8-registry switch status"
has "Mode: Local, reached"
does "Replacing a master" "d8-registry check --release vX.Y.Z" "vX.Y.Z=>$RELEASED" "MASTER=>${ADDRESS_OF[master-1]}" "--deep=>--deep $LOGIN"
does D8RegistrySwitchStuck "switch finish --accept-missing"
has "The controller is told."
does D8RegistrySwitchInputLost "d8-registry switch status"
does D8RegistrySwitchInputLost "switch source" "manual|moduleconfig=>moduleconfig"
has "The controller is told."

say "an output is edited"
k -n d8-system annotate secret registry-bashible-config edited=by-hand >/dev/null
k -n d8-system patch secret registry-bashible-config -p '{"stringData": {"config": "mode: Direct\n"}}' >/dev/null
repaired() { k -n d8-system get events --field-selector reason=OutputRepaired -o json | jq -e '.items | length > 0'; }
await_for 60 repaired
does D8RegistrySwitchOutputEdited "get events --field-selector reason=OutputRepaired"
has registry-bashible-config
does D8RegistrySwitchOutputEdited "kubectl get --show-managed-fields" "kubectl get=>kubectl -n d8-system get secret registry-bashible-config -o yaml"
has managedFields
does D8RegistrySwitchOutputEdited "d8-registry switch mode" "switch mode=>switch mode Local --dry-run"
has "Nothing was written"

say "a node is gone for good"
kill "${KUBELET_OF[worker-1]}"
does D8RegistrySwitchNodeSlow "kubectl delete node" "delete node=>delete node worker-1"
does_not D8RegistrySwitchNodeSlow "kubectl delete node" "delete node=>delete node worker-1"
does_not "Replacing a master" "kubectl delete node NAME" "NAME=>worker-1"

every_command_ran
