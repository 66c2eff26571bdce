#!/usr/bin/env bash
# containerd 2.x built from its Go module: pulls through the transfer service with parallel layer
# fetch on, so that it asks for ranges.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"

need containerd2 ctr2
start_server

cat >"$WORK/containerd.toml" <<TOML
version = 3
root = "$WORK/root"
state = "$WORK/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$WORK/containerd.sock"
[ttrpc]
  address = "$WORK/containerd.ttrpc"
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 4
  concurrent_layer_fetch_buffer = 1048576
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "native"
    differ = "walking"
TOML
CTR=(ctr2 --address "$WORK/containerd.sock")
c() { "${CTR[@]}" "$@"; }
start_containerd containerd2 "$WORK/containerd.toml"
c version
push_and_pull

ranges=$(grep -c '"status":206' "$SERVER_LOG" || true)
say "$ranges ranges were served"
((ranges >= 8)) || fail "parallel layer fetch asked for $ranges ranges only"
