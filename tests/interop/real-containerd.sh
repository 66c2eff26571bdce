# shellcheck shell=bash
# A node with containerd CONTAINERD, 1 or 2, and its old configuration, a user's own registry among it: prepared by the manifests
# and commands of SWITCHING as they stand there, switched to Direct, back to Unmanaged with a registry and without one, and to the
# old configuration. After each step a pod pulls from the registry of Deckhouse and one from the user's. The test is bashible and
# the administrator.
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
# shellcheck source=tests/interop/real-documents.sh
source "$(dirname "$0")/real-documents.sh"

need helm docker-registry htpasswd python3
cd "$INTEROP_SCRIPTS/../.."
own_machine
open_document SWITCHING
readonly PLACE="Before the first switch: registries of your own"
# Of Deckhouse's program what is kubectl's.
printf '#!/bin/sh\n[ "$1" = k ] || exit 2\nshift\nexec kube kubectl "$@"\n' >"$DESK/bin/d8"
chmod +x "$DESK/bin/d8"

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
readonly OLD DROP_INS OF_EXTRA EXTRA_HOSTS=/etc/containerd/registry.d/$EXTRA/hosts.toml

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

# step_kind makes the kind by which an administrator gives bashible steps, with the fields that Deckhouse asks for.
step_kind() {
    k apply -f - >/dev/null <<'YAML'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: nodegroupconfigurations.deckhouse.io}
spec:
  group: deckhouse.io
  scope: Cluster
  names: {plural: nodegroupconfigurations, singular: nodegroupconfiguration, kind: NodeGroupConfiguration, listKind: NodeGroupConfigurationList}
  versions:
    - name: v1alpha1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [content, nodeGroups, bundles]
              properties:
                content: {type: string}
                weight: {type: integer, default: 100}
                nodeGroups: {type: array, minItems: 1, items: {type: string}}
                bundles: {type: array, minItems: 1, items: {type: string}}
YAML
    await k get nodegroupconfigurations
}
# extra_as_before: containerd has its login from its configuration, by a step of the user's. containerd 2 knows no mirrors beside
# registry.d.
extra_as_before() {
    jq -n --arg folder "$DROP_INS" --arg text "$OF_EXTRA" '{apiVersion: "deckhouse.io/v1alpha1", kind: "NodeGroupConfiguration",
        metadata: {name: "registry-example.sh"}, spec: {weight: 31, bundles: ["*"], nodeGroups: ["*"], content:
        "mkdir -p \($folder)\nbb-sync-file \($folder)/registry-example.toml - << \"EOF\"\n\($text)\nEOF\n"}}' | k apply -f - >/dev/null
    ((CONTAINERD == 2)) || return 0
    k delete nodegroupconfiguration registry-example-hosts.sh --ignore-not-found >/dev/null
    on master-1 mkdir -p "/etc/containerd/registry.d/$EXTRA"
    write_on master-1 "$EXTRA_HOSTS" <<TOML
[host."http://$EXTRA"]
  capabilities = ["pull", "resolve"]
TOML
}
extra_answers() { [[ $(curl -s -o /dev/null -w '%{http_code}' "http://$EXTRA/v2/") == 401 ]]; }

# bashible_steps runs the NodeGroupConfigurations on the node as bashible does, whenever it is run: in the order of their weights,
# each sourced by a shell of its own after bashible's functions, of which that is played which writes a file where it is another.
bashible_steps() {
    local steps=$CLUSTER/master-1/steps weight name step
    rm -rf "$steps"
    mkdir "$steps"
    cat >"$CLUSTER/master-1/bashbooster.sh" <<'SH'
bb-sync-file() {
    local to=$1 from=$2
    if [[ $from == - ]]; then
        from=$(mktemp -u)
        cat >"$from"
    fi
    cmp -s "$from" "$to" || cp -f -p "$from" "$to"
}
SH
    while read -r weight name; do
        ((weight < 32)) || fail "$name comes after the step that writes containerd's configuration"
        k get nodegroupconfiguration "$name" -o 'jsonpath={.spec.content}' >"$steps/$(printf %03d "$weight")_$name"
    done < <(k get nodegroupconfigurations -o 'jsonpath={range .items[*]}{.spec.weight} {.metadata.name}{"\n"}{end}')
    for step in "$steps"/*; do
        # shellcheck disable=SC2016 # its own words
        on master-1 bash --noprofile --norc -eEo pipefail -c 'source "$1"; source "$2"' bashible "$CLUSTER/master-1/bashbooster.sh" "$step" ||
            fail "bashible's step ${step##*/} failed"
    done
}

