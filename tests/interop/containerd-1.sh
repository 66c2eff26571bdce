#!/usr/bin/env bash
# containerd 1.6 of Debian, with hosts.toml as on Deckhouse nodes.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"

need containerd ctr
start_server

cat >"$WORK/containerd.toml" <<TOML
version = 2
root = "$WORK/root"
state = "$WORK/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$WORK/containerd.sock"
[ttrpc]
  address = "$WORK/containerd.ttrpc"
TOML
CTR=(ctr --address "$WORK/containerd.sock")
c() { "${CTR[@]}" "$@"; }
start_containerd containerd "$WORK/containerd.toml"
c version
push_and_pull
