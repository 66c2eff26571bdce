#!/usr/bin/env bash
# INSTALL on a cluster that has the registry of Deckhouse's own module, in Local: this registry beside it, its data taken over, then in
# its place by one command, in Proxy and in Local, and back to it, by the commands as they stand in the document. Users' pods roll
# meanwhile, and none may fail to get an image that its source had. Deckhouse is played where the document says that it acts.
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

need helm docker-registry htpasswd python3
cd "$INTEROP_SCRIPTS/../.."
own_machine
open_document INSTALL

say "images, and an upstream that has them"
first_images
app_images 6
start_upstream
fill_upstream

say "Users and keys: made by hand, before there is anything else"
start_control_plane
prepare_cluster
as_written "Users and keys" "kubectl create -f"
as_written "Users and keys" "openssl ecparam"
as_written "Users and keys" "subj /CN=registry-ca"
as_written "Users and keys" "subj /CN=registry-auth"
as_written "Users and keys" "create secret generic registry-pki"
as_written "Users and keys" "create configmap registry-ca"
PASSWORD=$(as_written "Users and keys" 'PASSWORD=$(openssl rand -hex 16)' 'PASSWORD=$(openssl rand -hex 16)=>openssl rand -hex 16')
export PASSWORD
as_written "Users and keys" "create secret generic registry-user-ro"
openssl verify -CAfile "$DESK/ca.crt" "$DESK/ca.crt" >/dev/null
same "$(secret registry-user-ro password)" "$PASSWORD" "the password of registry-user-ro"
echo "ro:$(secret registry-user-ro passwordHash)" >"$WORK/htpasswd"
htpasswd -vb "$WORK/htpasswd" ro "$PASSWORD" 2>/dev/null || fail "the hash is not the password's"
k -n d8-system delete secret registry-pki registry-user-ro d8-registry-mode >/dev/null
k -n d8-system delete configmap registry-ca >/dev/null
rm "$DESK"/*.crt "$DESK"/*.key

say "two masters and a worker with the registry of Deckhouse's module, in Local, and users"
prepare_deckhouse
deckhouse_protects
module_chart
present_keys
bashible_is Local present
registry_config_is Local
module on
for node in "master-1 1" "master-2 2" "worker-1 3"; do
    read -r name number <<<"$node"
    make_node "$name" "$number"
    [[ $name == worker* ]] || distribution_on "$name"
done
# What only this registry has beside the release.
busybox_layout "$CLUSTER/own" v1 /bin/busybox sleep 1000000
EVERYTHING+=("$CLUSTER/own:v1|/own/tool:v1")
mkdir -p "$WORK/push-certs"
cp "$CLUSTER/present/ca.crt" "$WORK/push-certs/ca.crt"
for master in "${!DISTRIBUTION_OF[@]}"; do
    copy_everything --dest-creds "rw:$(<"$CLUSTER/present/rw")" --dest-cert-dir "$WORK/push-certs" "${ADDRESS_OF[$master]}:5001/system/deckhouse"
done
k patch moduleconfig deckhouse --type merge -p '{"spec": {"settings": {"registry": {"mode": "Local"}}}}' >/dev/null
deckhouse_registry_is present
bashible_is Local present
# No pod names the upstream yet.
k -n d8-system set image deployment/deckhouse "deckhouse=$SERVED:$RELEASED"
k -n apps set image deployment/app "app=$SERVED/app:v1"
for namespace in d8-system apps; do k -n "$namespace" delete replicasets --all; done
none_of_upstream() { k get pods -A -o json | jq -e --arg base "$UPSTREAM" 'all(.items[].spec.containers[]; .image | startswith($base) | not)'; }
await none_of_upstream
users_may_pull
begin_roles
for node in "master-1 master" "master-2 master" "worker-1 worker"; do
    read -r name role <<<"$node"
    balancer_on "$name"
    bashible_first "$name"
    join "$name" "$role"
    preflight "$name"
done
await_for 120 renders_with "$SERVED"
await_for 60 nodes_have_it
await_rollouts 2
nothing_failed

say "Beside the present registry"
# The administrator's own values: the image, and what these small machines need.
of_ours() {
    cat <<YAML
image: {reference: "$OURS"}
drainSeconds: 5
switch: {settle: 5s, scanInterval: 2s}
resources: {requests: {cpu: 5m}}
nodeProxy: {resources: {requests: {cpu: 1m}}}
store: {reserveBytes: "0", importFrom: $PRESENT_DATA}
YAML
}
upstream_values() { echo "upstream: { imagesRepo: \"$UPSTREAM/$EDITION\", scheme: HTTP, license: $LICENCE }"; }
skopeo copy -q "oci:$CLUSTER/registry/oci:$OURS_VERSION" "docker-archive:$DESK/d8-registry.tar:$OURS"
as_written on master-2 "What has to be there" "ctr -n k8s.io images import"
on master-2 ctr -n k8s.io images ls -q | grep -xF "$OURS" >/dev/null || fail "the image has another name: $(on master-2 ctr -n k8s.io images ls -q)"
{
    block "Beside the present registry" "registry: 5011" "upstream: { secretName: registry-config }=>$(upstream_values)"
    of_ours
} >"$DESK/values.yaml"
# Deckhouse's policy refuses it to people; what the document says of that helps, and nothing of the first attempt stays.
if (as_written "What has to be there" "helm upgrade --install") 2>"$WORK/refused"; then fail "helm was let through"; fi
grep -q 'heritage: deckhouse' "$WORK/refused" || fail "refused for another reason: $(<"$WORK/refused")"
eval "$(written "What has to be there" "export HELM_KUBEASUSER")"
as_written "What has to be there" "helm upgrade --install"
k -n d8-system get deployment d8-registry-controller >/dev/null || fail "the release has no controller"
serves_beside() {
    [[ $(on "$1" curl -s --max-time 5 --cacert "$CLUSTER/present/ca.crt" -o /dev/null -w '%{http_code}' -u "ro:$(<"$CLUSTER/present/ro")" https://127.0.0.1:5011/v2/) == 200 ]]
}
for node in "${!ADDRESS_OF[@]}"; do await_for 150 serves_beside "$node"; done
as_written "What has to be there" "get secret registry-pki"
cmp "$DESK/ca.crt" "$CLUSTER/present/ca.crt" || fail "the authority is another one"
printf %s "$(<"$CLUSTER/present/ro")" >"$DESK/password"
as_written on master-1 "Beside the present registry" "check --release"
as_written on master-1 "What has to be there" "check --output" "check --output=>check --release $RELEASED --registry https://127.0.0.1:5011/system/deckhouse \
    --username ro --password-file password --ca-file ca.crt --output expected.yaml"
grep -q "$RELEASED" "$DESK/expected.yaml" || fail "no list of the release: $(<"$DESK/expected.yaml")"
as_written on master-2 "Beside the present registry" "d8-registry prefetch" "v1.71.0=>$RELEASED" "10.0.0.1:5001=>${ADDRESS_OF[master-2]}:5011"
for master in "${!DISTRIBUTION_OF[@]}"; do serves_present "$master" || fail "the present registry of $master is gone"; done
await_rollouts 1
nothing_failed

say "Data of the present registry"
for master in "${!DISTRIBUTION_OF[@]}"; do
    as_written on "$master" "Data of the present registry" "import --from-distribution /opt/deckhouse/registry/local_data --data-dir /opt/deckhouse/registry/d8_data --dry-run"
    as_written on "$master" "Data of the present registry" "d8-registry import --from-distribution /opt/deckhouse/registry/local_data --data-dir /opt/deckhouse/registry/d8_data" >"$WORK/taken"
    grep -q "^tags: ${#EVERYTHING[@]} came, 0 were there, 0 left" "$WORK/taken" || fail "$master took something else: $(<"$WORK/taken")"
done

say "In place of the present registry: steps 1 to 4"
as_written "In place of the present registry" "> saved.json"
k patch moduleconfig deckhouse --type merge -p "{\"spec\": {\"settings\": {\"registry\": {\"mode\": \"Unmanaged\", \"unmanaged\": $(upstream_settings)}}}}" >/dev/null
module_reaches_unmanaged
! k -n d8-system get secret registry-pki 2>/dev/null || fail "Deckhouse left its keys"

say "The licence has expired: by hand, in Deckhouse's own Secrets"
expired="The licence has expired"
export LICENSE=$LICENCE
as_written "$expired" "get deployment d8-registry-controller" >/dev/null
as_written "$expired" "patch secret registry-config"
same "$(secret registry-config password)" "$LICENCE" "the licence in registry-config"
as_written "$expired" "> deckhouse-registry.yaml"
eval "export $(written "$expired" "AUTH=")"
as_written "$expired" "patch secret deckhouse-registry" "registry.deckhouse.io=>$UPSTREAM"
same "$(secret deckhouse-registry .dockerconfigjson | jq -c .)" "{\"auths\":{\"$UPSTREAM\":{\"username\":\"license-token\",\"password\":\"$LICENCE\",\"auth\":\"$(printf %s "license-token:$LICENCE" | base64 -w0)\"}}}" "the sign-in of Deckhouse"
await_for 120 renders_with "$UPSTREAM/$EDITION"

say "step 4: the module is off"
module_off
for node in "${!ADDRESS_OF[@]}"; do nothing_listens "$node" || fail "something listens on 127.0.0.1:5001 of $node"; done
k -n d8-system get secret registry-bashible-config deckhouse-registry >/dev/null
await_rollouts 1
nothing_failed

say "step 5: at the ports of the present registry"
{
    echo "mode: Proxy"
    upstream_values
    of_ours
} >"$DESK/values.yaml"
if (as_written "What has to be there" "helm upgrade --install") 2>"$WORK/refused"; then fail "helm made other keys"; fi
grep -q registry-pki "$WORK/refused" || fail "refused for another reason: $(<"$WORK/refused")"
as_written "In place of the present registry" "create -f -"
as_written "What has to be there" "helm upgrade --install"
PASSWORD=$(<"$CLUSTER/present/ro")
for node in "${!ADDRESS_OF[@]}"; do await_for 200 answers "$node"; done
await_for 240 daemonsets_done
as_written on master-1 "What has to be there" "curl -s http://127.0.0.1:5002/status" | jq -e '.mode == "Proxy"' >/dev/null
for node in master-1 worker-1; do
    as_written on "$node" "What has to be there" "curl --cacert ca.crt" | jq -e ".tags | index(\"$RELEASED\")" >/dev/null || fail "no list of tags on $node"
done
nothing_failed

say "the one command: Proxy"
printf %s "$LICENCE" >"$DESK/license.txt"
of_upstream="--images-repo $UPSTREAM/$EDITION --scheme HTTP --license-file license.txt"
as_written "In place of the present registry" "d8-registry switch mode Proxy" "--images-repo ... --license-file ...=>$of_upstream"
as_written "In place of the present registry" "switch status --watch"
reached Proxy
await_for 120 renders_with "$SERVED"
await_rollouts 2
nothing_failed
as_written "In place of the present registry" "kubectl get nodes -o custom-columns" >"$WORK/versions"
same "$(awk 'NR > 1 { print $2 }' "$WORK/versions" | sort -u | wc -l)" 1 "versions of the nodes: $(<"$WORK/versions")"

say "Local, of what was taken over; the upstream is away"
as_written "The controller" "d8-registry switch mode ..." "...=>Local"
reached Local
users_rest
gone "$UPSTREAM_PROCESS"
users_go_on
await_rollouts 6
skopeo copy -q --preserve-digests --src-creds "ro:$PASSWORD" --src-cert-dir "$WORK/push-certs" "docker://${ADDRESS_OF[master-2]}:5001/system/deckhouse/own/tool:v1" "oci:$WORK/own:v1"
same "$(jq -r '.manifests[0].digest' "$WORK/own/index.json")" "$(jq -r '.manifests[0].digest' "$CLUSTER/own/index.json")" "what only the present registry had"
nothing_failed
as_written "Is everything still there?" "d8-registry verify" "POD=>$(k -n d8-system get pods -l component=registry-server -o name | head -n 1)"
store="--data-dir /opt/deckhouse/registry/d8_data"
as_written on master-1 "From one mode to another" "d8-registry store drop" "Local|Proxy=>Proxy $store"
as_written on master-1 "Releases that nobody needs" "retention preview" "preview=>preview $store"
secret registry-user-mirror-puller password >"$DESK/password"
as_written "Beside the present registry" "--answered-by Local" "https://10.0.0.1:5001=>https://${ADDRESS_OF[master-1]}:5001" \
    "--ca-file ca.crt=>--ca-file ca.crt --from-registry https://${ADDRESS_OF[master-2]}:5001/system/deckhouse"
as_written "What has to be there" "rollout restart daemonset d8-registry-node"
await_for 240 daemonsets_done
as_written "From one mode to another" "delete pod" "delete pod=>delete pod -l component=registry-controller"
await_for 120 controllers_ready
as_written "Nodes without bashible" "kubectl describe node" "describe node=>describe node worker-1" >/dev/null

say "Monitoring"
k create -f "$INTEROP_TOOLS/../crds/monitoring.coreos.com_prometheusrules.yaml" >/dev/null
jq -n '{apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition", metadata: {name: "grafanadashboarddefinitions.deckhouse.io"},
    spec: {group: "deckhouse.io", scope: "Cluster", names: {plural: "grafanadashboarddefinitions", singular: "grafanadashboarddefinition",
        kind: "GrafanaDashboardDefinition"}, versions: [{name: "v1", served: true, storage: true, schema: {openAPIV3Schema: {type: "object",
        properties: {spec: {type: "object", required: ["folder", "definition"], properties: {folder: {type: "string"}, definition: {type: "string"}}}}}}}]}}' |
    k create -f - >/dev/null
k create namespace d8-monitoring >/dev/null
await k get prometheusrules -A
await k get grafanadashboarddefinitions
as_written "Monitoring" "deploy/monitoring/rules.yaml"
as_written "Monitoring" "GrafanaDashboardDefinition"
k get grafanadashboarddefinition d8-registry -o json | jq -e '.spec.definition | fromjson | .panels | length > 0' >/dev/null || fail "the dashboard is none"

say "Images from files"
on master-1 bash -euc "mount -t tmpfs tmpfs /mnt && mkdir -p /mnt/usb/bundle"
cp -r "$CLUSTER/deckhouse" "$CLUSTER/carried"
jq --arg tag "$RELEASED" '.manifests[0].annotations = {"org.opencontainers.image.ref.name": $tag, "io.deckhouse.image.short_tag": $tag}' \
    "$CLUSTER/deckhouse/index.json" >"$CLUSTER/carried/index.json"
on master-1 tar -C "$CLUSTER/carried" -cf /mnt/usb/bundle/platform.tar blobs index.json oci-layout
mkdir -p "$CLUSTER/of-module/modules"
cp -r "$CLUSTER/carried" "$CLUSTER/of-module/modules/console"
on master-1 tar -C "$CLUSTER/of-module" -cf /mnt/usb/bundle/module-console.tar modules
files="Images from files (a closed network)"
as_written on master-1 "$files" "bundle inspect"
as_written on master-1 "$files" "bundle verify"
as_written on master-1 "Data of the present registry" "d8-registry init" "init=>init --data-dir /var/lib/d8-registry"
as_written on master-1 "$files" "d8-registry bundle import /mnt/usb/bundle --data-dir /var/lib/d8-registry --dry-run"
as_written on master-1 "$files" "d8-registry bundle import /mnt/usb/bundle --data-dir /var/lib/d8-registry"
secret registry-user-rw password >"$DESK/password"
as_written on master-1 "$files" "bundle import /mnt/usb/bundle --to" "https://registry.example:5000/deckhouse/ee=>https://${ADDRESS_OF[master-1]}:5001/carried/ee" pusher=\>rw
as_written "$files" "kubectl apply -f module_source.yml"
k get modulesources -o json | jq -e --arg repo "${ADDRESS_OF[master-1]}:5001/carried/ee/modules" '.items[0].spec.registry.repo == $repo' >/dev/null || fail "$(k get modulesources -o yaml)"
k delete modulesources --all >/dev/null
as_written on master-1 "$files" "d8-registry check --release" "v1.71.0=>$RELEASED" "https://...=>https://${ADDRESS_OF[master-1]}:5001/system/deckhouse \
    --username rw --password-file password --ca-file ca.crt"
cat >"$CLUSTER/bundle.yaml" <<YAML
listen: 127.0.0.1:5021
adminListen: 127.0.0.1:5022
tls: {certFile: $INTEROP_PKI/tls.crt, keyFile: $INTEROP_PKI/tls.key}
store: {dir: $CLUSTER/of-bundle, reserveBytes: 0}
auth: {users: [{name: ro, role: ro, passwordHash: "$(secret registry-user-ro passwordHash)"}]}
YAML
serving=$(written "$files" "serve --mode Local --bundle" "FILE=>$CLUSTER/bundle.yaml")
part bundle on master-1 env PATH="$DESK/bin:$PATH" bash -c "exec $serving"
serves_bundle() {
    [[ $(on master-1 curl -s --cacert "$CA" -u "ro:$PASSWORD" -o /dev/null -w '%{http_code}' "https://127.0.0.1:5021/v2/system/deckhouse/manifests/$RELEASED") == 200 ]]
}
await serves_bundle
gone "$PART"
nothing_failed
part upstream docker-registry serve "$CLUSTER/upstream.yml"
await upstream_answers

say "Back to Deckhouse's registry"
as_written "In place of the present registry" "d8-registry switch mode Unmanaged" "--images-repo ... --license-file ...=>$of_upstream"
await_for 120 ours_are_waited_for
sed -i "s|$OURS|$UPSTREAM/$EDITION/d8-registry:$OURS_VERSION|" "$DESK/values.yaml"
as_written "What has to be there" "helm upgrade --install"
reached Unmanaged
await_for 120 renders_with "$UPSTREAM/$EDITION"
await_rollouts 1
nothing_failed

say "Removing it"
as_written "Removing it" "helm upgrade d8-registry"
as_written "Removing it" "rollout status"
for node in "${!ADDRESS_OF[@]}"; do
    left=$(on "$node" find /etc/kubernetes/manifests -name 'd8-registry*')
    [[ -z $left ]] || fail "static pods are left on $node: $left"
done
as_written "Removing it" "helm uninstall"
as_written "Removing it" "get secret,configmap -l module=registry" >"$WORK/left"
grep -q registry-pki "$WORK/left" || fail "the keys are gone: $(<"$WORK/left")"
for node in "${!ADDRESS_OF[@]}"; do await_for 60 nothing_listens "$node"; done

say "the module's release takes users and keys over"
k delete validatingadmissionpolicybinding deckhouse-module-registry-validation >/dev/null
if (bashible_is Unmanaged upstream --set mode=Unmanaged) 2>/dev/null; then fail "the module's release takes all over by itself"; fi
as_written "In place of the present registry" "delete secret registry-state"
as_written "In place of the present registry" "meta.helm.sh/release-name=registry"
as_written "In place of the present registry" "app.kubernetes.io/managed-by=Helm"
bashible_is Unmanaged upstream --set mode=Unmanaged
module on
for master in "${!DISTRIBUTION_OF[@]}"; do distribution_on "$master"; done
for node in "${!ADDRESS_OF[@]}"; do balancer_on "$node"; done
bashible_is Local both
await_for 60 nodes_have_it
deckhouse_registry_is present
await_for 120 renders_with "$SERVED"
await_rollouts 2
nothing_failed
every_command_ran
say "$(grep -c rollout "$CLUSTER/roles.log") rollouts, $(k get events -A -o json | jq '[.items[] | select(.reason == "Pulled")] | length') pulls in events"
