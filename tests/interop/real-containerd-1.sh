#!/usr/bin/env bash
# A node with containerd 1 and its old configuration, a user's own registry among it: prepared as Deckhouse's documentation says,
# switched to Direct, back to Unmanaged with a registry and without one, and to the old configuration. After each step a
# pod pulls from the registry of Deckhouse and one from the user's. The test is bashible and the administrator.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"
# shellcheck source=tests/interop/real-deckhouse.sh
source "$(dirname "$0")/real-deckhouse.sh"

need helm docker-registry htpasswd python3
cd "$INTEROP_SCRIPTS/../.."
own_machine

# The user's registry.
readonly EXTRA=$OUTSIDE:5055 EXTRA_LOGIN=someone:else
readonly OF_EXTRA="    [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"$EXTRA\"]
      endpoint = [\"http://$EXTRA\"]
    [plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"$EXTRA\".auth]
      username = \"${EXTRA_LOGIN%%:*}\"
      password = \"${EXTRA_LOGIN#*:}\""

start_extra() {
    mkdir -p "$CLUSTER/extra"
    htpasswd -Bbn "${EXTRA_LOGIN%%:*}" "${EXTRA_LOGIN#*:}" >"$CLUSTER/extra.htpasswd"
    cat >"$CLUSTER/extra.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $CLUSTER/extra}}
http: {addr: "$EXTRA"}
auth: {htpasswd: {realm: extra, path: $CLUSTER/extra.htpasswd}}
YAML
    part extra docker-registry serve "$CLUSTER/extra.yml"
    await extra_answers
    local version
    for version in 1 2 3 4 5 6; do
        skopeo copy -q --preserve-digests --dest-tls-verify=false --dest-creds "$EXTRA_LOGIN" "oci:$CLUSTER/app-$version:v$version" "docker://$EXTRA/mine:v$version"
    done
}
extra_answers() { [[ $(curl -s -o /dev/null -w '%{http_code}' "http://$EXTRA/v2/") == 401 ]]; }

# bashible's part: containerd's configuration of MANAGED yes|no and what lies in conf.d, and containerd's restart.
bashible_writes() {
    local lines='config_path = "/etc/containerd/registry.d"'
    [[ $1 == yes ]] || lines="[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"$UPSTREAM\"]
      endpoint = [\"http://$UPSTREAM\"]"
    lines+=$'\n'$(on master-1 bash -c 'cat /etc/containerd/conf.d/*.toml 2>/dev/null || true')
    write_containerd master-1 "$lines"
    kill "${NODE_OF[master-1]}"
    wait "${NODE_OF[master-1]}" || true
    start_containerd_of master-1
    preflight_1
}
# What it finds of registries in conf.d, as a label.
preflight_1() {
    local custom=default
    ! on master-1 grep -qsr registry /etc/containerd/conf.d || custom=custom
    k label node master-1 "node.deckhouse.io/containerd-config-registry=$custom" --overwrite >/dev/null 2>&1 || true
}

# pulls NAME IMAGE [SECRET]: a pod gets the image, which the node does not have.
pulls() {
    local secrets=${3:+"imagePullSecrets: [{name: $3}]"}
    k apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: apps}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 0
  $secrets
  containers: [{name: app, image: "$2", imagePullPolicy: Always}]
YAML
    await_for 60 runs "$1"
    k -n apps delete pod "$1" --wait=true >/dev/null
    on master-1 ctr -n k8s.io images rm "$2" >/dev/null
    say "pulled $2"
}
runs() { [[ $(k -n apps get pod "$1" -o 'jsonpath={.status.phase}') == Running ]]; }
does_not_pull() {
    local status=0
    (pulls "$@") >"$WORK/refused" 2>&1 &
    wait $! || status=$?
    ((status != 0)) || fail "was pulled: $2"
    k -n apps delete pod "$1" >/dev/null
}
# of_deckhouse: an image by the name that Deckhouse gives it now; each one once.
number=0
of_deckhouse() {
    number=$((number % 6 + 1))
    pulls "deckhouse-$number" "$(secret deckhouse-registry address)$(secret deckhouse-registry path)/app:v$number" deckhouse-registry
}
of_user() {
    number=$((number % 6 + 1))
    pulls "mine-$number" "$EXTRA/mine:v$number"
}

say "a node with the old configuration, and a user's registry in conf.d"
first_images
app_images 6
start_upstream
fill_upstream
start_extra
start_control_plane
prepare_cluster
prepare_deckhouse
make_node master-1 1
import_ours master-1
on master-1 tee /etc/containerd/conf.d/extra.toml <<<"$OF_EXTRA" >/dev/null
bashible_writes no
join master-1 master
preflight_1
touch "$CLUSTER/still"
begin_roles
await_for 30 k -n apps get secret deckhouse-registry
of_deckhouse
of_user

say "the chart, and a switch that waits for what is in conf.d"
install_release --set mode=Unmanaged
await_for 120 controllers_ready
ask_for Direct "$(upstream_settings)"
held() { "$INTEROP_SERVER" switch status 2>&1 | grep -A3 'ContainerdConfigPreflightReady' | grep -q master-1; }
await_for 60 held

say "the same as hosts.toml, as it is documented; looked at by ctr; then conf.d is emptied"
on master-1 bash -euc "
    mkdir -p '/etc/containerd/registry.d/$EXTRA'
    cat >'/etc/containerd/registry.d/$EXTRA/hosts.toml' <<TOML
[host]
  [host.\"http://$EXTRA\"]
    capabilities = [\"pull\", \"resolve\"]
    [host.\"http://$EXTRA\".header]
      Authorization = [\"Basic $(printf %s "$EXTRA_LOGIN" | base64 -w0)\"]
TOML
    ctr -n k8s.io images pull --hosts-dir=/etc/containerd/registry.d/ '$EXTRA/mine:v1' >/dev/null
    ctr -n k8s.io images rm '$EXTRA/mine:v1' >/dev/null
    rm /etc/containerd/conf.d/extra.toml
"
# What is managed is known from the Secret: bashible restarts containerd once.
bashible_writes no
managed() { secret registry-bashible-config config 2>/dev/null | grep -q .; }
await_for 60 managed
bashible_writes yes
reached Direct
of_deckhouse
of_user

say "Unmanaged with a registry, then without one: containerd keeps its new configuration"
to_unmanaged
of_deckhouse
of_user
k patch moduleconfig deckhouse --type merge -p '{"spec": {"settings": {"registry": {"mode": "Unmanaged", "unmanaged": null}}}}' >/dev/null
# Nodes keep what they had; that no registry is asked for is in the status.
bare() { "$INTEROP_SERVER" switch status --json 2>/dev/null | jq -e '.ready and .mode == "Unmanaged"' && ! "$INTEROP_SERVER" switch status | grep -q '^registry:'; }
await_for 120 bare
of_deckhouse
of_user

say "registry-bashible-config is deleted: the old configuration is in force, and registry.d is not"
k -n d8-system delete secret registry-bashible-config >/dev/null
stays_away() { ! k -n d8-system get secret registry-bashible-config; }
bashible_writes no
of_deckhouse
await_for 5 stays_away
on master-1 tee /etc/containerd/conf.d/extra.toml <<<"$OF_EXTRA" >/dev/null
bashible_writes no
of_user
nothing_failed
