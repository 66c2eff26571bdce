#!/usr/bin/env bash
# Helm before a real API server: what an upgrade keeps, what the controller's objects are left as, and what its token may do.
#
# No pod runs there; the test writes what the controller would, with the controller's own token.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"

need helm jq openssl ip
readonly PYTHON=$INTEROP_TOOLS/../venv/bin/python CRDS=$INTEROP_TOOLS/../crds
[[ -x $PYTHON && -d $CRDS ]] || skip "can't get the Python environment or the CRDs"
# A network of its own: the chart's ports are free there.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up
cd "$INTEROP_SCRIPTS/../.."
readonly CHART=deploy/helm/d8-registry
start_kubernetes
SERVER="https://127.0.0.1:$(cat "$KUBE_DIR/port")"
readonly SERVER OWN=api/v1/namespaces/d8-system

# ask TOKEN METHOD PATH [BODY [TYPE]] prints the answer; its status is in $WORK/status.
ask() {
    curl -sS --cacert "$KUBE_DIR/pki/ca.crt" -H "Authorization: Bearer $1" -X "$2" "$SERVER/$3" -o "$WORK/answer" \
        -w '%{http_code}' -H "Content-Type: ${5:-application/json}" ${4:+--data-binary "$4"} >"$WORK/status"
    cat "$WORK/answer"
}
# admin METHOD PATH [BODY [TYPE]] has to be taken.
admin() {
    ask admin-token "$@" >"$WORK/taken"
    [[ $(cat "$WORK/status") == 2?? ]] || fail "$1 $2: $(cat "$WORK/status") $(cat "$WORK/taken")"
    cat "$WORK/taken"
}
there() {
    ask admin-token GET "$1" >/dev/null
    [[ $(cat "$WORK/status") == 200 ]]
}
gone() { ! there "$1" || fail "is there: $1"; }
object() { admin GET "$OWN/$1"; }
version() { object "$1" | jq -r .metadata.resourceVersion; }
secret() { object "secrets/$1" | jq -cS '{type, data}'; }
value() { object "secrets/$1" | jq -r --arg key "$2" '.data[$key] | @base64d'; }
backends() { object "configmaps/$1" | jq -r .data.backends | xargs; }
run_helm() { helm "$@" --namespace d8-system >"$WORK/helm.out" 2>&1 || fail "helm $1: $(cat "$WORK/helm.out")"; }
install() { run_helm install d8-registry "$CHART" "$@"; }
change() { run_helm upgrade d8-registry "$CHART" "$@"; }
# refused_with SENTENCE ARGUMENTS... of an upgrade.
refused_with() {
    ! helm upgrade d8-registry "$CHART" --namespace d8-system "${@:2}" >"$WORK/helm.out" 2>&1 || fail "was let through: ${*:2}"
    grep -q "$1" "$WORK/helm.out" || fail "$1: $(cat "$WORK/helm.out")"
}
revision() { helm list --namespace d8-system -o json | jq -r '.[0].revision'; }
noted() { grep -qF "$1" "$WORK/helm.out" || fail "the notes have no '$1': $(cat "$WORK/helm.out")"; }
# secrets_of manifest|hooks REVISION: users and keys in it.
secrets_of() {
    helm get "$1" d8-registry --namespace d8-system --revision "$2" | "$PYTHON" -c 'import sys, yaml
print(*sorted(d["metadata"]["name"] for d in yaml.safe_load_all(sys.stdin) if d and d["kind"] == "Secret" and d["type"].startswith("registry/")))'
}
node() {
    admin POST api/v1/nodes "{\"metadata\": {\"name\": \"$1\", \"labels\": {$3}}}" >/dev/null
    admin PATCH "api/v1/nodes/$1/status" "{\"status\": {\"addresses\": [{\"type\": \"InternalIP\", \"address\": \"$2\"}]}}" \
        application/merge-patch+json >/dev/null
}

for name in d8-system d8-monitoring; do
    admin POST api/v1/namespaces "{\"metadata\": {\"name\": \"$name\"}}" >/dev/null
done
admin POST apis/apiextensions.k8s.io/v1/customresourcedefinitions "$(<"$CRDS/monitoring.coreos.com_podmonitors.yaml")" application/yaml >/dev/null
node master-1 10.0.0.1 '"node-role.kubernetes.io/control-plane": ""'
node worker 10.0.0.9 ''

say "without the controller: users and keys are kept"
node master-2 fd00::2 '"node-role.kubernetes.io/control-plane": ""'
# One of the users was made by the registry that was there before.
admin POST "$OWN/secrets" '{"metadata": {"name": "registry-user-ro"}, "type": "registry/user",
    "data": {"name": "cm8=", "password": "dGhlaXJz", "passwordHash": "JDJhJA=="}}' >/dev/null
