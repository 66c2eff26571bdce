# shellcheck shell=bash
# Deckhouse, bashible and an upstream with a licence, for the cluster of real-nodes.sh. Sourced after real-release.sh.

readonly UPSTREAM=$OUTSIDE:5000 EDITION=deckhouse/ee RELEASED=v1.70.1
LICENCE=first-licence

# start_upstream starts a registry that lets in who has the licence.
start_upstream() {
    mkdir -p "$CLUSTER/upstream"
    htpasswd -Bbn license-token "$LICENCE" >"$CLUSTER/htpasswd"
    cat >"$CLUSTER/upstream.yml" <<YAML
version: 0.1
log: {accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $CLUSTER/upstream}}
http: {addr: "$UPSTREAM"}
auth: {htpasswd: {realm: upstream, path: $CLUSTER/htpasswd}}
YAML
    part upstream docker-registry serve "$CLUSTER/upstream.yml"
    UPSTREAM_PROCESS=$PART
    await upstream_answers
}
upstream_answers() { [[ $(curl -s -o /dev/null -w '%{http_code}' "http://$UPSTREAM/v2/") == 401 ]]; }

# fill_upstream pushes what a release has, our own image, and MORE_IMAGES, of the form of EVERYTHING.
MORE_IMAGES=()
fill_upstream() {
    local digest version
    busybox_layout "$CLUSTER/deckhouse" "$RELEASED" /bin/busybox sleep 1000000
    digest=$(jq -r '.manifests[0].digest' "$CLUSTER/app-1/index.json")
    mkdir -p "$CLUSTER/install/more/deckhouse/candi"
    jq -n --arg digest "$digest" '{nodeManager: {bashibleApiserver: $digest}}' >"$CLUSTER/install/more/deckhouse/candi/images_digests.json"
    busybox_layout "$CLUSTER/install" "$RELEASED" /bin/busybox sleep 1000000
    EVERYTHING=("$CLUSTER/deckhouse:$RELEASED|:$RELEASED" "$CLUSTER/app-1:v1|:by-digest" "$CLUSTER/install:$RELEASED|/install:$RELEASED"
        "$CLUSTER/registry/oci:$OURS_VERSION|/d8-registry:$OURS_VERSION")
    for ((version = 1; version <= 6; version++)); do EVERYTHING+=("$CLUSTER/app-$version:v$version|/app:v$version"); done
    EVERYTHING+=(${MORE_IMAGES[@]+"${MORE_IMAGES[@]}"})
    copy_everything --dest-tls-verify=false --dest-creds "license-token:$LICENCE" "$UPSTREAM/$EDITION"
}

# copy_everything FLAGS... REPOSITORY pushes the release there.
copy_everything() {
    local one
    for one in "${EVERYTHING[@]}"; do
        skopeo copy -q --preserve-digests "${@:1:$#-1}" "oci:${one%|*}" "docker://${*: -1}${one#*|}"
    done
}

# The master is asked first whether pushes are taken already: they are once Local is coming.
fill_local() {
    authority
    mkdir -p "$WORK/push-certs"
    cp "$WORK/authority.crt" "$WORK/push-certs/ca.crt"
    await_for 60 takes_pushes
    copy_everything --dest-creds "$(login rw)" --dest-cert-dir "$WORK/push-certs" "${ADDRESS_OF[master-1]}:5001/system/deckhouse"
}
takes_pushes() {
    skopeo copy -q --preserve-digests --dest-creds "$(login rw)" --dest-cert-dir "$WORK/push-certs" "oci:$CLUSTER/app-1:v1" \
        "docker://${ADDRESS_OF[master-1]}:5001/system/deckhouse/app:v1"
}

