# shellcheck shell=bash
# The registry that Deckhouse 1.75 brings, in Local, and what Deckhouse's module does with it: distribution on each master with users
# and keys, a balancer on each node, Secrets of the release `registry`. Sourced after real-deckhouse.sh.

readonly PRESENT=/etc/kubernetes/registry PRESENT_DATA=/opt/deckhouse/registry/local_data DECKHOUSE=system:serviceaccount:d8-system:deckhouse
declare -A DISTRIBUTION_OF=() BALANCER_OF=()

# deckhouse_protects puts Deckhouse's policies in force: only its own accounts write what has the label heritage: deckhouse, but
# whoever may can restart what is rolled out. Deckhouse itself may do all.
deckhouse_protects() {
    k apply -f - <<'YAML'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "d8:deckhouse"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: deckhouse, namespace: d8-system}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: label-objects.deckhouse.io}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: ["*"], apiVersions: ["*"], operations: [CREATE, UPDATE, DELETE], resources: ["*"]}]
  variables:
    - {name: own, expression: "request.userInfo.groups.exists(g, g in ['system:nodes', 'system:serviceaccounts:kube-system', 'system:serviceaccounts:d8-system'])"}
    - {name: system, expression: "request.userInfo.username.matches('^system:serviceaccount:(d8|kube)-') || request.userInfo.username in ['system:sudouser', 'system:apiserver', 'system:kube-controller-manager', 'system:kube-scheduler', 'dhctl']"}
    - name: restarted
      expression: |
        request.operation == 'UPDATE' &&
        object.?spec.?template.?metadata.?annotations[?'kubectl.kubernetes.io/restartedAt'] !=
        oldObject.?spec.?template.?metadata.?annotations[?'kubectl.kubernetes.io/restartedAt']
  validations:
    - expression: variables.own || variables.system || variables.restarted
      reason: Forbidden
      message: "Creating, updating and deleting an objects with the `heritage: deckhouse` label is forbidden"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: heritage-label-objects.deckhouse.io}
spec:
  policyName: label-objects.deckhouse.io
  validationActions: [Deny]
  matchResources: {objectSelector: {matchLabels: {heritage: deckhouse}}}
YAML
    # A policy counts some moments after it was made.
    await refuses_people
}
refuses_people() { ! k -n d8-system create configmap forbidden --dry-run=client -o yaml | k label --local -f - heritage=deckhouse -o yaml | k create --dry-run=server -f -; }

# frozen: with the module off Deckhouse lets nobody change these settings.
frozen() {
    k apply -f - <<'YAML'
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: deckhouse-module-registry-validation}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [deckhouse.io], apiVersions: ["*"], operations: [UPDATE], resources: [moduleconfigs]}]
  matchConditions: [{name: deckhouse, expression: "object.metadata.name == 'deckhouse'"}]
  validations:
    - expression: object.spec.?settings.?registry == oldObject.spec.?settings.?registry
      message: "Changing, adding, or removing `spec.settings.registry` is forbidden when the registry module is disabled. Please enable the module to make changes."
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: deckhouse-module-registry-validation}
spec: {policyName: deckhouse-module-registry-validation, validationActions: [Deny]}
YAML
}

# module on|off: what Deckhouse's module manager says of the module `registry`.
module() {
    k apply -f - >/dev/null <<YAML
apiVersion: deckhouse.io/v1alpha1
kind: Module
metadata: {name: registry}
properties: {source: Embedded, critical: false}
YAML
    k patch module registry --subresource=status --type merge \
        -p "{\"status\": {\"conditions\": [{\"type\": \"EnabledByModuleManager\", \"status\": \"$([[ $1 == on ]] && echo True || echo False)\"}]}}" >/dev/null
}

# registry_config_is MODE: what Deckhouse writes of mc deckhouse, whether its module `registry` is on or not.
registry_config_is() {
    jq -n --arg mode "$1" '{apiVersion: "v1", kind: "Secret", type: "registry/config", metadata: {name: "registry-config", namespace: "d8-system",
        annotations: {version: "1"}, labels: {app: "registry", name: "registry-deckhouse-config", type: "registry-config", heritage: "deckhouse",
            module: "deckhouse"}}, stringData: {mode: $mode, raw_config: "mode: \($mode)\n"}}' | k --as "$DECKHOUSE" apply -f - >/dev/null
}

