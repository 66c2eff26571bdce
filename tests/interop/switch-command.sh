#!/usr/bin/env bash
# d8-registry switch before a real API server, as an administrator: what it writes, what it refuses, what it shows. No controller runs.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"

need jq yq kubectl
cd "$INTEROP_SCRIPTS/../.."
start_kubernetes
API="https://127.0.0.1:$(cat "$KUBE_DIR/port")"
readonly API OWN=api/v1/namespaces/d8-system

# admin METHOD PATH [BODY [TYPE]] has to be taken.
admin() {
    curl -sS --fail-with-body --cacert "$KUBE_DIR/pki/ca.crt" -H 'Authorization: Bearer admin-token' -X "$1" "$API/$2" \
        -H "Content-Type: ${4:-application/json}" ${3:+--data-binary "$3"}
}
d8() { "$INTEROP_SERVER" switch "$@" 2>&1; }
# said STATUS SENTENCE ARGUMENTS... of d8-registry switch.
said() {
    local output status=0
    output=$(d8 "${@:3}") || status=$?
    same "$status" "$1" "status of switch ${*:3}: $output"
    [[ $output == *"$2"* ]] || fail "switch ${*:3} does not say '$2': $output"
    [[ $output != *hunter2* ]] || fail "switch ${*:3} shows a secret: $output"
}
config() { admin GET "$OWN/secrets/d8-registry-settings" | jq -c '.data | map_values(@base64d)'; }
secret() { # NAME JSON-OF-STRING-DATA
    admin POST "$OWN/secrets" "{\"metadata\": {\"name\": \"$1\"}, \"stringData\": $2}" >/dev/null
}

there() { admin GET "$OWN/secrets/$1" >/dev/null 2>&1; }

admin POST api/v1/namespaces '{"metadata": {"name": "d8-system"}}' >/dev/null 2>&1 || true
printf 'hunter2\n' >"$WORK/license"
cat >"$WORK/mc.yaml" <<'EOF'
apiVersion: deckhouse.io/v1alpha1
kind: ModuleConfig
metadata:
  name: deckhouse
spec:
  version: 1
  enabled: true
  settings:
    registry:
      mode: Proxy
      proxy:
        imagesRepo: registry.example.org/deckhouse/se
        scheme: HTTPS
        license: hunter2
EOF

say "settings that are not valid are not written"
said 2 "registry.direct: 'imagesRepo' is required." mode Direct
said 2 "registry.direct: CA is not allowed when scheme is 'HTTP'" mode Direct --images-repo a/b --scheme http --ca-file "$CA"
said 2 "the mode there is Proxy, and Local is asked for" mode Local --settings "$WORK/mc.yaml"
said 2 "'switch.unreadyNodes' is wait or skip." mode Local --unready-nodes never
said 0 "Nothing was written" mode Direct --images-repo a/b --dry-run
! config 2>/dev/null || fail "something was written"

say "settings are written, changed and left out"
said 0 "password: ***" mode direct --images-repo registry.example.com/deckhouse/ee/ --license-file "$WORK/license" --settle 20s
same "$(config)" '{"checkMode":"Default","imagesRepo":"registry.example.com/deckhouse/ee","mode":"Direct","password":"hunter2","scheme":"HTTPS","switch.settle":"20s","username":"license-token"}' "the Secret"
same "$(admin GET "$OWN/secrets/d8-registry-settings" | jq -r '.metadata.annotations["d8-registry/source"]')" manual "whose it is"
said 0 "Nothing changes." mode Direct --images-repo registry.example.com/deckhouse/ee --license-file "$WORK/license"
said 0 "mode: Direct -> Proxy" mode Proxy --settings "$WORK/mc.yaml"
same "$(config | jq -r '"\(.imagesRepo) \(.ttl) \(."switch.settle")"')" "registry.example.org/deckhouse/se 0s 20s" "a file of ours"
said 0 "imagesRepo: registry.example.org/deckhouse/se -> (left out)" mode Local
same "$(config)" '{"mode":"Local","switch.settle":"20s"}' "the Secret in Local"