theirs=$(object secrets/registry-user-ro)
local_values=(--set "image.reference=example.com/d8-registry:1,mode=Local")
alone=("${local_values[@]}" --set controller.enabled=false)
install "${alone[@]}"
pki=$(secret registry-pki) rw=$(secret registry-user-rw)
same "$(jq -r '.type, (.data | keys | join(" "))' <<<"$pki" | xargs)" "registry/pki ca.crt ca.key token.crt token.key" "registry-pki"
same "$(jq -r '.type, (.data | keys | join(" "))' <<<"$rw" | xargs)" "registry/user name password passwordHash" "registry-user-rw"
# shellcheck disable=SC2016
value registry-user-rw passwordHash | grep -qE '^\$2[aby]\$10\$' || fail "no bcrypt hash of cost 10"
value registry-pki ca.crt | openssl x509 -noout -text | grep -q 'ASN1 OID: prime256v1' || fail "the authority is not P-256"
same "$(backends d8-registry-node-proxy)" "10.0.0.1:5001 [fd00::2]:5001" "backends that helm found"
noted 'There are 2 masters'
checksum_of() { helm get manifest d8-registry --namespace d8-system --revision "$1" | grep 'authority-checksum' | sort -u | awk '{print $2}'; }
authority_sum() { secret registry-pki | jq -j '.data["ca.crt"]' | sha256sum | cut -d' ' -f1; }
unchanged() {
    same "$(secret registry-pki)" "$pki" "registry-pki after $1"
    same "$(secret registry-user-rw)" "$rw" "registry-user-rw after $1"
    same "$(object secrets/registry-user-ro)" "$theirs" "the Secret of others after $1"
}
# The masters know each other: so it is for a new release, and later as it was before.
knows() { value d8-registry-config config.yaml | grep -c /etc/d8-registry/masters/backends || true; }
same "$(knows)" 1 "whether masters of a new release know each other"
change "${alone[@]}" --set replicas.enabled=false
same "$(knows)" 0 "whether they do where that is off"
noted 'nothing copies'
noted 'replicas.enabled: true'
change "${alone[@]}"
same "$(knows)" 0 "whether an upgrade lets them"
change "${alone[@]}" --set replicas.enabled=true
change "${alone[@]}"
same "$(knows)" 1 "whether an upgrade keeps it"
noted 'they are one registry: push to any'
change "${alone[@]}" --set drainSeconds=30
# What was not set stays as it was: no controller comes by an upgrade.
change "${local_values[@]}" --set drainSeconds=30
gone "apis/apps/v1/namespaces/d8-system/deployments/d8-registry-controller"
gone "$OWN/secrets/d8-registry-mode"
unchanged "two upgrades"
same "$(secrets_of hooks 1) / $(secrets_of hooks 2) / $(secrets_of hooks "$(revision)")" "registry-pki registry-user-rw /  / " "Secrets that each revision makes"
same "$(secrets_of manifest 1)$(secrets_of manifest "$(revision)")" "" "Secrets that a rollback would write again"
same "$(checksum_of 1) $(checksum_of "$(revision)")" "$(authority_sum) $(authority_sum)" "the authority that the pods were made for"
refused_with 'reaches one of 2 masters' "${alone[@]}" --set push.kind=Ingress,push.host=x,replicas.enabled=false
change "${alone[@]}" --set push.kind=Ingress,push.host=x
noted 'they are one registry: push to any'

change "${alone[@]}" --set mode=Proxy,upstream.imagesRepo=registry.example.com/ee
unchanged "the mode Proxy, which has no user rw"
run_helm rollback d8-registry 1
unchanged "a rollback to the revision that made them"
run_helm uninstall d8-registry
unchanged "the end of the release"
install "${alone[@]}"
unchanged "a new installation"

say "what was put back by hand, without helm's annotations, stays"
change "${alone[@]}"
admin DELETE "$OWN/secrets/registry-pki" >/dev/null
admin POST "$OWN/secrets" "$(jq -c '. + {metadata: {name: "registry-pki"}}' <<<"$pki")" >/dev/null
change "${alone[@]}" --set drainSeconds=20
change "${alone[@]}"
unchanged "two upgrades of what was put back"

say "another authority makes the pods anew, another master is found, at the next upgrade"
before=$(checksum_of "$(revision)")
admin PATCH "$OWN/secrets/registry-pki" '{"data": {"ca.crt": "b3RoZXI="}}' application/merge-patch+json >/dev/null
node master-3 10.0.0.3 '"node-role.kubernetes.io/control-plane": ""'
change "${alone[@]}"
[[ $(checksum_of "$(revision)") != "$before" ]] || fail "the pods keep the certificate of the authority that is gone"
same "$(checksum_of "$(revision)")" "$(authority_sum)" "the authority that the pods are made for"
same "$(backends d8-registry-node-proxy)" "10.0.0.1:5001 10.0.0.3:5001 [fd00::2]:5001" "backends with the new master"
admin PATCH "$OWN/secrets/registry-pki" "$(jq -c '{data: {"ca.crt": .data["ca.crt"]}}' <<<"$pki")" application/merge-patch+json >/dev/null

say "a release without a controller gets one"
change "${alone[@]}" --set controller.enabled=true
same "$(value d8-registry-mode mode.yaml)" "generation: 1
inForce:
  mode: Local
version: 1" "the first mode file"
gone "$OWN/configmaps/d8-registry-node-proxy"
same "$(backends d8-registry-masters)" "10.0.0.1:5001 10.0.0.3:5001 [fd00::2]:5001" "masters that the controller begins with"
unchanged "the controller's arrival"
run_helm uninstall d8-registry
for kept in secrets/d8-registry-mode configmaps/d8-registry-masters configmaps/registry-ca secrets/registry-user-mirror-puller; do
    there "$OWN/$kept" || fail "went with the release: $kept"
done

say "nodes trust an authority whose key is gone: no other one is made"
admin DELETE "$OWN/secrets/registry-pki" >/dev/null
! helm install d8-registry "$CHART" --namespace d8-system "${local_values[@]}" >"$WORK/helm.out" 2>&1 || fail "another authority was made"
grep -q 'the Secret registry-pki is gone' "$WORK/helm.out" || fail "$(cat "$WORK/helm.out")"
gone "$OWN/secrets/registry-pki"

say "a new release in Proxy has a controller"
for name in secrets/d8-registry-mode configmaps/d8-registry-masters configmaps/registry-ca; do
    admin DELETE "$OWN/$name" >/dev/null
done
# What is applied once where no helm runs.
admin POST "$OWN/secrets?dryRun=All" "$(<deploy/manifests/controlled-first.yaml)" application/yaml >/dev/null
# The cluster was made with a registry of its own: nodes have its authority and its users.
admin DELETE "$OWN/secrets/registry-user-rw" >/dev/null
init=$(jq -n --rawfile cert "$INTEROP_PKI/ca.crt" --rawfile key "$INTEROP_PKI/ca.key" \
    '{ca: {cert: $cert, key: $key}, rw_user: {name: "rw", password: "given", password_hash: "x"}}')
# As INSTALL has it.
write_init() {
    printf %s "$1" >"$WORK/init.yaml"
    (cd "$WORK" && KUBECONFIG=$KUBE_DIR/admin.kubeconfig "$INTEROP_TOOLS/kube" kubectl -n d8-system create secret generic registry-init --from-file config=init.yaml >/dev/null)
}
proxy=(--set "image.reference=example.com/d8-registry:1,metrics.kubeRbacProxyImage=example.com/proxy:1,push.kind=Ingress,push.host=x"
    --set "push.manyMasters=true,mode=Proxy,upstream.imagesRepo=registry.example.com/ee,config.proxy.ttl=24h")
# Cut before the key is there: no certificate of it is left behind, which would say that nodes trust what nobody has.
policies=apis/admissionregistration.k8s.io/v1
admin POST "$policies/validatingadmissionpolicies" '{"metadata": {"name": "no-key.test"}, "spec": {"failurePolicy": "Fail",
    "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"],
    "resourceNames": ["registry-pki"]}]}, "validations": [{"expression": "false", "message": "not now"}]}}' >/dev/null
