#!/usr/bin/env bash
# The whole way of a cluster: three nodes of which two are masters, from an upstream with a licence (configured Unmanaged) to
# Direct, Proxy, Local and back, by edits of ModuleConfig, while Deployments are rolled on all nodes and a node joins, the licence
# expires, a master dies, certificates and the chart change. No pod may fail to get an image that its source had.
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

say "images, and an upstream that has them"
first_images
app_images 6
start_upstream
fill_upstream

say "a control plane, two masters, a worker; Deckhouse and its users"
start_control_plane
prepare_cluster
prepare_deckhouse
for node in "master-1 1 master" "master-2 2 master" "worker-1 3 worker"; do
    read -r name number role <<<"$node"
    make_node "$name" "$number"
    import_ours "$name"
    upstream_files "$name"
    join "$name" "$role"
    preflight "$name"
done
begin_roles

say "the chart: Unmanaged to begin with"
install_release --set mode=Unmanaged
await_for 120 controllers_ready
mode_is Unmanaged "$(upstream_settings)"

say "Direct"
mode_is Direct "$(upstream_settings)"
nothing_failed

say "Proxy, while a node joins"
ask_for Proxy "$(upstream_settings)"
make_node worker-2 4
import_ours worker-2
bashible_first worker-2
join worker-2 worker
preflight worker-2
reached Proxy
await_for 60 on_every_node app
nothing_failed

say "the licence expires; what was pulled before is served, also to who rolls it out; another licence"
users_rest
store_versions 2
expire_licence
serves_stored
users_go_on
await_rollouts 3
nothing_failed
mode_is Proxy "$(upstream_settings)"
echo 6 >"$CLUSTER/versions"
await_rollouts 2
nothing_failed

say "Local: everything is pushed to one master"
ask_for Local '{}'
fill_local
reached Local
await_rollouts 2
nothing_failed

say "a master dies, with kubelet and server, and comes back"
for node in "${!ADDRESS_OF[@]}"; do probe "$node"; done
kill_master master-1
await_rollouts 4
revive_master master-1
await_for 60 is_ready master-1
await_for 60 serves master-1
await_rollouts 2
nothing_failed
for node in "${!ADDRESS_OF[@]}"; do silence_below "$node" 1500; done

say "certificates rotate, then the chart is upgraded: the servers and node-proxy are made anew, one node after the other"
for node in "${!ADDRESS_OF[@]}"; do probe "$node"; done
before=$(shown_certificate master-1)
k -n d8-system rollout restart daemonset d8-registry-node
await_for 240 daemonsets_done
[[ $(shown_certificate master-1) != "$before" ]] || fail "the certificate is the one before"
change_release --set resources.requests.cpu=6m --set nodeProxy.resources.requests.cpu=2m
await_for 400 daemonsets_done
await_rollouts 2
nothing_failed
for node in "${!ADDRESS_OF[@]}"; do silence_below "$node" 1000; done

say "Unmanaged again"
to_unmanaged
await_rollouts 2
nothing_failed
say "$(grep -c rollout "$CLUSTER/roles.log") rollouts, $(k get events -A -o json | jq '[.items[] | select(.reason == "Pulled")] | length') pulls in events"
