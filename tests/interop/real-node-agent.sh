#!/usr/bin/env bash
# The chart's node-agent on a real node: one outside of any NodeGroup, with systemd and Debian's unit of containerd, beside a master
# of Deckhouse's. Its old configuration of containerd is mended, and the agent has systemd restart it; it follows a switch from
# Unmanaged to Proxy and Local, keeps what it has without a Secret, without an API server and after its own end, and goes back.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"
# shellcheck source=tests/interop/real-deckhouse.sh
source "$(dirname "$0")/real-deckhouse.sh"

need helm docker-registry htpasswd python3 systemctl
[[ -x /lib/systemd/systemd && -f /lib/systemd/system/containerd.service ]] || skip "can't get systemd, or Debian's unit of containerd"
cd "$INTEROP_SCRIPTS/../.."
own_machine

readonly NODE=other-1 ANNOTATION=registry.deckhouse.io/version LABEL=node.deckhouse.io/containerd-config-registry
readonly HOSTS=/etc/containerd/registry.d COPY=/etc/kubernetes/d8-registry-node-agent/copy.json
readonly OLD="[$REGISTRY_TABLE.mirrors.\"$UPSTREAM\"]
      endpoint = [\"http://$UPSTREAM\"]"

says() { # VERSION LABEL
    [[ $(k get node "$NODE" -o json | jq -r --arg annotation "$ANNOTATION" --arg mark "$LABEL" \
        '.metadata | "\(.annotations[$annotation]) \(.labels[$mark])"') == "$1 $2" ]]
}
labelled() { [[ $(k get node "$NODE" -o json | jq -r --arg mark "$LABEL" '.metadata.labels[$mark]') == "$1" ]]; }
# has_answered: with the version of what it was given.
has_answered() { says "$(secret registry-bashible-config config | sed -n 's/^version: *//p' | tr -d "\"'")" default; }
event() { # REASON WORDS
    k -n default get events -o json | jq -e --arg node "$NODE" --arg reason "$1" --arg words "$2" \
        'any(.items[]; .involvedObject.kind == "Node" and .involvedObject.name == $node and .reason == $reason and (.message | contains($words)))'
}
figure() { on "$NODE" curl -fsS --max-time 5 http://127.0.0.1:5009/metrics | awk -v name="d8_registry_node_agent_$1" '$1 == name { print $2 }'; }
shows() { [[ $(figure "$1") == "$2" ]]; }
pulls_the_image() { shows 'pull_ok{check="manifest"}' 1 && shows 'pull_ok{check="blob"}' 1; }
names_mirror() { on "$NODE" grep -qs "\"https\\?://$1\"" "$HOSTS/$2/hosts.toml"; }
containerd_pid() { on "$NODE" systemctl show --property=MainPID --value containerd; }
agent() { k -n d8-system get pods -l component=registry-node-agent -o json | jq -c '.items[0]'; }
agent_ready() { agent | jq -e '.status.conditions | any(.type == "Ready" and .status == "True")'; }
# agent_process prints its number as the node counts.
agent_process() {
    local process
    for process in $(on "$NODE" ctr -n k8s.io tasks ls | awk '$3 == "RUNNING" { print $2 }'); do
        ! on "$NODE" cat "/proc/$process/cmdline" | tr '\0' ' ' | grep -q 'd8-registry node-agent' || echo "$process"
    done
}
# other_pulls: an image by the name that Deckhouse gives it now; each one once.
number=0
other_pulls() {
    number=$((number % 6 + 1))
    pulls "$NODE" "other-$number" "$(secret deckhouse-registry address)$(secret deckhouse-registry path)/app:v$number" deckhouse-registry
}
# ask_as TOKEN METHOD PATH PATCH prints the answer of the API server.
ask_as() {
    curl -sS --cacert "$KUBE_DIR/pki/ca.crt" -H "Authorization: Bearer $1" -X "$2" -H 'Content-Type: application/merge-patch+json' \
        --data-binary "$4" "https://$OUTSIDE:$(<"$KUBE_DIR/port")/$3"
}

say "a master of Deckhouse's, and a node of nobody's with a containerd as it was before"
first_images
app_images 6
start_upstream
fill_upstream
start_control_plane
prepare_cluster
prepare_deckhouse
make_node master-1 1
import_ours master-1
upstream_files master-1
join master-1 master
preflight master-1
make_node "$NODE" 2 systemd
import_ours "$NODE"
write_containerd "$NODE" "$OLD"
on "$NODE" systemctl restart containerd
await on "$NODE" ctr version
join "$NODE"
touch "$CLUSTER/still"
begin_roles
await_for 30 k -n apps get secret deckhouse-registry
other_pulls

say "the chart: its agent runs there and not at Deckhouse's, with few rights, and says what is in the way"
pinned=$(jq -r '.manifests[0].digest' "$CLUSTER/app-1/index.json")
install_release --set mode=Unmanaged --set nodeAgent.enabled=true --set nodeAgent.restartContainerd=true --set-string "nodeAgent.image=@$pinned"
await_for 120 controllers_ready
await_for 60 agent_ready
same "$(k -n d8-system get pods -l component=registry-node-agent -o json | jq -r '[.items[].spec.nodeName] | join(" ")')" "$NODE" "nodes with an agent"
await_for 30 says unknown custom
await_for 30 event ContainerdConfigInTheWay 'etc/containerd/config.toml'
PROCESS=$(agent_process)
state() { on "$NODE" awk -v name="$1:" '$1 == name { print $2 }' "/proc/$PROCESS/status"; }
same "$(state Uid) $(state CapEff) $(state NoNewPrivs) $(state Seccomp)" "0 0000000000000003 1 2" "user, capabilities, no new privileges and seccomp"
on "$NODE" awk '$5 == "/" && $6 ~ /^ro/ { found = 1 } END { exit !found }' "/proc/$PROCESS/mountinfo" || fail "its root can be written"
same "$(on "$NODE" readlink "/proc/$PROCESS/ns/pid" "/proc/$PROCESS/ns/net" | xargs)" "$(on "$NODE" readlink /proc/1/ns/pid /proc/1/ns/net | xargs)" "its namespaces"
token=$(on "$NODE" cat "/proc/$PROCESS/root/var/run/secrets/kubernetes.io/serviceaccount/token")
ask_as "$token" PATCH "api/v1/nodes/$NODE?dryRun=All" "{\"metadata\": {\"annotations\": {\"$ANNOTATION\": \"x\"}}}" >"$WORK/answer"
same "$(jq -r .kind "$WORK/answer")" Node "its own word of its own Node"
refuses() { # WORDS PATH PATCH
    ask_as "$token" PATCH "$2" "$3" >"$WORK/answer"
    [[ $(jq -r .kind "$WORK/answer") == Status ]] && grep -q "$1" "$WORK/answer" || fail "not refused with '$1': $(<"$WORK/answer")"
}
refuses 'writes of the Node alone' api/v1/nodes/master-1 "{\"metadata\": {\"annotations\": {\"$ANNOTATION\": \"x\"}}}"
refuses 'no label but' "api/v1/nodes/$NODE" '{"metadata": {"labels": {"node.deckhouse.io/group": "master"}}}'

say "Unmanaged with a registry waits for it; its configuration is mended, and the agent has it restarted; containers go on"
ask_for Unmanaged "$(upstream_settings)"
held() { "$INTEROP_SERVER" switch status 2>&1 | grep -A3 'ContainerdConfigPreflightReady' | grep -q "$NODE"; }
await_for 60 held
before=$(containerd_pid)
write_containerd "$NODE"
restarted() { local now; now=$(containerd_pid) && [[ $now != "$before" && $now != 0 ]]; }
await_for 100 restarted
await_for 60 is_ready "$NODE"
await_for 100 labelled default
same "$(on "$NODE" systemctl show --property=NRestarts --value containerd)" 1 "restarts by systemd"
same "$(agent_process)" "$PROCESS" "the agent's process"
mended=$(containerd_pid)
reached Unmanaged
has_answered || fail "it has not answered: $(k get node "$NODE" -o json | jq -c .metadata)"
names_mirror "$UPSTREAM" "$UPSTREAM" || fail "no mirror"
await_for 30 pulls_the_image
other_pulls

say "Proxy, then Local"
mode_is Proxy "$(upstream_settings)"
names_mirror 127.0.0.1:5001 "${SERVED%%/*}" || fail "no mirror of Proxy"
await_for 30 pulls_the_image
other_pulls
ask_for Local '{}'
fill_local
reached Local
await_for 30 pulls_the_image
other_pulls
same "$(containerd_pid) $(agent_process)" "$mended $PROCESS" "containerd and the agent after two switches"

say "the Secret is gone, with no controller; the API server is away, the agent is killed, its files are lost: they come from its copy"
controllers=$(k -n d8-system get deployment d8-registry-controller -o 'jsonpath={.spec.replicas}')
k -n d8-system scale deployment d8-registry-controller --replicas=0 >/dev/null
no_controller() { [[ -z $(k -n d8-system get pods -l component=registry-controller -o name) ]]; }
await_for 60 no_controller
k -n d8-system delete secret registry-bashible-config >/dev/null
await_for 120 shows 'problem{kind="source"}' 1
await_for 30 event RegistryConfigNotFollowed 'is gone, and the last one was not that of a settled bare Unmanaged'
names_mirror 127.0.0.1:5001 "${SERVED%%/*}" || fail "its files went with the Secret"
tests/interop/kube-cluster.sh pause "$KUBE_DIR"
on "$NODE" kill -KILL "$PROCESS"
on "$NODE" find "$HOSTS" -mindepth 1 -delete
await_for 60 names_mirror 127.0.0.1:5001 "${SERVED%%/*}"
on "$NODE" ctr -n k8s.io images pull --hosts-dir "$HOSTS/" "$SERVED/app:v1" >/dev/null
on "$NODE" ctr -n k8s.io images rm "$SERVED/app:v1" >/dev/null
await_for 60 shows api_up 0
await_for 30 pulls_the_image
tests/interop/kube-cluster.sh resume "$KUBE_DIR"
await_for 60 is_ready "$NODE"
k -n d8-system scale deployment d8-registry-controller --replicas="$controllers" >/dev/null
await_for 120 controllers_ready
reached Local
await_for 120 shows 'problem{kind="source"}' 0
await_for 60 shows api_up 1
PROCESS=$(agent_process)
same "$(agent | jq -r '.status.containerStatuses[0].restartCount')" 1 "restarts of the agent"
other_pulls

say "the way back: Unmanaged with a registry, bare, and the Secret is deleted before the agent knows that it is settled"
to_unmanaged
other_pulls
k patch moduleconfig deckhouse --type merge -p '{"spec": {"settings": {"registry": {"mode": "Unmanaged", "unmanaged": null}}}}' >/dev/null
bare() { "$INTEROP_SERVER" switch status --json 2>/dev/null | jq -e '.ready and .mode == "Unmanaged"' && ! "$INTEROP_SERVER" switch status | grep -q '^registry:'; }
await_for 120 bare
k -n d8-system delete secret registry-bashible-config >/dev/null
await_for 120 says unknown default
same "$(on "$NODE" find "$HOSTS" -mindepth 1)" "" "files after the way back"
! on "$NODE" test -e "$COPY" || fail "its copy is left"

say "the old configuration pulls"
write_containerd "$NODE" "$OLD"
on "$NODE" systemctl restart containerd
await on "$NODE" ctr version
await_for 60 is_ready "$NODE"
other_pulls
await_for 100 says unknown custom
! k -n d8-system get secret registry-bashible-config 2>/dev/null || fail "registry-bashible-config is back"
nothing_failed