say "the controller gets a word"
said 1 "no controller has run there yet" finish --accept-missing
said 2 "--accept-missing" finish
said 1 "no controller has run there yet" upstream --license-file "$WORK/license"
said 2 "say which upstream" upstream
said 2 "cannot be used with" upstream --undo --license-file "$WORK/license"
said 0 "Secret registry-previous is not there." upstream --commit
secret d8-registry-switch '{"record": "a"}'
word() { admin GET "$OWN/secrets/d8-registry-switch" | jq -r '.metadata.annotations["d8-registry/word"]'; }
said 0 "The controller is told." finish --accept-missing
same "$(word)" finish-accept-missing "the word"
said 0 "The controller is told." source moduleconfig
same "$(word)" source-moduleconfig "the word"

say "the status is shown"
said 1 "no controller has run there yet" status
secret registry-state '{"state": "mode: Unmanaged\ntarget_mode: Local\nsource: manual\n", "mode": "Unmanaged", "target_mode": "Local",
    "conditions": "- {type: NodeServicesReady, status: \"False\", reason: Processing, message: \"0/1 node(s) ready. Waiting:\\n- m: node is not Ready\\n\", lastTransitionTime: \"2025-07-15T12:52:46Z\"}\n"}'
said 0 "Mode: Unmanaged, on the way to Local" status
said 0 "        - m: node is not Ready" status
said 0 "all components of Deckhouse restart" mode Local
secret registry-bashible-config '{"config": "mode: Local\nversion: abc\nimagesBase: a\nhosts: {}\n"}'
admin POST api/v1/nodes '{"metadata": {"name": "m", "annotations": {"registry.deckhouse.io/version": "abc"}}}' >/dev/null
admin POST api/v1/nodes '{"metadata": {"name": "w"}}' >/dev/null
same "$(d8 status --json | jq -c '[.mode, .targetMode, .ready, .nodes.converged, .nodes.waiting[].name]')" \
    '["Unmanaged","Local",false,1,"w"]' "the status as JSON"

say "a watch ends when the mode is reached"
d8 status --watch >"$WORK/watched" &
watch=$!
admin PATCH "$OWN/secrets/registry-state" '{"stringData": {"state": "mode: Local\ntarget_mode: Local\n", "mode": "Local", "conditions":
    "- {type: Ready, status: \"True\", lastTransitionTime: \"2025-07-15T12:52:46Z\"}\n"}}' application/merge-patch+json >/dev/null
wait "$watch" || fail "the watch failed: $(cat "$WORK/watched")"
grep -q "Mode: Local, reached" "$WORK/watched" || fail "the watch does not say so: $(cat "$WORK/watched")"