# prepare_deckhouse makes what Deckhouse has in a cluster: its kinds, its registry, its Deployment; and its users' Deployment.
prepare_deckhouse() {
    local kind
    for kind in ModuleConfig Module ModuleSource DeckhouseRelease; do
        jq -n --arg kind "$kind" '($kind | ascii_downcase) as $name | {apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition",
            metadata: {name: "\($name)s.deckhouse.io"}, spec: {group: "deckhouse.io", scope: "Cluster",
                names: {plural: "\($name)s", singular: $name, kind: $kind, listKind: "\($kind)List"},
                versions: [{name: "v1alpha1", served: true, storage: true, subresources: {status: {}},
                    schema: {openAPIV3Schema: {type: "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}' | k apply -f -
    done
    await k get modules
    await k get moduleconfigs
    k apply -f - <<YAML
apiVersion: deckhouse.io/v1alpha1
kind: Module
metadata: {name: node-manager}
properties: {source: Embedded, critical: true}
---
apiVersion: deckhouse.io/v1alpha1
kind: ModuleConfig
metadata: {name: deckhouse}
spec: {version: 1, enabled: true, settings: {registry: {mode: Unmanaged}}}
YAML
    k -n d8-system create -f - <<YAML
apiVersion: v1
kind: Secret
metadata: {name: deckhouse-registry}
type: kubernetes.io/dockerconfigjson
stringData:
  address: "$UPSTREAM"
  path: /$EDITION
  scheme: http
  .dockerconfigjson: '{"auths":{"$UPSTREAM":{"username":"license-token","password":"$LICENCE","auth":"$(printf 'license-token:%s' "$LICENCE" | base64 -w0)"}}}'
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: deckhouse, annotations: {core.deckhouse.io/version: $RELEASED}}
spec:
  selector: {matchLabels: {app: deckhouse}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: deckhouse, leader: "true"}}
    spec:
      nodeSelector: {node-role.kubernetes.io/control-plane: ""}
      terminationGracePeriodSeconds: 0
      imagePullSecrets: [{name: deckhouse-registry}]
      dnsPolicy: Default
      containers: [{name: deckhouse, image: "$UPSTREAM/$EDITION:$RELEASED"}]
YAML
    k -n apps create -f - <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 3
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 0
      imagePullSecrets: [{name: deckhouse-registry}]
      tolerations:
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: app}}}
      dnsPolicy: Default
      containers: [{name: app, image: "$UPSTREAM/$EDITION/app:v1", imagePullPolicy: Always}]
YAML
}

# upstream_files NODE gives containerd the upstream, as bashible does before there is another registry.
upstream_files() {
    cat >"$CLUSTER/$1/node.yaml" <<YAML
hosts:
  "$UPSTREAM":
    mirrors: [{host: "$UPSTREAM", scheme: http, auth: {username: license-token, password: $LICENCE}}]
YAML
    on "$1" "$INTEROP_SERVER" node-config --config "$CLUSTER/$1/node.yaml" >/dev/null 2>&1
}

# bashible_first NODE: a node that joins has what others have.
bashible_first() {
    secret registry-bashible-config config >"$CLUSTER/$1/node.yaml"
    on "$1" "$INTEROP_SERVER" node-config --config "$CLUSTER/$1/node.yaml" >/dev/null 2>&1
}

# preflight NODE: what bashible says of containerd's own configuration.
preflight() { k label node "$1" node.deckhouse.io/containerd-config-registry=default --overwrite >/dev/null; }

# users_may_pull: Deckhouse has been there before, so namespace apps has its pull Secret.
users_may_pull() {
    k -n d8-system get secret deckhouse-registry -o json |
        jq '{apiVersion, kind, type, metadata: {name: .metadata.name}, data: {".dockerconfigjson": .data[".dockerconfigjson"]}}' |
        k -n apps create -f -
}

begin_roles() {
    echo 6 >"$CLUSTER/versions"
    part roles python3 tests/tools/real/roles.py "https://$OUTSIDE:$(<"$KUBE_DIR/port")" "$KUBE_DIR/pki/ca.crt" "$CLUSTER" "$INTEROP_SERVER"
}
users_rest() {
    touch "$CLUSTER/still"
    await_for 60 rolled_out app
}
users_go_on() { rm "$CLUSTER/still"; }
# await_rollouts COUNT more of the users' Deployment.
await_rollouts() {
    local goal=$(($(grep -c rollout "$CLUSTER/roles.log") + $1))
    await_for 120 rollouts_are "$goal"
}
rollouts_are() { (($(grep -c rollout "$CLUSTER/roles.log") >= $1)); }

# Settings of a mode with the upstream.
upstream_settings() { jq -nc --arg repo "$UPSTREAM/$EDITION" --arg licence "$LICENCE" '{imagesRepo: $repo, scheme: "HTTP", license: $licence}'; }

# ask_for MODE SETTINGS edits ModuleConfig deckhouse.
ask_for() {
    jq -nc --arg mode "$1" --argjson settings "$2" '{spec: {settings: {registry: ({mode: $mode, direct: null, proxy: null, local: null, unmanaged: null}
        + (if $mode == "Local" then {} else {($mode | ascii_downcase): $settings} end))}}}' >"$WORK/patch"
    k patch moduleconfig deckhouse --type merge --patch-file "$WORK/patch" >/dev/null
}
# reached MODE: the switch has ended, and nodes and servers are told of what was asked for; its status is told where it has not.
reached() {
    local end=$((SECONDS + 240)) status
    while :; do
        status=$("$INTEROP_SERVER" switch status --json 2>/dev/null || true)
        if [[ $(jq -r '"\(.mode) \(.targetMode) \(.ready)"' <<<"$status") == "$1 $1 true" ]] && told "$1"; then break; fi
        ((SECONDS < end)) || fail "$1 is not reached: $("$INTEROP_SERVER" switch status 2>&1)"
        sleep 0.5
    done
    say "$1 is reached"
}
told() {
    [[ $(secret registry-bashible-config config 2>/dev/null | sed -n 's/^mode: //p') == "$1" ]] || return
    case $1 in
        Local) ;;
        Unmanaged) secret registry-bashible-config config | grep -q "$LICENCE" ;;
        *) secret d8-registry-mode mode.yaml | grep -q "$LICENCE" ;;
    esac
}
mode_is() {
    ask_for "$@"
    reached "$1"
}

