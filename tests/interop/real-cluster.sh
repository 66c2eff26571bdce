#!/usr/bin/env bash
# A cluster with real kubelets: the chart brings a Local onto its master, from an image that the registry itself serves, static
# pods are placed by the chart's DaemonSets, and a Deployment on both nodes pulls through node-proxy.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/kubernetes.sh
source "$(dirname "$0")/kubernetes.sh"
# shellcheck source=tests/interop/real-nodes.sh
source "$(dirname "$0")/real-nodes.sh"
# shellcheck source=tests/interop/real-release.sh
source "$(dirname "$0")/real-release.sh"

need helm
cd "$INTEROP_SCRIPTS/../.."
own_machine

say "images"
first_images
app_images 2

say "a control plane and a master"
start_control_plane
prepare_cluster
make_node master-1 1
join master-1 master

say "the chart, in Local"
import_ours master-1
install_release --set mode=Local,image.pullSecrets=null
await_for 90 serves master-1
push_image "$CLUSTER/registry/oci:$OURS_VERSION" d8-registry
push_image "$CLUSTER/app-1:v1" app:v1
push_image "$CLUSTER/app-2:v2" app:v2
node_files master-1

say "a worker joins: it pulls node-proxy from the master itself, then all else through it"
make_node worker-1 2
node_files worker-1
join worker-1 worker
await_for 90 answers worker-1
await_for 60 answers master-1
deploy app 4 v1
await_for 60 rolled_out app
on_every_node app || fail "app does not run on every node"
roll app v2
await_for 60 rolled_out app
nothing_failed
pulled_as ro app v2
