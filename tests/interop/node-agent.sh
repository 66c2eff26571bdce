#!/usr/bin/env bash
# Agents of two nodes before a real API server, with the rights and the policy that the chart gives them and with tokens of pods
# that are bound to these nodes; and a real registry that they ask for an image.
#
# No kubelet runs there: the test brings the Secret to each node's mount as one does, by a link that is swapped.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"

need helm jq openssl ip skopeo containerd
# A network of its own: the ports of agents are free there.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up
cd "$INTEROP_SCRIPTS/../.."
readonly CHART=deploy/helm/d8-registry ANNOTATION=registry.deckhouse.io/version LABEL=node.deckhouse.io/containerd-config-registry
readonly HOST=registry.d8-system.svc:5001
start_kubernetes
SERVER_URL="https://127.0.0.1:$(cat "$KUBE_DIR/port")"
readonly SERVER_URL OWN=api/v1/namespaces/d8-system

# ask TOKEN METHOD PATH [BODY [TYPE]] prints the answer; its status is in $WORK/status.
ask() {
    curl -sS --cacert "$KUBE_DIR/pki/ca.crt" -H "Authorization: Bearer $1" -X "$2" "$SERVER_URL/$3" -o "$WORK/answer" \
        -w '%{http_code}' -H "Content-Type: ${5:-application/json}" ${4:+--data-binary "$4"} >"$WORK/status"
    cat "$WORK/answer"
}
admin() {
    ask admin-token "$@" >"$WORK/taken"
    [[ $(cat "$WORK/status") == 2?? ]] || fail "$1 $2: $(cat "$WORK/status") $(cat "$WORK/taken")"
    cat "$WORK/taken"
}
readonly PATCH=application/merge-patch+json
may() {
    ask "$@" >"$WORK/taken"
    [[ $(cat "$WORK/status") == 2?? ]] || fail "refused: ${*:2}: $(cat "$WORK/taken")"
}
# may_not SENTENCE TOKEN METHOD PATH [BODY [TYPE]]
may_not() {
    ask "${@:2}" >"$WORK/taken"
    [[ $(cat "$WORK/status") == 4?? ]] || fail "was let through: ${*:3}"
    grep -q "$1" "$WORK/taken" || fail "refused for another reason than '$1': ${*:3}: $(cat "$WORK/taken")"
}
annotation() { admin GET "api/v1/nodes/$1" | jq -r --arg key "$ANNOTATION" '.metadata.annotations[$key] // ""'; }
label() { admin GET "api/v1/nodes/$1" | jq -r --arg key "$LABEL" '.metadata.labels[$key] // ""'; }
says() { [[ $(annotation "$1") == "$2" && $(label "$1") == "$3" ]]; }
# event NODE REASON PATTERN: there is an Event of this Node.
event() {
    admin GET api/v1/namespaces/default/events | jq -r --arg node "$1" --arg reason "$2" \
        '.items[] | select(.involvedObject.kind == "Node" and .involvedObject.name == $node and .reason == $reason) | .message' | grep -q "$3"
}

say "the chart's rights and policy"
admin POST api/v1/namespaces '{"metadata": {"name": "d8-system"}}' >/dev/null
helm install d8-registry "$CHART" --namespace d8-system --set "image.reference=example.com/d8-registry:1,mode=Local,nodeAgent.enabled=true" \
    --set "controller.enabled=false,nodeProxy.backends={127.0.0.1:5001},metrics.podMonitor.create=false" >"$WORK/helm.out" 2>&1 ||
    fail "helm install: $(cat "$WORK/helm.out")"
for node in one two; do
    admin POST api/v1/nodes "{\"metadata\": {\"name\": \"$node\", \"labels\": {\"kept\": \"yes\"}, \"annotations\": {\"kept\": \"yes\"}}}" >/dev/null
    admin POST "$OWN/pods" "$(jq -n --arg node "$node" '{metadata: {name: ("agent-" + $node)}, spec: {nodeName: $node,
        serviceAccountName: "d8-registry-node-agent", containers: [{name: "node-agent", image: "example.com/d8-registry:1"}]}}')" >/dev/null