# module_chart makes the chart of Deckhouse's module: what of it are Secrets and the Service.
module_chart() {
    mkdir -p "$CLUSTER/module/templates"
    echo '{apiVersion: v2, name: registry, version: 0.0.1}' >"$CLUSTER/module/Chart.yaml"
    cat >"$CLUSTER/module/templates/all.yaml" <<'YAML'
{{- $labels := dict "heritage" "deckhouse" "module" "registry" "app" "registry" }}
apiVersion: v1
kind: Secret
metadata: {name: registry-state, labels: {{ toJson $labels }}}
type: registry/state
stringData:
  hash: "0"
  mode: {{ .Values.mode }}
  target_mode: {{ .Values.mode }}
  state: |
    mode: {{ .Values.mode }}
    target_mode: {{ .Values.mode }}
  conditions: |
    - {type: Ready, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}
{{- with .Values.bashible }}
---
apiVersion: v1
kind: Secret
metadata:
  name: registry-bashible-config
  labels: {{ toJson (merge (dict "name" "registry-bashible-config") $labels) }}
  annotations: {helm.sh/resource-policy: keep}
stringData: {config: {{ toJson . }}}
{{- end }}
{{- if .Values.managed }}
---
apiVersion: v1
kind: Secret
metadata: {name: registry-pki, labels: {{ toJson (merge (dict "type" "registry-pki") $labels) }}}
type: registry/pki
stringData: {{ toJson .Values.pki }}
{{- range $name, $user := .Values.users }}
---
apiVersion: v1
kind: Secret
metadata: {name: registry-user-{{ $name }}, labels: {{ toJson (merge (dict "type" "registry-user") $labels) }}}
type: registry/user
stringData: {{ toJson $user }}
{{- end }}
---
apiVersion: v1
kind: Service
metadata: {name: registry, labels: {{ toJson $labels }}}
spec:
  clusterIP: None
  selector: {component: registry-service, type: node-services}
  ports: [{name: registry, port: 5001, targetPort: distribution}]
{{- end }}
YAML
}

# present_keys makes authority, token pair and users, as the module does, and its values.
present_keys() {
    local folder=$CLUSTER/present user
    mkdir -p "$folder"
    openssl ecparam -name prime256v1 -genkey -noout -out "$folder/ca.key"
    openssl req -x509 -new -key "$folder/ca.key" -days 3650 -subj /CN=registry-ca -addext keyUsage=critical,keyCertSign,cRLSign -out "$folder/ca.crt"
    openssl req -new -newkey rsa:2048 -nodes -keyout "$folder/token.key" -subj /CN=registry-auth-token -out "$folder/token.csr" 2>/dev/null
    openssl x509 -req -in "$folder/token.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days 3649 -out "$folder/token.crt" 2>/dev/null
    : >"$folder/htpasswd"
    for user in ro rw mirror-puller mirror-pusher; do
        openssl rand -hex 16 | tr -d '\n' >"$folder/$user"
        htpasswd -Bbn "$user" "$(<"$folder/$user")" | sed '/^$/d; s|\$2y\$|$2a$|' >>"$folder/htpasswd"
    done
    jq -n --rawfile hashes "$folder/htpasswd" --rawfile ca "$folder/ca.crt" --rawfile key "$folder/ca.key" --rawfile token "$folder/token.crt" \
        --rawfile token_key "$folder/token.key" --rawfile ro "$folder/ro" --rawfile rw "$folder/rw" --rawfile puller "$folder/mirror-puller" \
        --rawfile pusher "$folder/mirror-pusher" '($hashes | split("\n") | map(select(. != "") | split(":") | {key: .[0], value: .[1]}) | from_entries) as $hash
        | {mode: "Local", managed: true, pki: {"ca.crt": $ca, "ca.key": $key, "token.crt": $token, "token.key": $token_key},
           users: ({"ro": $ro, "rw": $rw, "mirror-puller": $puller, "mirror-pusher": $pusher}
               | with_entries({key: .key, value: {name: .key, password: .value, passwordHash: $hash[.key]}}))}' >"$folder/values.json"
    cp "$folder/ca.crt" "$WORK/authority.crt"
}

# distribution_on MASTER starts the present registry there, as the static pod does.
distribution_on() {
    local name=$1 folder=$CLUSTER/present address=${ADDRESS_OF[$1]}
    on "$name" mkdir -p "$PRESENT/distribution" "$PRESENT_DATA"
    openssl req -new -newkey rsa:2048 -nodes -keyout "$folder/$name.key" -subj /CN=registry-distribution -out "$folder/$name.csr" 2>/dev/null
    openssl x509 -req -in "$folder/$name.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial -days 3649 -out "$folder/$name.crt" \
        -extfile <(echo "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.d8-system.svc,IP:$address") 2>/dev/null
    write_on "$name" "$PRESENT/distribution/config.yaml" <<YAML
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: $PRESENT_DATA}, delete: {enabled: true}, redirect: {disable: true}}
http: {addr: "$address:5001", tls: {certificate: $folder/$name.crt, key: $folder/$name.key}, debug: {addr: "127.0.0.1:5002"}}
auth: {htpasswd: {realm: Registry server, path: $folder/htpasswd}}
YAML
    part "$name-distribution" on "$name" docker-registry serve "$PRESENT/distribution/config.yaml"
    DISTRIBUTION_OF[$name]=$PART
    await serves_present "$name"
}
serves_present() {
    [[ $(curl -s --max-time 5 --cacert "$CLUSTER/present/ca.crt" -o /dev/null -w '%{http_code}' "https://${ADDRESS_OF[$1]}:5001/v2/") == 401 ]]
}