admin POST "$policies/validatingadmissionpolicybindings" '{"metadata": {"name": "no-key.test"},
    "spec": {"policyName": "no-key.test", "validationActions": ["Deny"]}}' >/dev/null
key_is() { # refused|taken
    ask admin-token POST "$OWN/secrets?dryRun=All" '{"metadata": {"name": "registry-pki"}}' >/dev/null
    [[ $(cat "$WORK/status") == $([[ $1 == taken ]] && echo 2 || echo 4)?? ]]
}
await key_is refused
write_init "ca: [$init"
! helm install d8-registry "$CHART" --namespace d8-system "${proxy[@]}" >"$WORK/helm.out" 2>&1 || fail "installed beside a registry-init that can't be read"
grep -q 'the key config of Secret registry-init is no YAML' "$WORK/helm.out" || fail "$(cat "$WORK/helm.out")"
! grep -q 'PRIVATE KEY' "$WORK/helm.out" || fail "a key is shown"
gone "$OWN/configmaps/registry-ca"
admin DELETE "$OWN/secrets/registry-init" >/dev/null
write_init "$init"
! helm install d8-registry "$CHART" --namespace d8-system "${proxy[@]}" >"$WORK/helm.out" 2>&1 || fail "installed without a key"
grep -q 'not now' "$WORK/helm.out" || fail "$(cat "$WORK/helm.out")"
gone "$OWN/configmaps/registry-ca"
for kind in validatingadmissionpolicybindings validatingadmissionpolicies; do
    admin DELETE "$policies/$kind/no-key.test" >/dev/null
done
await key_is taken
run_helm uninstall d8-registry
install "${proxy[@]}" --set upstream.license=first
same "$(value d8-registry-mode mode.yaml)" "generation: 1
inForce:
  mode: Proxy
  ttl: 24h
  upstream:
    imagesRepo: registry.example.com/ee
    password: first
    scheme: HTTPS
    username: license-token
version: 1" "the first mode file"
same "$(object configmaps/registry-ca | jq -r '.data["ca.crt"]')" "$(value registry-pki ca.crt)" "the authority that the controller knows"
same "$(value registry-pki ca.crt)" "$(<"$INTEROP_PKI/ca.crt")" "the authority of registry-init"
value registry-pki token.crt | openssl verify -CAfile "$INTEROP_PKI/ca.crt" >/dev/null || fail "the token's certificate is another authority's"
same "$(value registry-pki ca.key | openssl pkey -pubout)" "$(openssl pkey -in "$INTEROP_PKI/ca.key" -pubout)" "the authority's key"
same "$(value registry-user-rw password)" given "the password of registry-init"
same "$(object services/registry-push | jq -c .spec.selector)" null "what is behind pushes before Local"
same "$(admin GET apis/apps/v1/namespaces/d8-system/deployments/d8-registry-controller | jq .spec.replicas)" 2 "replicas of the controller"
# What the controller has written is its own: each of these keeps its version over upgrades.
mine=(secrets/d8-registry-mode configmaps/d8-registry-masters)
versions() { local one; for one in "${mine[@]}"; do echo "$one $(version "$one")"; done; }
before=$(versions)
node master-4 10.0.0.4 '"node-role.kubernetes.io/control-plane": ""'
# A bootstrap that is run again leaves no registry-init for a while, and then another one: authority and users stay those that nodes have.
given=$(secret registry-pki && secret registry-user-rw)
init=$(jq -n --rawfile cert "$INTEROP_PKI/tls.crt" --rawfile key "$INTEROP_PKI/tls.key" \
    '{ca: {cert: $cert, key: $key}, rw_user: {name: "rw", password: "another", password_hash: "y"}}')
admin DELETE "$OWN/secrets/registry-init" >/dev/null
change "${proxy[@]}" --set upstream.license=second,drainSeconds=30
same "$(secret registry-pki && secret registry-user-rw)" "$given" "authority and user without registry-init"
write_init "$init"
same "$(versions)" "$before" "the controller's objects after an upgrade"
noted 'the user and password of the value upstream are others'
change "${proxy[@]}" --set upstream.license=first,upstream.imagesRepo=registry.example.com/ce,mode=Direct
same "$(versions)" "$before" "the controller's objects after an upgrade with another mode"
noted 'the value mode is Direct, in force is Proxy'
noted 'the value upstream is registry.example.com/ce, in force is registry.example.com/ee'
! grep -E 'first|second' "$WORK/helm.out" || fail "the notes show a password"
same "$(secret registry-pki && secret registry-user-rw)" "$given" "authority and user with another registry-init"

token_of() {
    admin POST "$OWN/serviceaccounts/$1/token" '{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}' | jq -r .status.token
}
CONTROLLER=$(token_of d8-registry-controller)
NODE=$(token_of d8-registry-node)
# may TOKEN METHOD PATH [BODY], and may_not SENTENCE TOKEN METHOD PATH [BODY].
kind_of() { [[ $1 != PATCH ]] || echo application/merge-patch+json; }
may() {
    ask "$1" "$2" "$3" "${4:-}" "$(kind_of "$2")" >"$WORK/taken"
    [[ $(cat "$WORK/status") == 2?? ]] || fail "refused: $2 $3 ${4:-}: $(cat "$WORK/taken")"
}
may_not() {
    ask "$2" "$3" "$4" "${5:-}" "$(kind_of "$3")" >"$WORK/taken"
    [[ $(cat "$WORK/status") == 4?? ]] || fail "was let through: ${*:3}"
    grep -q "$1" "$WORK/taken" || fail "refused for another reason than $1: ${*:3}: $(cat "$WORK/taken")"
}