done
# token_of NODE, or of no pod.
token_of() {
    local bound='{}'
    [[ -z ${1:-} ]] || bound=$(admin GET "$OWN/pods/agent-$1" |
        jq -c '{boundObjectRef: {kind: "Pod", apiVersion: "v1", name: .metadata.name, uid: .metadata.uid}}')
    admin POST "$OWN/serviceaccounts/d8-registry-node-agent/token" \
        "{\"apiVersion\": \"authentication.k8s.io/v1\", \"kind\": \"TokenRequest\", \"spec\": $bound}" | jq -r .status.token
}
ONE=$(token_of one) TWO=$(token_of two) LOOSE=$(token_of)

meta() { jq -nc --arg kind "$1" --arg key "$2" --arg value "$3" '{metadata: {($kind): {($key): (if $value == "null" then null else $value end)}}}'; }
others() { may_not 'writes of the Node alone' "$@"; }
# The policy is in force a moment after it was made.
in_force() { ask "$TWO" PATCH "api/v1/nodes/one?dryRun=All" "$(meta annotations $ANNOTATION x)" $PATCH >/dev/null && [[ $(cat "$WORK/status") == 4?? ]]; }
await in_force
may "$ONE" GET api/v1/nodes/one
may "$ONE" PATCH "api/v1/nodes/one?dryRun=All" "$(meta annotations $ANNOTATION abc)" $PATCH
may "$ONE" PATCH "api/v1/nodes/one?dryRun=All" "$(meta labels $LABEL custom)" $PATCH
others "$ONE" PATCH api/v1/nodes/two "$(meta annotations $ANNOTATION abc)" $PATCH
others "$TWO" PATCH api/v1/nodes/one "$(meta labels $LABEL default)" $PATCH
others "$LOOSE" PATCH api/v1/nodes/one "$(meta annotations $ANNOTATION abc)" $PATCH
may_not 'no label but' "$ONE" PATCH api/v1/nodes/one "$(meta labels node-role.kubernetes.io/control-plane '')" $PATCH
may_not 'no label but' "$ONE" PATCH api/v1/nodes/one "$(meta labels kept other)" $PATCH
may_not 'no label but' "$ONE" PATCH api/v1/nodes/one "$(meta labels kept null)" $PATCH
may_not 'no annotation but' "$ONE" PATCH api/v1/nodes/one "$(meta annotations other yes)" $PATCH
may_not 'no annotation but' "$ONE" PATCH api/v1/nodes/one "$(meta annotations kept null)" $PATCH
may_not 'no value that' "$ONE" PATCH api/v1/nodes/one "$(meta labels $LABEL other)" $PATCH
may_not 'no value that' "$ONE" PATCH api/v1/nodes/one "$(meta annotations $ANNOTATION "$(printf 'x%.0s' {1..129})")" $PATCH
may_not 'nothing of a Node but' "$ONE" PATCH api/v1/nodes/one '{"spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]}}' $PATCH
may_not 'nothing of a Node but' "$ONE" PATCH api/v1/nodes/one '{"spec": {"unschedulable": true}}' $PATCH
may_not 'nothing of a Node but' "$ONE" PATCH api/v1/nodes/one '{"metadata": {"finalizers": ["mine.example/x"]}}' $PATCH
may_not forbidden "$ONE" PATCH api/v1/nodes/one/status '{"status": {"addresses": []}}' $PATCH
may_not forbidden "$ONE" DELETE api/v1/nodes/one
may_not forbidden "$ONE" POST api/v1/nodes '{"metadata": {"name": "three"}}'
may_not forbidden "$ONE" GET api/v1/nodes
for what in secrets secrets/registry-user-ro secrets/registry-bashible-config configmaps pods; do may_not forbidden "$ONE" GET "$OWN/$what"; done
may_not forbidden "$ONE" POST "$OWN/serviceaccounts/d8-registry-node-agent/token" '{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}'
about() { jq -nc --arg kind "$1" --arg name "$2" '{metadata: {generateName: "x."}, involvedObject: {kind: $kind, name: $name}, reason: "Test", type: "Warning"}'; }
may "$ONE" POST "api/v1/namespaces/default/events?dryRun=All" "$(about Node one)"
others "$ONE" POST "api/v1/namespaces/default/events" "$(about Node two)"
others "$ONE" POST "api/v1/namespaces/default/events" "$(about Pod one)"
may_not forbidden "$ONE" POST "$OWN/events" "$(about Node one)"
# Whatever somebody adds to its rights: the policy holds.
admin POST apis/rbac.authorization.k8s.io/v1/clusterrolebindings '{"metadata": {"name": "too-much"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
    "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [{"kind": "ServiceAccount", "name": "d8-registry-node-agent", "namespace": "d8-system"}]}' >/dev/null