# bashible's part: the administrator's steps; containerd's configuration of MANAGED yes|no and what lies in conf.d; containerd's
# restart, where that is another than before; and without the Secret what it gives containerd 2 in its place, the registry that
# Deckhouse has.
bashible_writes() {
    local lines=$NEW before
    bashible_steps
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

# labelled WORD: the administrator sees it so.
labelled() {
    as_written "$PLACE" "get nodes -L" >"$WORK/labels"
    grep -qE "^master-1 .* $1 *$" "$WORK/labels" || fail "master-1 does not have the label $1: $(<"$WORK/labels")"
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
users_may_pull
step_kind
k create clusterrolebinding all-deckhouse --clusterrole=cluster-admin --serviceaccount=d8-system:deckhouse >/dev/null
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

say "what is in $DROP_INS, and the same as hosts.toml: containerd is not restarted"
labelled custom
as_written on master-1 "$PLACE" "grep -rn" "/etc/containerd/conf.d=>$DROP_INS" >"$WORK/listed"
grep -qF "\"$EXTRA\"" "$WORK/listed" || fail "the registry is not listed: $(<"$WORK/listed")"
if grep -qF "${EXTRA_LOGIN#*:}" "$WORK/listed"; then fail "the password is listed"; fi
encoded=$(as_written "$PLACE" "printf %s USER:PASSWORD" "USER:PASSWORD=>$EXTRA_LOGIN")
# Neither Debian's containerd nor that of the module has Deckhouse's extensions; the document says what they take in the place of
# `auth`. The registry has no certificate.
block "$PLACE" "name: registry-example-hosts.sh" "registry.example.com=>$EXTRA" "https://=>http://" '.auth]=>.header]' \
    "auth = \"BASE64\"=>Authorization = [\"Basic $encoded\"]" >"$DESK/registry-example-hosts.yaml"
grep -qF "\`[host.\"https://registry.example.com\".header]\` with \`Authorization = [\"Basic BASE64\"]\`" "$DOCUMENT" ||
    fail "$DOCUMENT has the login of a plain containerd in another form"
as_written "$PLACE" "apply -f registry-example-hosts.yaml"
process=${NODE_OF[master-1]}
bashible_writes no
same "${NODE_OF[master-1]}" "$process" "the process of containerd"
same "$(on master-1 stat -c %a "$EXTRA_HOSTS")" 600 "the permissions of hosts.toml, which has a password"
of_user

say "hosts.toml is looked at by ctr, with an image of which nothing is on the node"
[[ $SNAPSHOTTER == overlayfs ]] || export CONTAINERD_SNAPSHOTTER=$SNAPSHOTTER
as_written on master-1 "$PLACE" "images pull --hosts-dir" "registry.example.com/app:v1=>$EXTRA/mine:v6" >/dev/null
as_written on master-1 "$PLACE" "images rm" "registry.example.com/app:v1=>$EXTRA/mine:v6" >/dev/null

say "the chart, and a switch that waits for what is in $DROP_INS"
install_release --set mode=Unmanaged
await_for 120 controllers_ready
ask_for Direct "$(upstream_settings)"
held() {
    "$INTEROP_SERVER" switch status 2>&1 | grep -A3 'ContainerdConfigPreflightReady' |
        grep -q 'master-1: has custom toml merge containerd configuration'
}
await_for 60 held

say "the file goes by another content of the step that wrote it, and the switch goes on"
block "$PLACE" "name: registry-example.sh" "/etc/containerd/conf.d=>$DROP_INS" >"$DESK/registry-example.yaml"
as_written "$PLACE" "apply -f registry-example.yaml"
process=${NODE_OF[master-1]}
bashible_writes no
if [[ ${NODE_OF[master-1]} == "$process" ]]; then fail "containerd goes on with what was in $DROP_INS"; fi
if on master-1 test -e "$DROP_INS/registry-example.toml"; then fail "the file is still there"; fi
labelled default
# What is managed is known from the Secret: bashible restarts containerd 1 once more.
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
as_written "To Unmanaged" "delete secret registry-bashible-config" >/dev/null
bashible_writes no
of_deckhouse
await_for 60 bare
labelled default
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
labelled custom
! k -n d8-system get secret registry-bashible-config 2>/dev/null || fail "registry-bashible-config is back"
await_for 60 bare
of_deckhouse
nothing_failed
every_command_ran "$PLACE"
