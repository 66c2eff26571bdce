# shellcheck shell=bash
# The chart on the cluster of real-nodes.sh: installed by helm, filled, asked; workloads that pull from it, and what may not be
# said of them. Sourced after it.

# Where images are named; the chart, or one of another version; its values for machines as small as these.
readonly SERVED=registry.d8-system.svc:5001/system/deckhouse CHART=${CHART_UNDER_TEST:-deploy/helm/d8-registry}
RELEASE=(--set-string store.reserveBytes=0 --set drainSeconds=5 --set switch.settle=5s --set switch.scanInterval=2s
    --set resources.requests.cpu=5m --set nodeProxy.resources.requests.cpu=1m)

# prepare_cluster makes what Deckhouse has made before the chart comes.
prepare_cluster() {
    k create namespace d8-system
    k create namespace apps
    helm version --short
}

# run_helm ARGUMENTS... in the release's namespace.
run_helm() { helm "$@" --namespace d8-system >"$WORK/helm.out" 2>&1 || fail "helm $1: $(<"$WORK/helm.out")"; }
install_release() {
    VALUES=(--set "image.reference=$OURS" "${RELEASE[@]}" "$@")
    run_helm install d8-registry "$CHART" "${VALUES[@]}"
}
# change_release ARGUMENTS... upgrades with other values; they stay for the next one.
change_release() {
    VALUES+=("$@")
    run_helm upgrade d8-registry "$CHART" "${VALUES[@]}"
}

# secret NAME KEY prints a value.
secret() { k -n d8-system get secret "$1" -o json | jq -r --arg key "$2" '.data[$key] // "" | @base64d'; }
authority() { secret registry-pki ca.crt >"$WORK/authority.crt"; }
login() { echo "$1:$(secret "registry-user-$1" password)"; }

# serves NODE: its server answers at its own address.
serves() {
    authority
    [[ $(curl -s --max-time 5 --cacert "$WORK/authority.crt" -o /dev/null -w '%{http_code}' "https://${ADDRESS_OF[$1]}:5001/v2/") == 401 ]]
}