may_not 'changes its Node and creates Events alone' "$ONE" PATCH api/v1/nodes/one/status '{"status": {"phase": "Running"}}' $PATCH
may_not 'changes its Node and creates Events alone' "$ONE" DELETE api/v1/nodes/one
others "$ONE" PATCH api/v1/nodes/two "$(meta annotations $ANNOTATION abc)" $PATCH
admin DELETE apis/rbac.authorization.k8s.io/v1/clusterrolebindings/too-much >/dev/null
same "$(admin GET api/v1/nodes | jq -c '[.items[].metadata | {labels, annotations}] | unique')" '[{"labels":{"kept":"yes"},"annotations":{"kept":"yes"}}]' "both Nodes after it"
# Everybody else does as before.
may admin-token PATCH "api/v1/nodes/one?dryRun=All" '{"spec": {"unschedulable": true}}' $PATCH

say "a registry with the image that is asked for"
start_server
trap - EXIT
trap stop_kubernetes EXIT
skopeo copy -q --dest-creds "$RW" --dest-cert-dir "$(certs_dir)" --preserve-digests "oci:$INTEROP_IMAGES/image:$TAG" "docker://$REGISTRY/system/deckhouse:$TAG"
DIGEST=$(digest_of image)

# given MODE VERSION MIRROR-HOST prints a configuration.
given() {
    local host=$HOST base=$HOST/system/deckhouse
    [[ $1 != Unmanaged ]] || host=$3 base=$3/system/deckhouse
    printf 'mode: %s\nversion: "%s"\nimagesBase: %s\nhosts:\n  "%s":\n    mirrors:\n' "$1" "$2" "$base" "$host"
    echo "      - {host: '$3', scheme: https, ca: $(jq -Rs . <"$CA"), auth: {username: ro, password: ${RO#*:}, auth: ''}}"
}
# mount_secret NODE SETTLED <CONFIG brings a Secret and the word beside it to the node, as the kubelet does; `unmount NODE [SETTLED]` says that
# the Secret is gone.
new_data() { basename "$(mktemp -d "$WORK/$1/mount/..data-XXXXXX")"; }
mount_secret() {
    local mount=$WORK/$1/mount data
    data=$(new_data "$1")
    cat >"$mount/$data/config"
    [[ -z $2 ]] || printf %s "$2" >"$mount/$data/settled"
    swap "$1" "$data"
}
unmount() {
    local data
    data=$(new_data "$1")
    [[ -z ${2-} ]] || printf %s "$2" >"$WORK/$1/mount/$data/settled"
    swap "$1" "$data"
}
swap() {
    local mount=$WORK/$1/mount key
    ln -sfn "$2" "$mount/..new" && mv -T "$mount/..new" "$mount/..data"
    for key in config settled; do
        rm -f "$mount/$key"
        [[ ! -e $mount/$2/$key ]] || ln -s "..data/$key" "$mount/$key"
    done
}
# agent NODE PORT [FLAG...]: its process is AGENTS[NODE].
declare -A AGENTS PORTS=([one]=7001 [two]=7002)
agent() {
    local token=${1^^}
    sed "s/admin-token/${!token}/" "$KUBE_DIR/admin.kubeconfig" >"$WORK/$1/kubeconfig"
    KUBECONFIG=$WORK/$1/kubeconfig NODE_NAME=$1 "$INTEROP_SERVER" node-agent --root "$WORK/$1/root" --mount "$WORK/$1/mount" \
        --files "$WORK/$1/files" --proc "${PROC:-$WORK/$1/proc}" --image "@$DIGEST" --interval 1s \
        --metrics-listen "127.0.0.1:${PORTS[$1]}" "${@:2}" >>"$INTEROP_LOGS/$INTEROP_NAME.$1.log" 2>&1 &
    AGENTS[$1]=$!
    DAEMONS+=("$!")
}
end_agent() { # NODE SIGNAL STATUS
    local status=0
    kill "-$2" "${AGENTS[$1]}"
    wait "${AGENTS[$1]}" || status=$?
    same "$status" "$3" "the status of the agent of $1"
}
figure() { curl -sS "http://127.0.0.1:${PORTS[$1]}/metrics" | awk -v name="d8_registry_node_agent_$2" '$1 == name { print $2 }'; }
shows() { [[ $(figure "$1" "$2") == "$3" ]]; }
hosts_toml() { cat "$WORK/$1/root/etc/containerd/registry.d"/*/hosts.toml 2>/dev/null; }
names_mirror() { hosts_toml "$1" | grep -q "https://$2\""; }

for node in one two; do
    rm -f "$INTEROP_LOGS/$INTEROP_NAME.$node.log"
    mkdir -p "$WORK/$node"/{root/etc/containerd,mount,proc}
done
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/registry.d"\n' >"$WORK/one/root/etc/containerd/config.toml"
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["https://mine.example"]\n' >"$WORK/two/root/etc/containerd/config.toml"

say "before a switch: the preflight label, and an Event for what stands in the way"
agent one
agent two
await says one unknown default
await says two unknown custom
await event two ContainerdConfigInTheWay 'etc/containerd/config.toml:2: .*mirrors."docker.io"'
same "$(figure one 'pull_ok{check="manifest"}')" "" "what is asked for before there is a configuration"
say "a configuration is applied and answered, where containerd pulls by it"
for node in one two; do given Proxy v1 "$REGISTRY" | mount_secret "$node" ''; done
await says one v1 default
await names_mirror two "$REGISTRY"
await shows one 'pull_ok{check="manifest"}' 1
await shows one 'pull_ok{check="blob"}' 1
await shows two 'problem{kind="containerd"}' 1
says two unknown custom || fail "a node that does not pull by it has answered: $(annotation two)"
cp "$WORK/one/root/etc/containerd/config.toml" "$WORK/two/root/etc/containerd/config.toml"
await says two v1 default
same "$(admin GET api/v1/nodes/one | jq -c '[.metadata.labels.kept, .metadata.annotations.kept]')" '["yes","yes"]' "what is others'"

say "what the kubelet would see: the registry ends, and comes back"
kill -STOP "$SERVER"
await shows one 'pull_ok{check="manifest"}' 0
kill -CONT "$SERVER"
await shows one 'pull_ok{check="manifest"}' 1
given Proxy v2 "$REGISTRY" | sed 's/password: [^,]*,/password: wrong,/' | mount_secret one ''
await says one v2 default
await shows one 'pull_ok{check="manifest"}' 0
given Proxy v3 "$REGISTRY" | mount_secret one ''
await says one v3 default
await shows one 'pull_ok{check="manifest"}' 1

say "the API server is away: the mount is followed, and without a mount the copy"
tests/interop/kube-cluster.sh pause "$KUBE_DIR"
given Proxy v4 "127.0.0.2:$PORT" | mount_secret one ''
await names_mirror one "127.0.0.2:$PORT"
await shows one api_up 0
end_agent one KILL 137
unmount one
rm -rf "$WORK/one/root/etc/containerd/registry.d"
agent one
await names_mirror one "127.0.0.2:$PORT"
await shows one 'problem{kind="source"}' 1
curl -fsS "http://127.0.0.1:${PORTS[one]}/readyz" | grep -q 'the node keeps it' || fail "it is not ready, or does not say what it keeps"
tests/interop/kube-cluster.sh resume "$KUBE_DIR"
await says one v4 default
await event one RegistryConfigNotFollowed 'is gone, and the last one was not that of a settled bare Unmanaged'

say "the way back is that of a settled bare Unmanaged alone"
given Unmanaged v5 "$REGISTRY" | mount_secret one ''
await says one v5 default
unmount one
await shows one 'problem{kind="source"}' 1
names_mirror one "$REGISTRY" || fail "an administrator's Unmanaged was taken away"
given Unmanaged v6 "$REGISTRY" | mount_secret one v5
await says one v6 default
unmount one
await shows one 'problem{kind="source"}' 1
names_mirror one "$REGISTRY" || fail "a version that is not settled was taken away"
given Unmanaged v7 "$REGISTRY" | mount_secret one v7
await says one v7 default
await shows one 'problem{kind="source"}' 0
unmount one
await says one unknown default
same "$(hosts_toml one)" "" "files after the way back"
same "$(find "$WORK/one/files" -type f)" "" "the copy after the way back"
given Unmanaged v7 "$REGISTRY" | mount_secret one ''
await says one v7 default
unmount one v6
await shows one 'problem{kind="source"}' 1
names_mirror one "$REGISTRY" || fail "another version than the settled one was taken away"
unmount one v7
await says one unknown default
same "$(hosts_toml one)" "" "files after a word that came once the Secret was gone"
await shows one 'problem{kind="source"}' 0
says two v1 default || fail "the other node went with it: $(annotation two)"

say "a node that becomes bashible's is let be"
admin PATCH api/v1/nodes/two "$(meta labels node.deckhouse.io/group worker)" $PATCH >/dev/null
# Another word of ours is what makes it look.
given Proxy v8 "$REGISTRY" | mount_secret two ''
stands_by() { shows two follows 0; }
await stands_by
given Proxy v9 "127.0.0.3:$PORT" | mount_secret two ''
admin PATCH api/v1/nodes/two "$(meta annotations $ANNOTATION theirs)" $PATCH >/dev/null
end_agent two TERM 0
! names_mirror two "127.0.0.3:$PORT" || fail "it wrote where bashible does"
same "$(annotation two)" theirs "bashible's word"
admin PATCH api/v1/nodes/two "$(meta labels node.deckhouse.io/group null)" $PATCH >/dev/null

say "containerd is restarted by order alone"
containerd_of() {
    printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n[ttrpc]\naddress = "%s"\n' \
        "$WORK/c.root" "$WORK/c.state" "$WORK/c.sock" "$WORK/c.ttrpc" >"$WORK/c.toml"
    # A service: its parent is the first process.
    (setsid containerd --config "$WORK/c.toml" >"$INTEROP_LOGS/$INTEROP_NAME.containerd.log" 2>&1 </dev/null & echo $! >"$WORK/c.pid")
    CONTAINERD_PID=$(cat "$WORK/c.pid")
}
runs() { kill -0 "$CONTAINERD_PID" 2>/dev/null && [[ $(cut -d' ' -f3 "/proc/$CONTAINERD_PID/stat") != Z ]]; }
ended() { ! runs; }
containerd_of
await test -S "$WORK/c.sock"
same "$(awk '{ print $4 }' "/proc/$CONTAINERD_PID/stat")" 1 "containerd's parent"
# Newer than any process.
touch -d '+1 day' "$WORK/two/root/etc/containerd/config.toml"
PROC=/proc agent two
await event two ContainerdRestartNeeded 'etc/containerd/config.toml was changed after containerd was started: restart containerd'
await says two theirs custom
runs || fail "containerd was ended without an order"
end_agent two TERM 0
PROC=/proc agent two --restart-containerd
await ended
containerd_of
await event two ContainerdRestartNeeded 'a restart has not mended it'
runs || fail "containerd was ended again and again"
touch -d '-1 day' "$WORK/two/root/etc/containerd/config.toml"
await says two v9 default
end_agent two TERM 0
end_agent one TERM 0
kill -TERM "$CONTAINERD_PID"
await ended

say "no password, and no token, in a log or an Event"
admin GET api/v1/namespaces/default/events >"$WORK/events"
for secret in "${RO#*:}" "$(printf %s "$RO" | base64)" "$ONE" "$TWO"; do
    ! grep -lF "$secret" "$WORK/events" "$INTEROP_LOGS/$INTEROP_NAME".{one,two}.log || fail "a secret is shown"
done
trap - EXIT
stop_kubernetes
stop_server