say "the controller works with the rights that the chart gives it"
for kind in ModuleConfig Module ModuleSource DeckhouseRelease; do
    name=${kind,,}s
    admin POST apis/apiextensions.k8s.io/v1/customresourcedefinitions "$(jq -n --arg kind "$kind" --arg name "$name" '{
        metadata: {name: ($name + ".deckhouse.io")}, spec: {group: "deckhouse.io", scope: "Cluster", names: {kind: $kind, plural: $name},
        versions: [{name: "v1alpha1", served: true, storage: true,
            schema: {openAPIV3Schema: {type: "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}')" >/dev/null
done
for name in moduleconfigs modules modulesources deckhousereleases; do await there "apis/deckhouse.io/v1alpha1/$name"; done
admin POST "$OWN/secrets" '{"metadata": {"name": "deckhouse-registry"}, "type": "kubernetes.io/dockerconfigjson", "stringData": {
    "address": "registry.deckhouse.io", "path": "/deckhouse/ee", "scheme": "https", "clusterIsBootstrapped": "true",
    ".dockerconfigjson": "{\"auths\": {\"registry.deckhouse.io\": {}}}"}}' >/dev/null
sed "s/admin-token/$CONTROLLER/" "$KUBE_DIR/admin.kubeconfig" >"$WORK/controller.kubeconfig"
# With the flags of its Deployment, but for the place of its certificate.
helm get manifest d8-registry --namespace d8-system | "$PYTHON" -c 'import sys, yaml
spec = next(d for d in yaml.safe_load_all(sys.stdin) if d and d["kind"] == "Deployment")["spec"]["template"]["spec"]
print(*spec["containers"][0]["args"], sep="\n")' | sed "s#/etc/d8-registry/controller#$WORK/controller#" >"$WORK/flags"
mkdir "$WORK/controller"
mapfile -t flags <"$WORK/flags"
flags+=(--pins-interval=1s)
POD_NAME=one KUBECONFIG=$WORK/controller.kubeconfig "$INTEROP_SERVER" "${flags[@]}" >"$WORK/controller.log" 2>&1 &
controller=$!
DAEMONS+=("$controller")
leads() { curl -fsS http://127.0.0.1:5005/metrics | grep -q '^d8_registry_switch_leader 1'; }
# Its certificate comes after it; the servers are silent all the same, as no pod runs.
await leads
"$INTEROP_SERVER" pki issue --ca-cert "$INTEROP_PKI/ca.crt" --ca-key "$INTEROP_PKI/ca.key" --uri d8-registry:controller --out "$WORK/controller"
cp "$INTEROP_PKI/ca.crt" "$WORK/controller/ca.crt"
await there "$OWN/secrets/registry-state"
same "$(value registry-state mode)" Proxy "the mode that it has taken over"
await curl -fsS http://127.0.0.1:5005/readyz
# The values of the last upgrade are not followed, and the condition says so until they are those in force.
contradicted() { value registry-state conditions | grep -qF "$1"; }
await contradicted 'mode is Direct, the controller goes by Proxy'
await contradicted 'upstream.imagesRepo is registry.example.com/ce'
change "${proxy[@]}" --set upstream.license=first
not_contradicted() { ! contradicted ChartValuesDiffer; }
await not_contradicted
change "${proxy[@]}" --set upstream.license=second
await contradicted 'or the license, are not those'
! value registry-state conditions | grep -E 'first|second' || fail "a condition shows a password"
# The list of masters is the controller's to make, where no helm has begun it.
admin DELETE "$OWN/configmaps/d8-registry-masters" >/dev/null
await there "$OWN/configmaps/d8-registry-masters"
master_4() { backends d8-registry-masters | grep -q '10.0.0.4:5001'; }
await master_4
admin DELETE api/v1/nodes/master-4 >/dev/null
without_master_4() { ! master_4; }
await without_master_4

say "what runs is pinned, and a page that can't be had writes nothing"
digest() { printf 'sha256:%064x' "$1"; }
# pod NAME IMAGE, and template KIND NAME IMAGE, a ReplicaSet of a Deployment's past.
pod_of() { jq -cn --arg name "$1" --arg image "$2" '{metadata: {name: $name}, spec: {automountServiceAccountToken: false, containers: [{name: "c", image: $image}]}}'; }
template_of() {
    jq -cn --arg name "$1" --arg image "$2" '{metadata: {name: $name}, spec: {replicas: 0, selector: {matchLabels: {a: $name}},
        template: {metadata: {labels: {a: $name}}, spec: {containers: [{name: "c", image: $image}]}}}}'
}
admin POST api/v1/namespaces/default/serviceaccounts '{"metadata": {"name": "default"}}' >/dev/null
# More than a page of them, in one go.
for number in {1..520}; do
    echo "next
url = \"$SERVER/api/v1/namespaces/default/pods\"
header = \"Authorization: Bearer admin-token\"
header = \"Content-Type: application/json\"
cacert = \"$KUBE_DIR/pki/ca.crt\"
output = /dev/null
data = $(jq -R . <<<"{\"metadata\": {\"name\": \"p$number\"}, \"spec\": {\"automountServiceAccountToken\": false, \"containers\": [{\"name\": \"c\", \"image\": \"r/x@$(digest "$number")\"}]}}")"
done | sed 1d | curl -sS --fail-early --fail -K -
admin POST apis/apps/v1/namespaces/default/replicasets "$(template_of past "r/x:v1@$(digest 1001)")" >/dev/null
# By a tag: what the runtime made of it.
admin POST api/v1/namespaces/default/pods "$(pod_of tagged r/x:v1)" >/dev/null
admin PATCH api/v1/namespaces/default/pods/tagged/status "{\"status\": {\"containerStatuses\": [{\"name\": \"c\", \"image\": \"r/x:v1\",
    \"imageID\": \"r/x@$(digest 1002)\", \"ready\": true, \"restartCount\": 0}]}}" application/merge-patch+json >/dev/null
for release in v1.68.9=Superseded v1.69.2=Superseded v1.70.1=Deployed v1.70.2=Skipped v1.71.0=Pending; do
    admin POST apis/deckhouse.io/v1alpha1/deckhousereleases "$(jq -n --arg version "${release%=*}" --arg phase "${release#*=}" '{apiVersion:
        "deckhouse.io/v1alpha1", kind: "DeckhouseRelease", metadata: {name: ($version | gsub("[.]"; "-"))}, spec: {version: $version}, status: {phase: $phase}}')" >/dev/null
done
pinned() { value registry-pins pins.yaml | grep -qF "$1"; }
await pinned v1.71.0
await pinned "$(digest 1002)"
same "$(value registry-pins pins.yaml | grep -c sha256:)" 522 "digests that are pinned"
same "$(value registry-pins pins.yaml | grep -o '"v1[^"]*"' | xargs)" "v1.69.2 v1.70.1 v1.71.0" "releases that are pinned"
# One kind can't be listed: what is pinned stays, though a pod came and others are gone.
rights=$(admin GET apis/rbac.authorization.k8s.io/v1/clusterroles/d8:registry:controller)
admin PUT apis/rbac.authorization.k8s.io/v1/clusterroles/d8:registry:controller \
    "$(jq 'del(.metadata.managedFields) | .rules |= map(select(.apiGroups != ["batch"]))' <<<"$rights")" >/dev/null
await grep -q 'registry-pins stays as it is' "$WORK/controller.log"
before=$(version secrets/registry-pins)
admin DELETE "api/v1/namespaces/default/pods/p1?gracePeriodSeconds=0" >/dev/null
admin POST api/v1/namespaces/default/pods "$(pod_of new "r/x@$(digest 1003)")" >/dev/null
failed() { curl -fsS http://127.0.0.1:5005/metrics | sed -n 's/^d8_registry_switch_write_failures_total{output="registry-pins"} //p'; }
count=$(failed)
further() { (($(failed) > count + 1)); }
await further
same "$(version secrets/registry-pins)" "$before" "registry-pins while a page can't be had"
admin PUT apis/rbac.authorization.k8s.io/v1/clusterroles/d8:registry:controller \
    "$(jq 'del(.metadata.managedFields, .metadata.resourceVersion)' <<<"$rights")" >/dev/null
await pinned "$(digest 1003)"
! pinned "$(digest 1)" || fail "a pod that is gone is pinned"
# The log names the refusal, which was meant.
sed -i '/registry-pins stays as it is/d' "$WORK/controller.log"

mine+=(secrets/d8-registry-switch secrets/registry-state)
before=$(versions)
change "${proxy[@]}" --set upstream.license=second,drainSeconds=30
same "$(versions)" "$before" "the controller's objects after an upgrade beside it"
kill -TERM "$controller"
wait "$controller" || fail "the controller ended with $?: $(tail -n 5 "$WORK/controller.log")"
! grep -iE 'forbidden|panicked' "$WORK/controller.log" || fail "the controller's rights"
mine=(secrets/d8-registry-mode configmaps/d8-registry-masters)
for name in d8-registry-switch registry-state; do admin DELETE "$OWN/secrets/$name" >/dev/null; done
admin DELETE apis/coordination.k8s.io/v1/namespaces/d8-system/leases/d8-registry-controller >/dev/null

say "in the middle of a switch"
made() { echo "{\"metadata\": {\"name\": \"$1\"}, \"type\": \"$2\", \"stringData\": {$3}}"; }
file='version: 1\ngeneration: 7\ninForce: {mode: Proxy, upstream: {imagesRepo: registry.example.com/ee, scheme: HTTPS, username: license-token, password: first}}\ncoming: {mode: Local, phase: filling}\n'
may "$CONTROLLER" PATCH "$OWN/secrets/d8-registry-mode" "{\"stringData\": {\"mode.yaml\": \"$file\"}}"
may "$CONTROLLER" PATCH "$OWN/configmaps/d8-registry-masters" '{"data": {"backends": "10.0.0.1:5001\n"}}'
may "$CONTROLLER" POST "$OWN/secrets" "$(made d8-registry-switch Opaque '"record": "version: 1"')"
may "$CONTROLLER" POST "$OWN/secrets" "$(made registry-state registry/state '"mode": "Proxy", "target_mode": "Local"')"
may "$CONTROLLER" POST "$OWN/secrets" "$(made registry-bashible-config Opaque '"config": "mode: Proxy"')"
may "$CONTROLLER" PATCH "$OWN/services/registry-push" '{"spec": {"selector": {"app": "d8-registry", "component": "registry-server"}}}'
may "$NODE" PATCH "$OWN/secrets/d8-registry-controller-tls" '{"stringData": {"tls.crt": "certificate"}}'
mine+=(secrets/d8-registry-switch secrets/registry-state secrets/registry-bashible-config secrets/d8-registry-controller-tls)
before=$(versions)
change "${proxy[@]}" --set upstream.license=second,drainSeconds=20
noted 'A switch to Local is under way.'
change "${proxy[@]}" --set upstream.license=second,mode=Direct,nodeProxy.enabled=false
same "$(versions)" "$before" "the controller's objects after upgrades in the middle of a switch"
same "$(object services/registry-push | jq -r .spec.selector.component)" registry-server "what is behind pushes while Local comes"
# A rollback, to the revision that began it all too, writes nothing that servers and nodes go by.
mine+=(secrets/registry-pki secrets/registry-user-ro secrets/registry-user-rw secrets/registry-user-mirror-puller
    secrets/registry-user-mirror-pusher configmaps/registry-ca)
before=$(versions)
for to in "$(($(revision) - 1))" 1; do
    run_helm rollback d8-registry "$to"
    same "$(versions)" "$before" "objects of the switch after a rollback to revision $to in its middle"
    same "$(object services/registry-push | jq -r .spec.selector.component)" registry-server "what is behind pushes after a rollback"
    value d8-registry-config config.yaml | grep -q '^modeFile: ' || fail "the servers' configuration names no mode file after a rollback"
done
# A Secret that is lost is the controller's to make: it knows what was in it.
admin DELETE "$OWN/secrets/d8-registry-mode" >/dev/null
change "${proxy[@]}"
gone "$OWN/secrets/d8-registry-mode"
may "$CONTROLLER" POST "$OWN/secrets" "$(made d8-registry-mode Opaque "\"mode.yaml\": \"$file\"")"
may "$CONTROLLER" PATCH "$OWN/services/registry-push" '{"spec": {"selector": {"component": "registry-push-off"}}}'
may "$CONTROLLER" PATCH "$OWN/services/registry" '{"spec": {"selector": {"component": "nobody"}}}'
change "${proxy[@]}"
same "$(object services/registry | jq -r .spec.selector.component)" nobody "what is behind the registry's Service in Unmanaged"
# As INSTALL says of a rollback there.
earlier=$(($(revision) - 1))
! helm rollback d8-registry "$earlier" --namespace d8-system >"$WORK/helm.out" 2>&1 || fail "a rollback changed the controller's selector"
grep -q 'spec.selector' "$WORK/helm.out" || fail "no conflict is named: $(<"$WORK/helm.out")"
run_helm rollback d8-registry "$earlier" --force-conflicts
same "$(object services/registry | jq -r .spec.selector.component)" registry-server "what is behind the registry's Service after a forced rollback"
same "$(object services/registry-push | jq -r .spec.selector.component)" registry-push-off "what is behind pushes after Local"
before=$(versions)
pki=$(secret registry-pki)
run_helm uninstall d8-registry
# But for the controller's certificate, which is the release's.
for place in "${!mine[@]}"; do [[ ${mine[place]} != */d8-registry-controller-tls ]] || unset "mine[place]"; done
same "$(versions)" "$(grep -v controller-tls <<<"$before")" "objects of the switch after the end of the release"
install "${proxy[@]}" --set mode=Direct
same "$(versions)" "$(grep -v controller-tls <<<"$before")" "objects of the switch after a new installation"
same "$(secret registry-pki)" "$pki" "registry-pki after a new installation"

say "what the controller's token may not do"
CONTROLLER=$(token_of d8-registry-controller) NODE=$(token_of d8-registry-node)
# The API server takes a moment to put a policy into force that it has just been given.
policy_holds() { (may_not 'creates its own objects alone' "$CONTROLLER" POST "$OWN/secrets?dryRun=All" "$(made another Opaque '')"); }
await policy_holds
forbidden='is forbidden: User' policy="creates its own objects alone"
may_not "$forbidden" "$CONTROLLER" GET "$OWN/secrets/registry-pki"
may_not "$forbidden" "$CONTROLLER" PATCH "$OWN/secrets/registry-pki" '{"data": {}}'
may_not "$forbidden" "$CONTROLLER" DELETE "$OWN/secrets/registry-pki"
may_not "$forbidden" "$CONTROLLER" GET "$OWN/secrets"
may_not "$forbidden" "$CONTROLLER" GET "$OWN/secrets?watch=1"
may_not "$forbidden" "$CONTROLLER" GET "$OWN/secrets?fieldSelector=metadata.name%3Dregistry-pki"
may_not "$forbidden" "$CONTROLLER" GET api/v1/secrets
may_not "$forbidden" "$CONTROLLER" GET api/v1/namespaces/kube-system/secrets
may_not "$forbidden" "$CONTROLLER" GET "$OWN/secrets/d8-registry-controller-tls"
may_not "$forbidden" "$CONTROLLER" GET "$OWN/secrets/d8-registry-config"
may_not "$forbidden" "$CONTROLLER" DELETE "$OWN/secrets/registry-state"
may_not "$forbidden" "$CONTROLLER" DELETE "$OWN/secrets/registry-pins"
may_not "$forbidden" "$CONTROLLER" DELETE "$OWN/secrets/registry-bashible-config"
may_not "$forbidden" "$CONTROLLER" PATCH "$OWN/configmaps/registry-ca" '{"data": {"ca.crt": "x"}}'
may_not "$forbidden" "$CONTROLLER" PATCH "$OWN/secrets/d8-registry-values" '{"data": {}}'
may_not "$forbidden" "$CONTROLLER" PUT "$OWN/secrets/registry-state" "$(made registry-state registry/state '')"
may_not "$forbidden" "$CONTROLLER" PUT "$OWN/configmaps/d8-registry-masters" '{"metadata": {"name": "d8-registry-masters"}}'
may_not "$forbidden" "$CONTROLLER" PATCH apis/coordination.k8s.io/v1/namespaces/d8-system/leases/d8-registry-controller '{}'
may_not "$forbidden" "$CONTROLLER" GET apis/coordination.k8s.io/v1/namespaces/d8-system/leases
may_not "$forbidden" "$CONTROLLER" GET api/v1/namespaces
may_not "$forbidden" "$CONTROLLER" GET "$OWN/configmaps"
may_not "$forbidden" "$CONTROLLER" PATCH "$OWN/events/x" '{}'
may_not "$policy" "$CONTROLLER" POST "$OWN/secrets" "$(made another Opaque '')"
may_not "$policy" "$CONTROLLER" POST "$OWN/secrets" "$(made d8-registry-settings Opaque '')"
may_not "$policy" "$CONTROLLER" POST "$OWN/secrets" '{"metadata": {"generateName": "registry-state"}, "type": "Opaque"}'
may_not "$policy" "$CONTROLLER" POST "$OWN/configmaps" '{"metadata": {"name": "another"}}'
may_not "$policy" "$CONTROLLER" POST "apis/coordination.k8s.io/v1/namespaces/d8-system/leases" '{"metadata": {"name": "another"}}'
admin DELETE "$OWN/secrets/registry-state" >/dev/null
may_not "gives a token to" "$CONTROLLER" POST "$OWN/secrets" '{"metadata": {"name": "registry-state", "annotations":
    {"kubernetes.io/service-account.name": "deckhouse"}}, "type": "kubernetes.io/service-account-token"}'
for path in pods serviceaccounts services; do
    may_not "$forbidden" "$CONTROLLER" POST "$OWN/$path" '{"metadata": {"name": "x"}}'
done
may_not "$forbidden" "$CONTROLLER" POST "$OWN/serviceaccounts/d8-registry-node/token" '{}'
may_not "$forbidden" "$CONTROLLER" POST "$OWN/pods/x/exec" ''
may_not "$forbidden" "$CONTROLLER" PATCH api/v1/nodes/master-1 '{"metadata": {"labels": {"x": "y"}}}'
may_not "$forbidden" "$CONTROLLER" PATCH apis/apps/v1/namespaces/d8-system/deployments/d8-registry-controller '{}'
may_not "$forbidden" "$CONTROLLER" PATCH apis/deckhouse.io/v1alpha1/moduleconfigs/deckhouse '{}'
may_not "$forbidden" "$CONTROLLER" PATCH "apis/rbac.authorization.k8s.io/v1/namespaces/d8-system/roles/d8-registry-controller" '{}'
may_not "$forbidden" "$CONTROLLER" DELETE apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/d8-registry-controller
may_not "$forbidden" "$NODE" GET "$OWN/secrets/registry-pki"
may_not "$forbidden" "$NODE" GET "$OWN/secrets"
may_not "$forbidden" "$NODE" POST "$OWN/secrets" "$(made another Opaque '')"
may_not "$forbidden" "$NODE" DELETE "$OWN/secrets/d8-registry-controller-tls"
may_not "$forbidden" "$NODE" GET "$OWN/secrets/d8-registry-mode"
may_not "$forbidden" "$NODE" GET "$OWN/configmaps/d8-registry-masters"
may_not "$forbidden" "$NODE" PATCH "$OWN/configmaps/registry-ca" '{"data": {"ca.crt": "x"}}'
may_not "$forbidden" "$NODE" DELETE "$OWN/configmaps/registry-ca"
may_not "$policy" "$NODE" POST "$OWN/configmaps" '{"metadata": {"name": "d8-registry-masters"}}'

say "no ServiceAccount of the chart reads the authority's key"
# may_account ACCOUNT VERB RESOURCE [NAME], by the API server's own word.
may_account() {
    admin POST apis/authorization.k8s.io/v1/subjectaccessreviews "$(jq -cn --arg user "system:serviceaccount:d8-system:$1" --arg verb "$2" \
        --arg resource "$3" --arg name "${4:-}" '{apiVersion: "authorization.k8s.io/v1", kind: "SubjectAccessReview", spec: {user: $user,
        groups: ["system:serviceaccounts", "system:serviceaccounts:d8-system", "system:authenticated"], resourceAttributes:
        {namespace: "d8-system", verb: $verb, resource: $resource, name: $name}}}')" | jq -r .status.allowed
}
mapfile -t accounts < <(object serviceaccounts | jq -r '.items[].metadata.name')
for account in d8-registry d8-registry-controller d8-registry-metrics d8-registry-node; do
    printf '%s\n' "${accounts[@]}" | grep -qx "$account" || fail "the chart has no ServiceAccount $account: ${accounts[*]}"