# In Unmanaged servers are not ready: they serve nothing. What the input says at the controller's first look begins no switch.
controllers_ready() {
    k -n d8-system get deployment d8-registry-controller -o json | jq -e '.status.availableReplicas == .spec.replicas' &&
        "$INTEROP_SERVER" switch status --json | jq -e .ready
}
daemonsets_done() {
    k -n d8-system get daemonsets -o json | jq -e 'all(.items[]; .status.observedGeneration == .metadata.generation
        and .status.updatedNumberScheduled == .status.desiredNumberScheduled and .status.numberAvailable == .status.desiredNumberScheduled)'
}

# to_unmanaged: as SWITCHING has it, the chart's own image gets its other name when nothing but it is waited for.
to_unmanaged() {
    ask_for Unmanaged "$(upstream_settings)"
    await_for 120 ours_are_waited_for
    change_release --set "image.reference=$UPSTREAM/$EDITION/d8-registry:$OURS_VERSION"
    reached Unmanaged
}
ours_are_waited_for() {
    local waiting
    waiting=$("$INTEROP_SERVER" switch status 2>/dev/null | sed -n '/FinalContainerdConfigReady/,/^  \[/p' | grep -E '^ +- ')
    [[ -n $waiting ]] && ! grep -qvE '/d8-registry' <<<"$waiting"
}

# expire_licence [NEW]: the upstream takes another one from now on.
expire_licence() {
    LICENCE=${1:-second-licence}
    htpasswd -Bbn license-token "$LICENCE" >"$CLUSTER/htpasswd.new"
    mv "$CLUSTER/htpasswd.new" "$CLUSTER/htpasswd"
    kill "$UPSTREAM_PROCESS"
    wait "$UPSTREAM_PROCESS" || true
    part upstream docker-registry serve "$CLUSTER/upstream.yml"
    UPSTREAM_PROCESS=$PART
    await upstream_answers
}

# store_versions COUNT: users have so many versions from now on, and each master has stored them.
store_versions() {
    local master version
    authority
    mkdir -p "$WORK/pull-certs"
    cp "$WORK/authority.crt" "$WORK/pull-certs/ca.crt"
    for master in "${!ADDRESS_OF[@]}"; do
        [[ $master == master-* ]] || continue
        for ((version = 1; version <= $1; version++)); do
            skopeo copy -q --preserve-digests --src-creds "$(login ro)" --src-cert-dir "$WORK/pull-certs" \
                "docker://${ADDRESS_OF[$master]}:5001/system/deckhouse/app:v$version" "dir:$WORK/stored-$master-$version"
        done
    done
    echo "$1" >"$CLUSTER/versions"
}

# serves_stored: a pod that is deleted comes back on a node that has to pull its image again.
serves_stored() {
    local image node
    image=$(k -n apps get deployment app -o 'jsonpath={.spec.template.spec.containers[0].image}')
    for node in "${!SLEEPER_OF[@]}"; do on "$node" ctr -n k8s.io images rm "$image" >/dev/null 2>&1 || true; done
    k -n apps delete pods -l app=app --wait=false >/dev/null
    await_for 60 rolled_out app
}

# kill_master NAME ends its kubelet and its server, as a power cut does not: containers of others go on.
kill_master() {
    kill -KILL "${KUBELET_OF[$1]}"
    wait "${KUBELET_OF[$1]}" 2>/dev/null || true
    local process
    for process in $(on "$1" ctr -n k8s.io tasks ls | awk '$3 == "RUNNING" { print $2 }'); do
        if tr '\0' ' ' <"/proc/$process/cmdline" | grep -q 'd8-registry serve'; then kill -KILL "$process"; fi
    done
}
revive_master() { start_kubelet_of "$1" node.deckhouse.io/group=master; }

# shown_certificate MASTER prints the fingerprint of what its server shows.
shown_certificate() { openssl s_client -connect "${ADDRESS_OF[$1]}:5001" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint; }

