#!/usr/bin/env bash
# Nights in which the licence expires, as RUNBOOK has them: pods of Deckhouse and of users are restarted and can't be pulled,
# Deckhouse's policies let no person write its objects, and an administrator gives the one command on a master: as a program there,
# or out of the image. In Unmanaged as it is found, Direct and Proxy; the controller is alive, is away, or can't start.
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

need helm docker-registry htpasswd python3 ctr2
cd "$INTEROP_SCRIPTS/../.."
own_machine
open_document RUNBOOK
readonly SECTION="The licence has expired" SUDO=(--as system:sudouser)

# Of Deckhouse, as itself.
d8k() { k -n d8-system "${SUDO[@]}" "$@"; }
base() { echo "$(secret deckhouse-registry address)$(secret deckhouse-registry path)"; }

# expire NEW: the upstream takes another licence, which an administrator has in his folder and on the master.
expire() {
    OLD=$LICENCE
    expire_licence "$1"
    tee "$DESK/license.txt" <<<"$LICENCE" | write_on master-1 /srv/license.txt
}

# gone IMAGE...: no node has it any more, by no name.
gone() {
    local image node digest names
    for image; do
        for node in "${!SLEEPER_OF[@]}"; do
            digest=$(on "$node" ctr -n k8s.io images ls "name==\"$image\"" | awk 'NR == 2 { print $3 }')
            [[ -n $digest ]] || continue
            mapfile -t names < <(on "$node" ctr -n k8s.io images ls | awk -v digest="$digest" '$3 == digest { print $1 }')
            on "$node" ctr -n k8s.io images rm --sync "${names[@]}" >/dev/null
        done
    done
}

# deckhouse_anew: it is stopped, and started where nothing of its image is left: a layer that a container has is not pulled again.
deckhouse_anew() {
    d8k scale deployment deckhouse --replicas=0 >/dev/null
    await_for 240 unused "$(base):$RELEASED"
    gone "$(base):$RELEASED"
    d8k scale deployment deckhouse --replicas=1 >/dev/null
}
unused() {
    local node
    for node in "${!SLEEPER_OF[@]}"; do [[ $(on "$node" ctr -n k8s.io containers ls) != *"$1"* ]] || return; done
}

# start_pod NAME IMAGE of a user.
start_pod() {
    k apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: apps, labels: {app: $1}}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{name: deckhouse-registry}]
  containers: [{name: app, image: "$2", imagePullPolicy: Always}]
YAML
}
runs() { [[ $(k -n apps get pod "$1" -o 'jsonpath={.status.phase}') == Running ]]; }

# awaits_image NAMESPACE LABELS: a pod there could not be pulled so far.
awaits_image() {
    k -n "$1" get pods -l "$2" -o json | jq -e 'any(.items[].status.containerStatuses[]?.state.waiting.reason; . == "ErrImagePull" or . == "ImagePullBackOff")'
}
# can_not_pull NAMESPACE LABELS WORDS: a pod waits for its image, and an event of it says why.
can_not_pull() {
    local pods
    pods=$(k -n "$1" get pods -l "$2" -o json | jq -c '[.items[] | select(any(.status.containerStatuses[]?.state.waiting.reason; . == "ErrImagePull" or . == "ImagePullBackOff"))
        | .metadata.name]')
    k -n "$1" get events -o json | jq -e --argjson pods "$pods" --arg words "$3" \
        'any(.items[]; .reason == "Failed" and (.involvedObject.name as $name | $pods | index($name)) and (.message | contains($words)))'
}
deckhouse_runs() { k -n d8-system get pods -l app=deckhouse -o json | jq -e 'any(.items[].status.conditions[]?; .type == "Ready" and .status == "True")'; }

# What the command may write, as it is; a controller that lives writes nothing of it for nothing.
written_so_far() {
    k -n d8-system get secrets -o json | jq -c '[.items[] | select(.metadata.name | test("^(deckhouse-registry|registry-(config|previous|bashible-config|state)|d8-registry-(mode|switch))$"))
        | "\(.metadata.name) \(.metadata.resourceVersion)"] | sort'
}

# discreet TEXT: it has no password, in no form.
discreet() {
    local one
    for one in "$LICENCE" "$OLD" "$(secret registry-user-ro password)" "$(secret registry-user-rw password)"; do
        for one in "$one" "$(printf %s "$one" | base64 -w0)" "$(printf 'license-token:%s' "$one" | base64 -w0)"; do
            [[ $1 != *"$one"* ]] || fail "a secret is shown: $1"
        done
    done
}
# has TEXT WORDS...
has() {
    local words
    for words in "${@:2}"; do [[ $1 == *"$words"* ]] || fail "it does not say '$words': $1"; done
}

