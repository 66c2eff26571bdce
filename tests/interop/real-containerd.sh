# shellcheck shell=bash
# A node with containerd CONTAINERD, 1 or 2, and its old configuration, a user's own registry among it: prepared as Deckhouse's
# documentation says, switched to Direct, back to Unmanaged with a registry and without one, and to the old configuration. After
# each step a pod pulls from the registry of Deckhouse and one from the user's. The test is bashible and the administrator.
# Sourced by a test for each of both.
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
# With containerd 1 bashible names all registries in config.toml until the first switch, and merges what lies in conf.d; with
# containerd 2 it has always written registry.d, and merges conf2.d.
OLD="[$REGISTRY_TABLE.mirrors.\"$UPSTREAM\"]
      endpoint = [\"http://$UPSTREAM\"]"
DROP_INS=/etc/containerd/conf.d
OF_EXTRA="    [$REGISTRY_TABLE.mirrors.\"$EXTRA\"]
      endpoint = [\"http://$EXTRA\"]"
readonly NEW='config_path = "/etc/containerd/registry.d"'
if ((CONTAINERD == 2)); then
    OLD=$NEW DROP_INS=/etc/containerd/conf2.d OF_EXTRA=
fi
OF_EXTRA+="
    [$REGISTRY_TABLE.configs.\"$EXTRA\".auth]
      username = \"${EXTRA_LOGIN%%:*}\"
      password = \"${EXTRA_LOGIN#*:}\""
readonly OLD DROP_INS OF_EXTRA

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
# extra_as_before: containerd has its login from its configuration. containerd 2 knows no mirrors beside registry.d.
extra_as_before() {
    on master-1 mkdir -p "$DROP_INS"
    write_on master-1 "$DROP_INS/extra.toml" <<<"$OF_EXTRA"
    ((CONTAINERD == 1)) || extra_hosts ""
}
# extra_hosts LOGIN writes it as hosts.toml.
extra_hosts() {
    on master-1 mkdir -p "/etc/containerd/registry.d/$EXTRA"
    write_on master-1 "/etc/containerd/registry.d/$EXTRA/hosts.toml" <<TOML
[host]
  [host."http://$EXTRA"]
    capabilities = ["pull", "resolve"]
$1
TOML
}
extra_answers() { [[ $(curl -s -o /dev/null -w '%{http_code}' "http://$EXTRA/v2/") == 401 ]]; }

# bashible's part: containerd's configuration of MANAGED yes|no and what lies in conf.d; containerd's restart, where that is another
# than before; and without the Secret what it gives containerd 2 in its place, the registry that Deckhouse has.
bashible_writes() {
    local lines=$NEW before
    [[ $1 == yes ]] || lines=$OLD
    lines+=$'\n'$(on master-1 bash -c "cat $DROP_INS/*.toml 2>/dev/null || true")
    before=$(on master-1 sha256sum /etc/containerd/config.toml)
    write_containerd master-1 "$lines"
    if [[ $(on master-1 sha256sum /etc/containerd/config.toml) != "$before" ]]; then
        kill "${NODE_OF[master-1]}"
        wait "${NODE_OF[master-1]}" || true
        start_containerd_of master-1
        say "containerd has another configuration, and was restarted"
    fi
    [[ $1 == yes ]] || ((CONTAINERD == 1)) || upstream_files master-1
    answer "$1"
}
# answer MANAGED, once the node is in the cluster: what lies in the folder of registries is a label. Without the Secret the version
# is unknown; with it the version is answered with the files.
answer() {
    local custom=default
    k get node master-1 >/dev/null 2>&1 || return 0
    ! on master-1 grep -qsr registry "$DROP_INS" || custom=custom
    k label node master-1 "node.deckhouse.io/containerd-config-registry=$custom" --overwrite >/dev/null
    [[ $1 == yes ]] || k annotate node master-1 registry.deckhouse.io/version=unknown --overwrite >/dev/null
}

# of_deckhouse: an image by the name that Deckhouse gives it now; each one once.
number=0
of_deckhouse() {
    number=$((number % 6 + 1))
    pulls master-1 "deckhouse-$number" "$(secret deckhouse-registry address)$(secret deckhouse-registry path)/app:v$number" deckhouse-registry
}
of_user() {
    number=$((number % 6 + 1))
    pulls master-1 "mine-$number" "$EXTRA/mine:v$number"
}

say "a node with the old configuration, and a user's registry in $DROP_INS"
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
extra_as_before
bashible_writes no
join master-1 master
answer no
touch "$CLUSTER/still"
begin_roles
await_for 30 k -n apps get secret deckhouse-registry
of_deckhouse
of_user

say "the chart, and a switch that waits for what is in $DROP_INS"
install_release --set mode=Unmanaged
await_for 120 controllers_ready
ask_for Direct "$(upstream_settings)"
held() { "$INTEROP_SERVER" switch status 2>&1 | grep -A3 'ContainerdConfigPreflightReady' | grep -q master-1; }
await_for 60 held

say "the same as hosts.toml, as it is documented; looked at by ctr; then $DROP_INS is emptied"
extra_hosts "    [host.\"http://$EXTRA\".header]
      Authorization = [\"Basic $(printf %s "$EXTRA_LOGIN" | base64 -w0)\"]"
on master-1 ctr -n k8s.io images pull --hosts-dir=/etc/containerd/registry.d/ "$EXTRA/mine:v1" >/dev/null
on master-1 ctr -n k8s.io images rm "$EXTRA/mine:v1" >/dev/null
on master-1 rm "$DROP_INS/extra.toml"
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

say "registry-bashible-config is deleted: the old configuration is in force"
k -n d8-system delete secret registry-bashible-config >/dev/null
bashible_writes no
of_deckhouse
as_before() {
    extra_as_before
    bashible_writes no
}
if ((CONTAINERD == 1)); then
    # What is in registry.d is passed over again.
    number=$((number % 6 + 1))
    pulls_once master-1 "mine-$number" "$EXTRA/mine:v$number" 'server gave HTTP response to HTTPS client' as_before
else
    of_user
    as_before
fi
of_user
! k -n d8-system get secret registry-bashible-config 2>/dev/null || fail "registry-bashible-config is back"
await_for 60 bare
of_deckhouse
nothing_failed