# answers NODE: so does 127.0.0.1:5001 on it.
answers() {
    [[ $(on "$1" curl -s --max-time 5 --cacert "$WORK/authority.crt" -o /dev/null -w '%{http_code}' https://127.0.0.1:5001/v2/) == 401 ]]
}

# push_image LAYOUT:REF NAME[:TAG] [MASTER] pushes with user rw, as an administrator does.
push_image() {
    local name=$2
    [[ $name == *:* ]] || name+=:$OURS_VERSION
    mkdir -p "$WORK/push-certs"
    cp "$WORK/authority.crt" "$WORK/push-certs/ca.crt"
    skopeo copy -q --preserve-digests --dest-creds "$(login rw)" --dest-cert-dir "$WORK/push-certs" "oci:$1" \
        "docker://${ADDRESS_OF[${3:-master-1}]}:5001/system/deckhouse/$name"
}

# node_files NODE writes containerd's files there, as INSTALL has them: 127.0.0.1, and each master.
node_files() {
    local user password master
    IFS=: read -r user password <<<"$(login ro)"
    {
        printf 'hosts:\n  "%s":\n    mirrors:\n' "${SERVED%%/*}"
        for master in 127.0.0.1 $(masters); do
            echo "      - {host: '$master:5001', scheme: https, ca: $(jq -Rs . <"$WORK/authority.crt"), auth: {username: $user, password: $password}}"
        done
    } >"$CLUSTER/$1/node.yaml"
    on "$1" "$INTEROP_SERVER" node-config --config "$CLUSTER/$1/node.yaml"
}

# masters prints their addresses.
masters() { k get nodes -l node-role.kubernetes.io/control-plane -o json | jq -r '.items[].status.addresses[] | select(.type == "InternalIP").address'; }

# app_images COUNT makes as many versions of a program that does nothing.
app_images() {
    local version
    for ((version = 1; version <= $1; version++)); do
        busybox_layout "$CLUSTER/app-$version" "v$version" /bin/busybox sleep 1000000
    done
}

# deploy NAME REPLICAS VERSION runs it from the registry, evenly on all nodes.
deploy() {
    k apply -f - <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1, namespace: apps}
spec:
  replicas: $2
  selector: {matchLabels: {app: $1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: $1}}}
      containers: [{name: app, image: "$SERVED/app:$3", imagePullPolicy: Always}]
YAML
}
roll() { k -n apps set image "deployment/$1" "app=$SERVED/app:$2"; }
rolled_out() { k -n apps rollout status "deployment/$1" --watch=false | grep -q 'successfully rolled out'; }
on_every_node() {
    local nodes
    nodes=$(k -n apps get pods -l "app=$1" -o json | jq -r '.items[] | select(.status.phase == "Running") | .spec.nodeName' | sort -u | wc -l)
    ((nodes == ${#ADDRESS_OF[@]}))
}

# pulls NODE NAME IMAGE [SECRET]: a pod gets the image, which the node does not have.
pulls() {
    begin_pod "$@"
    await_for 60 runs "$2"
    end_pod "$@"
    say "$1 pulled $3"
}
begin_pod() {
    local secrets=${4:+"imagePullSecrets: [{name: $4}]"}
    k apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $2, namespace: apps}
spec:
  nodeName: $1
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  $secrets
  containers: [{name: app, image: "$3", imagePullPolicy: Always}]
YAML
}
end_pod() {
    k -n apps delete pod "$2" --wait=true >/dev/null
    on "$1" ctr -n k8s.io images rm "$3" >/dev/null
}
runs() { [[ $(k -n apps get pod "$1" -o 'jsonpath={.status.phase}') == Running ]]; }

# pulls_once NODE NAME IMAGE WORDS REMEDY...: no pod gets the image, and an event has these words; after the remedy it does, by the
# kubelet's own tries. What is said of this pod and image until then is all that nothing_failed passes over.
pulls_once() {
    local begun
    begun=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    begin_pod "$1" "$2" "$3" "${SECRET_OF_PODS:-}"
    await_for 60 failed_with "$2" "$4"
    ! runs "$2" || fail "was pulled: $3"
    "${@:5}"
    await_for 120 runs "$2"
    FORGIVEN=$(jq -c --arg pod "$2" --arg image "$3" --arg from "$begun" \
        --arg until "$(k -n apps get pod "$2" -o 'jsonpath={.status.containerStatuses[0].state.running.startedAt}')" \
        '. + [{$pod, $image, $from, $until}]' <<<"$FORGIVEN")
    end_pod "$1" "$2" "$3"
    say "$1 pulled $3, after it was refused"
}
failed_with() {
    k -n apps get events -o json | jq -e --arg pod "$1" --arg words "$2" \
        'any(.items[]; .involvedObject.name == $pod and .reason == "Failed" and (.message | contains($words)))'
}
FORGIVEN='[]'

# The law: what its source had was pulled. Everything that a kubelet has said of a pod is in the events.
nothing_failed() {
    local failed
    failed=$(k get events -A -o json | jq -r --argjson forgiven "$FORGIVEN" '.items[]
        | select(.reason == "Failed" or .reason == "ErrImagePull" or .reason == "BackOff" or .reason == "FailedCreatePodSandBox")
        | select(. as $event | $forgiven | any($event.involvedObject.namespace == "apps" and $event.involvedObject.name == .pod
            and $event.firstTimestamp >= .from and $event.lastTimestamp <= .until
            and (.image as $image | $event.message | contains("\"\($image)\"") or . == "Error: ErrImagePull" or . == "Error: ImagePullBackOff")) | not)
        | [.lastTimestamp, .source.host, .involvedObject.name, .message] | join(" ")' | grep -iE 'pull|image|sandbox' || true)
    [[ -z $failed ]] || fail "an image was not pulled: $failed"
}

# pulled_as USER NAME VERSION: a kubelet's containerd asked our server for it.
pulled_as() {
    local asked
    asked=$(k -n d8-system logs -l component=registry-server --tail=-1 --prefix=false | jq -rR --arg user "$1" --arg name "system/deckhouse/$2" --arg tag "$3" \
        'fromjson? | select(.user == $user and .repository == $name and .reference == $tag and .status == 200) | .user_agent // .agent' | sort -u)
    grep -q containerd <<<"$asked" || fail "no containerd asked for $2:$3: $asked"
}