# the_command FORM [FLAG] is typed on the master as it is written there; what it says is in SAID. FORM: binary, ctr (that of containerd
# 1.7 or newer), mount (with any ctr).
the_command() {
    local flag=${2:+ $2}
    case $1 in
        binary)
            SAID=$(KUBECONFIG=/etc/kubernetes/admin.conf as_written on master-1 "$SECTION" "d8-registry switch upstream --license-file license.txt$flag" 2>&1) ||
                fail "$SAID"
            ;;
        ctr)
            SAID=$(as_written on master-1 "$SECTION" "IMAGE switch-upstream" "ctr -n=>$INTEROP_TOOLS/ctr2 -n" "IMAGE=>$OURS" "license.txt=>license.txt$flag" 2>&1) ||
                fail "$SAID"
            # The one above the container's stays: containerd makes it and does not take it away.
            rmdir "$CGROUPS"/k8s.io "$CGROUPS"/*/k8s.io 2>/dev/null || true
            ;;
        mount)
            as_written on master-1 "$SECTION" "images mount IMAGE" "IMAGE=>$OURS" >/dev/null
            SAID=$(as_written on master-1 "$SECTION" "/mnt/usr/bin/d8-registry" "license.txt=>license.txt$flag" 2>&1) || fail "$SAID"
            as_written on master-1 "$SECTION" "images unmount" >/dev/null
            ;;
    esac
    discreet "$SAID"
}
# refuses WORDS FLAG...: the command ends with 1 and says that nothing was changed, which is so.
refuses() {
    local before status=0
    before=$(written_so_far)
    SAID=$(on master-1 "$DESK/bin/d8-registry" switch upstream "${@:2}" 2>&1) || status=$?
    same "$status" 1 "status of switch upstream ${*:2}: $SAID"
    discreet "$SAID"
    has "$SAID" "nothing was changed" "$1"
    same "$(written_so_far)" "$before" "the Secrets after switch upstream ${*:2}"
}

old_is_gone() {
    local name
    for name in deckhouse-registry registry-config registry-bashible-config d8-registry-mode; do
        [[ $(k -n d8-system get secret "$name" -o json 2>/dev/null | jq -r '.data[]? | @base64d') != *"$OLD"* ]] || return
    done
}
leads_and_is_content() {
    on master-1 curl -s --max-time 5 http://127.0.0.1:5005/metrics | awk '/^d8_registry_switch_leader 1/ { leads = 1 }
        /^d8_registry_switch_condition/ && /type="Ready"/ && /status="True"/ && $2 == 1 { content = 1 }
        END { exit !(leads && content) }'
}

# night MODE CONTROLLER FORM PULLED NEW: the controller is alive, away (no pod of it is wanted), or lost (its image is nowhere). Version PULLED of the program is not on any node and not stored, NEW neither.
night=0
night() {
    local mode=$1 controller=$2 form=$3 words="403 Forbidden" before image servers commands=() command
    night=$((night + 1))
    say "night $night: the licence expires in $mode, the controller is $controller, the command comes by $form"
    [[ $mode != Unmanaged ]] || words="401 Unauthorized"
    users_rest
    nothing_failed
    expire "licence-of-night-$night"
    case $mode in
        # What was pulled before is served, but Deckhouse's image is not whole in the store.
        Proxy)
            serves_stored
            damage_of_deckhouse
            words="unexpected status code"
            ;;
        *)
            image=$(k -n apps get deployment app -o 'jsonpath={.spec.template.spec.containers[0].image}')
            gone "$image"
            k -n apps delete pods -l app=app >/dev/null
            await_for 60 can_not_pull apps app=app "$words"
            ;;
    esac
    deckhouse_anew
    await_for 60 can_not_pull d8-system app=deckhouse "$words"
    [[ $mode != Proxy ]] || words="403 Forbidden"
    gone "$(base)/app:v$4"
    start_pod "left-alone-$night" "$(base)/app:v$4"
    await_for 60 can_not_pull apps "app=left-alone-$night" "$words"
    case $controller in
        away)
            d8k scale deployment d8-registry-controller --replicas=0 >/dev/null
            await_for 60 no_controller
            ;;
        lost)
            gone "$OURS"
            d8k delete pods -l component=registry-controller >/dev/null
            await_for 60 can_not_pull d8-system component=registry-controller "403 Forbidden"
            ;;
    esac
    [[ $mode != Proxy ]] || is_seen_as_written

    say "the command: first what it would do"
    as_written on master-1 "$SECTION" "kubectl -n d8-system get deployment d8-registry-controller" >/dev/null
    if [[ $controller != lost ]]; then
        has "$(as_written on master-1 "$SECTION" "ctr -n k8s.io images ls | grep d8-registry")" "$OURS"
    fi
    before=$(written_so_far)
    for command in binary ctr mount; do
        [[ $controller != lost || $command == binary ]] || continue
        the_command "$command" --dry-run
        has "$SAID" "Mode $mode stays" "password: ***" "Deckhouse's objects are written as system:serviceaccount:d8-system:d8-registry-controller" \
            "$UPSTREAM/$EDITION answers and takes the credentials." "Nothing was written (--dry-run)"
        same "$(written_so_far)" "$before" "the Secrets after --dry-run"
    done
    say "then it"
    the_command "$form"
    if [[ $controller == alive ]]; then
        has "$SAID" "renews it: the controller does the work."
        [[ $SAID != *"This command has the Lease"* ]] || fail "it did what the controller does: $SAID"
    else
        has "$SAID" "Nobody else has the Lease." "This command has the Lease and does the controller's work."
    fi
    servers=", the servers"
    [[ $mode != Unmanaged ]] || servers=
    has "$SAID" "The nodes$servers and Secret deckhouse-registry have $UPSTREAM/$EDITION."
    echo "$SAID"
    mapfile -t commands < <(grep -E '^ +kubectl .* delete pod ' <<<"$SAID")
    # Where servers have the new licence before the command ends, the kubelet's next try may have brought the pod of Deckhouse up.
    if [[ $SAID == *"No pod of Deckhouse fails."* ]]; then
        if awaits_image d8-system app=deckhouse; then fail "a pod of Deckhouse fails, and the command says that none does"; fi
    else
        has "$SAID" "pods of Deckhouse that fail; delete them one by one"
        ((${#commands[@]} > 0)) || fail "no pod is named: $SAID"
    fi
    for command in "${commands[@]}"; do typed "$command" on master-1; done
    await_for 60 deckhouse_runs
    [[ $controller != away ]] || d8k scale deployment d8-registry-controller --replicas=1 >/dev/null

    say "everything pulls: Deckhouse, users, the controller, and what was never stored"
    await_for 330 rolled_out app
    start_pod "new-$night" "$(base)/app:v$5"
    await_for 60 runs "new-$night"
    reached "$mode"
    await_for 60 controller_runs
    await_for 330 runs "left-alone-$night"
    old_is_gone || fail "the licence of before is still somewhere"
    say "a controller that returns wants the same"
    before=$(written_so_far)
    k -n d8-system rollout restart deployment d8-registry-controller >/dev/null
    await_for 90 restarted
    await_for 60 leads_and_is_content
    same "$(written_so_far)" "$before" "the Secrets after a controller returned"
    # What failed was meant to.
    k delete events -A --all >/dev/null
    k -n apps delete pods "left-alone-$night" "new-$night" >/dev/null
    users_go_on
    await_rollouts 2
    nothing_failed
}
# to_mode MODE: ModuleConfig is the input again, with the licence of today.
to_mode() {
    ask_for "$1" "$(upstream_settings)"
    "$INTEROP_SERVER" switch source moduleconfig >/dev/null
    reached "$1"
}
no_controller() { [[ -z $(k -n d8-system get pods -l component=registry-controller -o name) ]]; }
controller_runs() { k -n d8-system get deployment d8-registry-controller -o json | jq -e '.spec.replicas > 0 and .status.availableReplicas == .spec.replicas'; }
restarted() { k -n d8-system rollout status deployment d8-registry-controller --watch=false | grep -q 'successfully rolled out'; }

# damage_of_deckhouse: the store on the master knows that a layer of Deckhouse's image is damaged, by the name that RUNBOOK has for that.
damage_of_deckhouse() {
    local store=/opt/deckhouse/registry/d8_data manifest layer
    manifest=$(jq -r '.manifests[0].digest' "$CLUSTER/deckhouse/index.json")
    layer=$(jq -r '.layers[0].digest' "$CLUSTER/deckhouse/blobs/${manifest/://}")
    on master-1 install -d -o 64535 -g 64535 -m 750 "$store/damaged" "$store/damaged/sha256"
    on master-1 ln -f "$store/blobs/sha256/${layer:7:2}/${layer#*:}" "$store/damaged/sha256/${layer#*:}.by-hand"
    await_for 60 lacks_layer "$layer"
}
lacks_layer() {
    [[ $(curl -s --max-time 20 --cacert "$WORK/authority.crt" -u "$(login ro)" -o /dev/null -w '%{http_code}' \
        "https://${ADDRESS_OF[master-1]}:5001/v2/system/deckhouse/blobs/$1") == 403 ]]
}

# is_seen_as_written: what RUNBOOK says that one sees.
is_seen_as_written() {
    local answer
    await_for 90 probe_is_refused
    on master-1 curl -s http://127.0.0.1:5002/status | jq -e '.. | objects | select(.outcome? == "auth")' >/dev/null || fail "/status has no outcome: auth"
    answer=$(k -n d8-system logs -l component=registry-server --tail=-1)
    [[ $answer == *"the upstream refuses our credentials"* ]] || fail "the log does not say so"
    answer=$(curl -s --cacert "$WORK/authority.crt" -u "$(login ro)" -i "https://${ADDRESS_OF[master-1]}:5001/v2/system/deckhouse/app/manifests/v1")
    grep -qi '^d8-registry-cache: stale' <<<"$answer" || fail "what is stored is not served: $answer"
    answer=$(curl -s --cacert "$WORK/authority.crt" -u "$(login ro)" "https://${ADDRESS_OF[master-1]}:5001/v2/system/deckhouse/app/manifests/never-there")
    [[ $answer == *DENIED*"authentication required"* ]] || fail "the upstream's words are not there: $answer"
}
probe_is_refused() { (($(on master-1 curl -s http://127.0.0.1:5002/metrics | awk '/^d8_registry_upstream_probes_total{outcome="auth"}/ { print $2 }') > 0)); }

# servers_ask REPOSITORY: the mode file names it, and no other.
servers_ask() { [[ $(secret d8-registry-mode mode.yaml | grep -oE "$UPSTREAM/[a-z/]+" | sort -u) == "$1" ]]; }

say "images, and an upstream that has them; another edition has the same"
first_images
app_images 6
start_upstream
fill_upstream
cp -a "$CLUSTER/upstream/docker/registry/v2/repositories/${EDITION}" "$CLUSTER/upstream/docker/registry/v2/repositories/${EDITION%/*}/other"

say "a master and a worker; Deckhouse, its policies and its users"
start_control_plane
prepare_cluster
prepare_deckhouse
protect_deckhouse
for node in "master-1 1 master" "worker-1 2 worker"; do
    read -r name number role <<<"$node"
    make_node "$name" "$number"
    import_ours "$name"
    upstream_files "$name"
    join "$name" "$role"
    preflight "$name"
done
begin_roles
# The other versions are never pulled by users.
echo 2 >"$CLUSTER/versions"

say "what an administrator has on a master"
on master-1 mount -t tmpfs tmpfs /srv
certificate "$CLUSTER" kubernetes-admin /O=system:masters/CN=kubernetes-admin
kube kubectl config view --kubeconfig "$CLUSTER/kubernetes-admin.kubeconfig" --flatten | write_on master-1 /etc/kubernetes/admin.conf
[[ $SNAPSHOTTER == overlayfs ]] || export CONTAINERD_SNAPSHOTTER=$SNAPSHOTTER

say "the chart; nodes and Deckhouse follow Deckhouse's own Secret, and no registry of ours is asked for"
install_release --kube-as-user system:serviceaccount:d8-system:deckhouse --set mode=Unmanaged
await_for 120 controllers_ready
await_rollouts 2
night Unmanaged away ctr 3 4

to_mode Direct
await_rollouts 2
night Direct alive binary 3 4
night Direct lost binary 5 6

to_mode Proxy
authority
# What runs was pulled before there was a store.
deckhouse_anew
await_for 60 deckhouse_runs
await_rollouts 3
night Proxy alive mount 3 4
night Proxy lost binary 5 6

say "what changes nothing"
echo hunter2 | write_on master-1 /srv/wrong.txt
refuses "refuses the credentials" --license-file /srv/wrong.txt
refuses "has no images of Deckhouse" --images-repo "$UPSTREAM/deckhouse/none" --license-file /srv/license.txt

say "the wrong registry, and back; then there is no way back any more"
SAID=$(on master-1 "$DESK/bin/d8-registry" switch upstream --commit)
has "$SAID" "Secret registry-previous is removed"
OLD=$LICENCE
SAID=$(on master-1 "$DESK/bin/d8-registry" switch upstream --images-repo "$UPSTREAM/${EDITION%/*}/other" 2>&1) || fail "$SAID"
discreet "$SAID"
has "$SAID" "The nodes, the servers and Secret deckhouse-registry have $UPSTREAM/${EDITION%/*}/other." "No pod of Deckhouse fails."
reached Proxy
servers_ask "$UPSTREAM/${EDITION%/*}/other" || fail "the servers are not told"
SAID=$(as_written on master-1 "$SECTION" "d8-registry switch upstream --undo" 2>&1) || fail "$SAID"
discreet "$SAID"
has "$SAID" "The nodes, the servers and Secret deckhouse-registry have $UPSTREAM/$EDITION." "No pod of Deckhouse fails."
reached Proxy
servers_ask "$UPSTREAM/$EDITION" || fail "the servers are not told"
SAID=$(on master-1 "$DESK/bin/d8-registry" switch upstream --undo 2>&1) && fail "was undone twice: $SAID"
has "$SAID" "there is nothing to go back to"
await_rollouts 2
nothing_failed
say "$(grep -c rollout "$CLUSTER/roles.log") rollouts, $(k get events -A -o json | jq '[.items[] | select(.reason == "Pulled")] | length') pulls in events"