say "what SWITCHING prints works word for word"
# Deckhouse's account may do all.
admin POST apis/rbac.authorization.k8s.io/v1/clusterrolebindings '{"metadata": {"name": "d8:deckhouse"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"kind": "ServiceAccount", "name": "deckhouse", "namespace": "d8-system"}]}' >/dev/null
# The commands of its blocks and the manifests beside them, in their order. The controller is played.
mkdir "$WORK/as-printed"
awk -v out="$WORK/as-printed" '
    /^ *```bash/ { on = 1; script = sprintf("%s/%02d.bash", out, ++scripts); next }
    /^ *```yaml/ { match($0, /^ */); indent = RLENGTH; file = sprintf("%s/%d.yaml", out, ++count); yaml = 1; next }
    /^ *```/ { on = yaml = 0; next }
    yaml { print substr($0, indent + 1) > file }
    on { line = $0; sub(/^ */, "", line); print line > script }
    on && /^ *d8-registry / { sub(/^ */, ""); print > (out "/commands") }' docs/SWITCHING.md
sed -i 's/<LICENSE_KEY>/hunter2/' "$WORK"/as-printed/*.yaml
admin DELETE "$OWN/secrets/d8-registry-settings" >/dev/null
cp "$WORK/license" "$WORK/as-printed/license.txt"
# The programs as they are called there. d8 is played: `k` is kubectl, and what it would run in a pod runs in namespaces of its own with
# what the pod has: the data folder at /data, the program in PATH, and Deckhouse's program, of which one answer is known.
mkdir "$WORK/path" "$WORK/pod-path"
ln -s "$INTEROP_SERVER" "$WORK/path/d8-registry"
ln -s "$INTEROP_SERVER" "$WORK/pod-path/d8-registry"
cat >"$WORK/path/d8" <<'EOF'
#!/usr/bin/env bash
[[ $1 == k ]] || exit 2
shift
[[ " $* " == *" exec "* ]] || exec kubectl "$@"
while [[ $1 != -- ]]; do shift; done
shift
PATH=$POD_PATH:$PATH exec unshare --mount bash -euo pipefail -c 'mkdir -p /data && mount --bind "$POD_DATA" /data && exec "$@"' pod "$@"
EOF
cat >"$WORK/pod-path/deckhouse-controller" <<'EOF'
#!/usr/bin/env bash
[[ $* == 'global values -o yaml' ]] || exit 2
printf 'deckhouseEdition: EE\ndeckhouseVersion: v1.70.1\n'
EOF
chmod +x "$WORK/path/d8" "$WORK/pod-path/deckhouse-controller"
export POD_PATH=$WORK/pod-path POD_DATA=$WORK/store
as_printed() { (cd "$WORK/as-printed" && PATH="$WORK/path:$PATH" bash -euo pipefail -c "$1") >"$WORK/printed" 2>&1 || fail "$1: $(cat "$WORK/printed")"; }
reached() { # MODE
    admin PATCH "$OWN/secrets/registry-state" "{\"stringData\": {\"state\": \"mode: $1\\ntarget_mode: $1\\n\", \"mode\": \"$1\", \"target_mode\": \"$1\",
        \"conditions\": \"- {type: Ready, status: \\\"True\\\", lastTransitionTime: \\\"2025-07-15T12:52:46Z\\\"}\\n\"}}" \
        application/merge-patch+json >/dev/null
}
run=0 modes=()
while IFS= read -r command; do
    as_printed "$command"
    run=$((run + 1))
    case $command in
        *--dry-run*) grep -q 'Nothing was written' "$WORK/printed" || fail "$command: $(cat "$WORK/printed")" ;;
        *' mode '*)
            mode=$(awk '{print $4}' <<<"$command")
            same "$(config | jq -r .mode)" "$mode" "the mode after $command"
            if [[ $command == *--license-file* ]]; then
                same "$(config | jq -r '"\(.imagesRepo) \(.password)"')" "registry.deckhouse.io/deckhouse/ee hunter2" "settings after $command"
            fi
            modes+=("$mode")
            reached "$mode"
            ;;
        *'status --json'*) jq -e .mode "$WORK/printed" >/dev/null || fail "$command: $(cat "$WORK/printed")" ;;
        *' status'*) grep -q '^Mode: ' "$WORK/printed" || fail "$command: $(cat "$WORK/printed")" ;;
        *' finish '* | *' source '*)
            word=$(sed -E 's/^d8-registry switch //; s/ (--)?/-/g' <<<"$command")
            same "$(word)" "$word" "the word after $command"
            ;;
        *) fail "a command of another kind is printed: $command" ;;
    esac
done <"$WORK/as-printed/commands"
same "${modes[*]}" "Direct Proxy Local Unmanaged Unmanaged" "modes that are switched to"
((run > 14)) || fail "only $run commands are printed"
# Each manifest of ModuleConfig that is printed is one for --settings, as it is said beside the first of them.
# shellcheck disable=SC2016 # the text has backticks
grep -qF '`d8-registry switch mode Direct --settings mc-deckhouse.yaml`' docs/SWITCHING.md || fail "the command with a manifest is another one"
manifests=0
for manifest in "$WORK"/as-printed/*.yaml; do
    grep -qx 'kind: ModuleConfig' "$manifest" || continue
    mode=$(sed -n 's/^ *mode: //p' "$manifest")
    cp "$manifest" "$WORK/as-printed/mc-deckhouse"
    as_printed "d8-registry switch mode $mode --settings mc-deckhouse"
    same "$(config | jq -r .mode)" "$mode" "the mode after the manifest of $mode"
    manifests=$((manifests + 1))
done
same "$manifests" 4 "manifests that are printed"
# All others, block by block. `d8 mirror` is Deckhouse's program, whose module no proxy gives: it is what is left out.
secret registry-user-rw '{"name": "rw", "password": "secret"}'
admin POST apis/apps/v1/namespaces/d8-system/deployments '{"metadata": {"name": "deckhouse"}, "spec": {
    "selector": {"matchLabels": {"app": "deckhouse"}}, "template": {"metadata": {"labels": {"app": "deckhouse"}}, "spec": {"containers": [
        {"name": "other", "image": "registry.d8-system.svc:5001/system/deckhouse/other:v1"},
        {"name": "deckhouse", "image": "registry.d8-system.svc:5001/system/deckhouse:v1.70.1"}]}}}}' >/dev/null
start_server
left_out=0 blocks=0
for block in "$WORK"/as-printed/*.bash; do
    grep -q '^d8-registry ' "$block" && continue
    if grep -q '^d8 mirror ' "$block"; then
        left_out=$((left_out + 1))
        continue
    fi
    sed -i 's/ exec POD / exec d8-registry-m /' "$block"
    as_printed "$(cat "$block")"
    blocks=$((blocks + 1))
    case $(cat "$block") in
        *'secret registry-state'*)
            shown=$(sed 's/\x1b\[[0-9;]*m//g' "$WORK/printed")
            same "$(yq -r '.mode + " " + .conditions[0].type' <<<"$shown")" "Unmanaged Ready" "the state as Deckhouse shows it" ;;
        *TAG=*) same "$(paste -sd, "$WORK/printed")" "TAG: v1.70.1,EDITION: EE" "release and edition" ;;
        *registry-user-rw*) same "$(sort "$WORK/printed" | paste -sd,)" "name: rw,password: secret" "the user who pushes" ;;
        *'delete secret registry-bashible-config'*)
            ! there registry-bashible-config || fail "the Secret for nodes is there after the printed command that deletes it" ;;
        *'store drop Proxy'*)
            same "$(paste -sd, "$WORK/printed")" "would go: 0 repositories, 0 contents that nothing else has, 0 bytes,gone: 0 repositories, 0 contents that nothing else has, 0 bytes" "what the mode before has stored" ;;
        *) fail "a block of another kind is printed: $(cat "$block")" ;;
    esac
done
same "$left_out $blocks" "2 5" "blocks of d8 mirror, and others"
stop_server

say "what is Deckhouse's is not written"
admin PATCH "$OWN/secrets/d8-registry-settings" '{"metadata": {"annotations": {"d8-registry/source": null}}}' application/merge-patch+json >/dev/null
said 1 "it is not ours and not changed" mode Proxy --settings "$WORK/mc.yaml"
tests/interop/kube-cluster.sh pause "$KUBE_DIR"
said 1 "the API server can't be reached" mode Proxy --settings "$WORK/mc.yaml"
said 1 "nothing was changed: the API server can't be reached" upstream --license-file "$WORK/license"
said 1 "127.0.0.1:1/a is unreachable" upstream --images-repo 127.0.0.1:1/a --license-file "$WORK/license"
stop_kubernetes