done
for account in "${accounts[@]}"; do
    for verb in get list watch update patch delete; do
        same "$(may_account "$account" "$verb" secrets registry-pki)" false "whether $account may $verb registry-pki"
        same "$(may_account "$account" "$verb" secrets)" false "whether $account may $verb all Secrets"
    done
    # Whoever may start a pod may mount it there.
    for resource in pods daemonsets deployments; do
        same "$(may_account "$account" create "$resource")" false "whether $account may create $resource"
    done
    same "$(may_account "$account" get secrets d8-registry-controller-tls)" "$([[ $account == d8-registry-node ]] && echo true || echo false)" \
        "whether $account may read the controller's certificate"
done
# The rule finds one that may.
same "$(may_account d8-registry-controller get secrets registry-state)" true "whether the controller may read registry-state"
# Nobody else mounts it, in any placement.
for placement in StaticPod DaemonSet; do
    same "$(helm template d8-registry "$CHART" --namespace d8-system "${proxy[@]}" --set "placement=$placement,nodeProxy.backends={a:1}" | "$PYTHON" -c 'import sys, yaml
def mounts(volume):
    sources = [volume.get("secret") or {}] + [source.get("secret") or {} for source in (volume.get("projected") or {}).get("sources", [])]
    return any("registry-pki" in (source.get("secretName"), source.get("name")) and (not source.get("items") or any(item["key"] == "ca.key" for item in source["items"])) for source in sources)