# balancer_on NODE leads 127.0.0.1:5001 there to all masters.
balancer_on() {
    local master to=()
    for master in "${!DISTRIBUTION_OF[@]}"; do to+=("${ADDRESS_OF[$master]}:5001"); done
    part "$1-balancer" on "$1" python3 "$INTEROP_SCRIPTS/../tools/real/balancer.py" 127.0.0.1:5001 "${to[@]}"
    BALANCER_OF[$1]=$PART
    await on "$1" bash -c 'exec 3<>/dev/tcp/127.0.0.1/5001'
}

# gone PROCESS... ends them and waits for their end.
gone() {
    kill "$@"
    wait "$@" 2>/dev/null || true
}

# bashible_is MODE present|upstream|both [VALUE...] has the module render registry-bashible-config.
bashible_is() {
    local text base=$SERVED endpoints=() master
    for master in "${!DISTRIBUTION_OF[@]}"; do endpoints+=("\"${ADDRESS_OF[$master]}:5001\""); done
    if [[ $1 == Unmanaged ]]; then base=$UPSTREAM/$EDITION endpoints=(); fi
    text="mode: $1
imagesBase: $base
proxyEndpoints: [$(IFS=,; echo "${endpoints[*]-}")]
hosts:"
    [[ $2 == upstream ]] || text+="
  ${SERVED%%/*}:
    mirrors: [{host: 127.0.0.1:5001, scheme: https, ca: $(jq -Rs . <"$CLUSTER/present/ca.crt"), auth: {username: ro, password: $(<"$CLUSTER/present/ro"), auth: ''}}]"
    [[ $2 == present ]] || text+="
  $UPSTREAM:
    mirrors: [{host: '$UPSTREAM', scheme: http, auth: {username: license-token, password: $LICENCE, auth: ''}}]"
    BASHIBLE_VERSION=$(sha256sum <<<"$text" | cut -d' ' -f1)
    printf 'version: %s\n%s\n' "$BASHIBLE_VERSION" "$text" >"$CLUSTER/bashible.yaml"
    module_release "${@:3}"
}
nodes_have_it() { k get nodes -o json | jq -e --arg version "$BASHIBLE_VERSION" 'all(.items[]; .metadata.annotations["registry.deckhouse.io/version"] == $version)'; }

# deckhouse_registry_is present|upstream: the registry of Deckhouse and of all that it renders.
deckhouse_registry_is() {
    local address=$UPSTREAM path=/$EDITION scheme=http ca='' login=license-token:$LICENCE
    [[ $1 != present ]] || address=${SERVED%%/*} path=/${SERVED#*/} scheme=https ca=$(<"$CLUSTER/present/ca.crt") login=ro:$(<"$CLUSTER/present/ro")
    jq -n --arg address "$address" --arg path "$path" --arg scheme "$scheme" --arg ca "$ca" --arg login "$login" '{metadata: {labels: {heritage: "deckhouse"}},
        data: {address: ($address | @base64), path: ($path | @base64), scheme: ($scheme | @base64), ca: ($ca | @base64),
        ".dockerconfigjson": ({auths: {($address): ({username: ($login | split(":")[0]), password: ($login | split(":")[1]), auth: ($login | @base64)})}}
            | tojson | @base64)}}' >"$WORK/patch"
    k -n d8-system --as "$DECKHOUSE" patch secret deckhouse-registry --type merge --patch-file "$WORK/patch" >/dev/null
}
# renders_with BASE: Deckhouse runs with it, and users' pods have it.
renders_with() {
    [[ $(k -n d8-system get deployment deckhouse -o 'jsonpath={.spec.template.spec.containers[0].image}') == "$1:"* ]] &&
        k -n d8-system rollout status deployment deckhouse --watch=false | grep -q 'successfully rolled out' &&
        k -n apps get pods -l app=app -o json | jq -e --arg base "$1/" 'all(.items[]; .spec.containers[0].image | startswith($base))'
}

# module_release SETTINGS... has Deckhouse render the module's chart.
module_release() {
    HELM_KUBEASUSER=$DECKHOUSE helm upgrade --install --server-side=false registry "$CLUSTER/module" -n d8-system -f "$CLUSTER/present/values.json" \
        --set-file "bashible=$CLUSTER/bashible.yaml" "$@" >"$WORK/helm.out" 2>&1 || fail "the module's release: $(<"$WORK/helm.out")"
}

# module_reaches_unmanaged: what Deckhouse does when mc deckhouse asks for Unmanaged with the upstream.
module_reaches_unmanaged() {
    bashible_is Unmanaged both
    await_for 60 nodes_have_it
    deckhouse_registry_is upstream
    await_for 120 renders_with "$UPSTREAM/$EDITION"
    bashible_is Unmanaged upstream
    await_for 60 nodes_have_it
    gone "${BALANCER_OF[@]}" "${DISTRIBUTION_OF[@]}"
    module_release --set mode=Unmanaged,managed=false
    registry_config_is Unmanaged
}
# module_off: the module's release is removed.
module_off() {
    HELM_KUBEASUSER=$DECKHOUSE helm uninstall registry -n d8-system >/dev/null
    module off
    frozen
}
nothing_listens() { ! on "$1" bash -c 'exec 3<>/dev/tcp/127.0.0.1/5001' 2>/dev/null; }