# probe NODE asks 127.0.0.1:5001 there every 0.2 s, from now on.
probe() {
    rm -f "$CLUSTER/probe-$1"
    part "probe-$1" on "$1" python3 "$INTEROP_SCRIPTS/../tools/real/probe.py" 127.0.0.1 5001 "$CLUSTER/probe-$1"
    PROBE_OF[$1]=$PART
    await test -s "$CLUSTER/probe-$1"
}
declare -A PROBE_OF=()

# silence NODE says how long nothing was answered there, at most; ends the probe.
silence() {
    sleep 1
    kill "${PROBE_OF[$1]}"
    wait "${PROBE_OF[$1]}" 2>/dev/null || true
    LONGEST=$(awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { print int(most) }' "$CLUSTER/probe-$1")
    say "127.0.0.1:5001 on $1 was silent for at most $LONGEST ms, $(wc -l <"$CLUSTER/probe-$1") answers"
}
# silence_below NODE MILLISECONDS: not longer than that.
silence_below() {
    silence "$1"
    ((LONGEST <= $2)) || fail "127.0.0.1:5001 on $1 was silent for $LONGEST ms"
}

# protect_deckhouse puts Deckhouse's policies in force: no person may write what has the label `heritage: deckhouse`, nor set it;
# a restart by kubectl is let through. Those who may have the rights that Deckhouse gives them.
protect_deckhouse() {
    local user
    for user in --serviceaccount=d8-system:deckhouse --user=system:sudouser; do
        k create clusterrolebinding "all-${user##*:}" --clusterrole=cluster-admin "$user" >/dev/null
    done
    local restart='object != null && oldObject != null && has(object.spec) && has(object.spec.template) &&
        has(object.spec.template.metadata.annotations) && "kubectl.kubernetes.io/restartedAt" in object.spec.template.metadata.annotations &&
        (!has(oldObject.spec.template.metadata.annotations) || !("kubectl.kubernetes.io/restartedAt" in oldObject.spec.template.metadata.annotations) ||
        oldObject.spec.template.metadata.annotations["kubectl.kubernetes.io/restartedAt"] != object.spec.template.metadata.annotations["kubectl.kubernetes.io/restartedAt"])'
    local own='["system:nodes", "system:serviceaccounts:kube-system", "system:serviceaccounts:d8-system"].exists(one, one in request.userInfo.groups) ||
        request.userInfo.username in ["system:sudouser", "system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "dhctl", "observability"] ||
        request.userInfo.username.startsWith("system:serviceaccount:d8-") || request.userInfo.username.startsWith("system:serviceaccount:kube-")'
    local labelled='has(object.metadata.labels) && "heritage" in object.metadata.labels &&
        (oldObject == null || !has(oldObject.metadata.labels) || !("heritage" in oldObject.metadata.labels))'
    jq -n --arg own "$own" --arg restart "$restart" --arg labelled "$labelled" '
        {matchLabels: {heritage: "deckhouse"}, matchExpressions: [{key: "maintenance.deckhouse.io/no-resource-reconciliation", operator: "NotIn", values: ["", "true"]}]} as $selector
        | def policy($name; $operations; $conditions; $expression; $message):
            {apiVersion: "admissionregistration.k8s.io/v1", kind: "ValidatingAdmissionPolicy", metadata: {name: $name}, spec: {failurePolicy: "Fail",
                matchConstraints: {resourceRules: [{apiGroups: ["*"], apiVersions: ["*"], operations: $operations, resources: ["*"]}]},
                matchConditions: $conditions, validations: [{expression: $expression, reason: "Forbidden", message: $message}]}},
            {apiVersion: "admissionregistration.k8s.io/v1", kind: "ValidatingAdmissionPolicyBinding", metadata: {name: "heritage-\($name)"},
                spec: {policyName: $name, validationActions: ["Deny"], matchResources: {objectSelector: $selector}}};
        policy("label-objects.deckhouse.io"; ["CREATE", "UPDATE", "DELETE"]; [{name: "no-restart", expression: "!(\($restart))"}]; $own;
            "Creating, updating and deleting an objects with the `heritage: deckhouse` label is forbidden"),
        policy("deny-set-heritage-label.deckhouse.io"; ["CREATE", "UPDATE"]; []; "\($own) || !(\($labelled))";
            "Setting the `heritage` label is forbidden for non-system users")' | k apply -f - >/dev/null
    # What is Deckhouse's already.
    k -n d8-system label --as system:sudouser secret/deckhouse-registry deployment/deckhouse heritage=deckhouse --overwrite >/dev/null
    k -n d8-system patch --as system:sudouser deployment deckhouse -p '{"spec": {"template": {"metadata": {"labels": {"heritage": "deckhouse"}}}}}' >/dev/null
    await is_protected
}
is_protected() { ! k -n d8-system annotate secret deckhouse-registry tried=yes --overwrite --dry-run=server; }