found = ["/".join((d["kind"], d["metadata"]["name"])) for d in yaml.safe_load_all(sys.stdin)
    if d and any(mounts(volume) for volume in d.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", []))]
print(*sorted(found))')" "$([[ $placement == StaticPod ]] && echo DaemonSet/d8-registry-node || echo "DaemonSet/d8-registry DaemonSet/d8-registry-node")" \
        "who mounts the authority's key with $placement"
done

say "and what it needs"
may "$CONTROLLER" POST "$OWN/secrets" "$(made registry-state registry/state '"mode": "Proxy"')"
may "$CONTROLLER" GET "$OWN/secrets?fieldSelector=metadata.name%3Dregistry-state"
may "$CONTROLLER" GET "$OWN/secrets/d8-registry-values"
may "$CONTROLLER" POST "apis/coordination.k8s.io/v1/namespaces/d8-system/leases" '{"metadata": {"name": "d8-registry-controller"}}'
may "$CONTROLLER" POST "$OWN/events" '{"metadata": {"name": "x", "namespace": "d8-system"}, "involvedObject": {"namespace": "d8-system"}}'
for path in api/v1/nodes api/v1/pods apis/apps/v1/deployments apis/apps/v1/daemonsets apis/apps/v1/statefulsets apis/batch/v1/cronjobs \
    "$OWN/configmaps/registry-ca" "$OWN/configmaps/d8-registry-masters" "$OWN/services/registry"; do
    may "$CONTROLLER" GET "$path"
done
admin DELETE "$OWN/secrets/registry-pki" >/dev/null
may "$CONTROLLER" POST "$OWN/secrets" '{"metadata": {"name": "registry-pki", "annotations": {"helm.sh/resource-policy": "keep"}},
    "type": "registry/pki", "stringData": {"ca.crt": "another authority"}}'

refused_with 'another authority than the ConfigMap registry-ca' "${proxy[@]}"
admin DELETE "$OWN/configmaps/registry-ca" >/dev/null
may "$CONTROLLER" POST "$OWN/configmaps" '{"metadata": {"name": "registry-ca"}, "data": {"ca.crt": "another authority"}}'
change "${proxy[@]}"
there "$OWN/configmaps/registry-ca" || fail "the ConfigMap that the controller has made is gone"

say "a certificate in a Secret: pki issue --secret"
admin DELETE "$OWN/secrets/d8-registry-controller-tls" >/dev/null
NODE=$(token_of d8-registry-node)
sed "s/admin-token/$NODE/" "$KUBE_DIR/admin.kubeconfig" >"$WORK/node.kubeconfig"
# issue AUTHORITY [FLAG...] as the pod d8-registry-node does.
issue() {
    KUBECONFIG=$WORK/node.kubeconfig "$INTEROP_SERVER" pki issue --ca-cert "$1.crt" --ca-key "$1.key" --uri d8-registry:controller \
        --days 90 --secret d8-registry-controller-tls "${@:2}" 2>&1
}
! issue "$INTEROP_PKI/ca" --once >"$WORK/said" || fail "a Secret was made: $(cat "$WORK/said")"
grep -q 'there is no Secret d8-registry-controller-tls' "$WORK/said" || fail "$(cat "$WORK/said")"
gone "$OWN/secrets/d8-registry-controller-tls"
change "${proxy[@]}"
issued() {
    grep -q "$1" "$WORK/said" || fail "not $1: $(cat "$WORK/said")"
    value d8-registry-controller-tls tls.crt >"$WORK/tls.crt"
    value d8-registry-controller-tls tls.key >"$WORK/tls.key"
    value d8-registry-controller-tls ca.crt >"$WORK/ca.crt"
    openssl verify -purpose sslclient -CAfile "$WORK/ca.crt" "$WORK/tls.crt" >/dev/null || fail "no client's certificate after $1"
    same "$(openssl x509 -in "$WORK/tls.crt" -noout -pubkey)" "$(openssl pkey -in "$WORK/tls.key" -pubout)" "the key after $1"
    same "$(openssl x509 -in "$WORK/tls.crt" -noout -ext subjectAltName | xargs)" \
        "X509v3 Subject Alternative Name: URI:d8-registry:controller" "the name in the certificate"
}
issue "$INTEROP_PKI/ca" --once >"$WORK/said" || fail "$(cat "$WORK/said")"
issued 'there was none'
before=$(version secrets/d8-registry-controller-tls)
issue "$INTEROP_PKI/ca" --once >"$WORK/said" || fail "$(cat "$WORK/said")"
issued 'nothing changed'
same "$(version secrets/d8-registry-controller-tls)" "$before" "the version of a Secret that fits"
change "${proxy[@]}" --set drainSeconds=30
same "$(version secrets/d8-registry-controller-tls)" "$before" "the version of a Secret that an upgrade renders"
admin PATCH "$OWN/secrets/d8-registry-controller-tls" '{"data": {"tls.key": null, "ca.crt": "eA=="}}' application/merge-patch+json >/dev/null
issue "$INTEROP_PKI/ca" --once >"$WORK/said" || fail "$(cat "$WORK/said")"
issued 'there was none'
openssl ecparam -name prime256v1 -genkey -noout -out "$WORK/other.key"
openssl req -x509 -new -key "$WORK/other.key" -days 9 -subj /CN=other -out "$WORK/other.crt"
# One on each master: all end well, and leave one whole pair.
issuers=()
for one in 1 2 3 4; do
    issue "$WORK/other" --once >"$WORK/said.$one" &
    issuers+=("$!")
done
for one in "${issuers[@]}"; do wait "$one" || fail "an issuer beside others: $(cat "$WORK"/said.*)"; done
cat "$WORK"/said.* >"$WORK/said"
issued 'the chain no longer fitted'
# The authority is published by whoever has its key, where that was interrupted; what is there stays.
admin DELETE "$OWN/configmaps/registry-ca" >/dev/null
issue "$INTEROP_PKI/ca" --once --publish-ca registry-ca >"$WORK/said" || fail "$(cat "$WORK/said")"
same "$(object configmaps/registry-ca | jq -r '.data["ca.crt"]')" "$(<"$INTEROP_PKI/ca.crt")" "the authority that is published"
before=$(version configmaps/registry-ca)
issue "$WORK/other" --once --publish-ca registry-ca >"$WORK/said" || fail "$(cat "$WORK/said")"
same "$(version configmaps/registry-ca)" "$before" "the published authority after an issuer of another one"
# So does one that runs, once that has been missing for long enough: it looks again soon, as its Secret is not there either.
admin DELETE "$OWN/configmaps/registry-ca" >/dev/null
kept_secret=$(object secrets/d8-registry-controller-tls | jq -c 'del(.metadata.uid, .metadata.resourceVersion, .metadata.managedFields)')
admin DELETE "$OWN/secrets/d8-registry-controller-tls" >/dev/null
KUBECONFIG=$WORK/node.kubeconfig "$INTEROP_SERVER" pki issue --ca-cert "$INTEROP_PKI/ca.crt" --ca-key "$INTEROP_PKI/ca.key" \
    --uri d8-registry:controller --secret d8-registry-controller-tls --publish-ca registry-ca --publish-after 1s >"$WORK/publishing" 2>&1 &
keeper=$!
DAEMONS+=("$keeper")
await there "$OWN/configmaps/registry-ca"
same "$(object configmaps/registry-ca | jq -r '.data["ca.crt"]')" "$(<"$INTEROP_PKI/ca.crt")" "the authority that a running keeper publishes"
grep -q 'there is no Secret d8-registry-controller-tls' "$WORK/publishing" || fail "it was published at the first look: $(cat "$WORK/publishing")"
await grep -q 'the authority was not published, and is now' "$WORK/publishing"
kill -TERM "$keeper"
wait "$keeper" || fail "the keeper ended with $?: $(cat "$WORK/publishing")"
# With the time that the chart gives it nothing is made while it runs.
admin DELETE "$OWN/configmaps/registry-ca" >/dev/null
KUBECONFIG=$WORK/node.kubeconfig "$INTEROP_SERVER" pki issue --ca-cert "$INTEROP_PKI/ca.crt" --ca-key "$INTEROP_PKI/ca.key" \
    --uri d8-registry:controller --secret d8-registry-controller-tls --publish-ca registry-ca >"$WORK/waiting" 2>&1 &
keeper=$!
DAEMONS+=("$keeper")
await grep -q 'there is no Secret d8-registry-controller-tls' "$WORK/waiting"
gone "$OWN/configmaps/registry-ca"
kill -TERM "$keeper"
wait "$keeper" || fail "the keeper ended with $?: $(cat "$WORK/waiting")"
admin POST "$OWN/secrets" "$kept_secret" >/dev/null
# Kept for as long as it runs, also when the API server is away at its start.
admin PATCH "$OWN/secrets/d8-registry-controller-tls" '{"data": {"tls.key": null}}' application/merge-patch+json >/dev/null
tests/interop/kube-cluster.sh pause "$KUBE_DIR"
KUBECONFIG=$WORK/node.kubeconfig "$INTEROP_SERVER" pki issue --ca-cert "$WORK/other.crt" --ca-key "$WORK/other.key" \
    --uri d8-registry:controller --secret d8-registry-controller-tls >"$WORK/kept" 2>&1 &
keeper=$!
DAEMONS+=("$keeper")
await grep -q "can't be reached" "$WORK/kept"
tests/interop/kube-cluster.sh resume "$KUBE_DIR"
await grep -q 'a certificate is issued' "$WORK/kept"
echo 'there was none' >"$WORK/said"
issued 'there was none'
kill -TERM "$keeper"
wait "$keeper" || fail "the keeper ended with $?: $(cat "$WORK/kept")"
! grep -rq 'PRIVATE KEY' "$WORK/kept" "$WORK"/said* || fail "a key was shown"
