#!/usr/bin/env bash
# containerd 2.x through a Proxy: parallel layer fetch asks for ranges of blobs that are not there
# yet, and drops open-ended ones after a chunk.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"

need docker-registry skopeo containerd2 ctr2

distribution upstream ""
upstream=$DAEMON
fill "$UP" --dest-tls-verify=false
UPSTREAM="imagesRepo: '$UP/$REPO', scheme: HTTP"
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
start_containerd containerd2 "$WORK/containerd.toml"

pull_by_containerd "$RO"
ranges=$(grep -c '"status":206' "$SERVER_LOG" || true)
say "$ranges ranges were served"
((ranges >= 8)) || fail "parallel layer fetch asked for $ranges ranges only"
never_twice "$INTEROP_LOGS/$INTEROP_NAME.upstream.log"
partial=$(grep -cE '"GET /v2/[^ ]*/blobs/[^ ]+ HTTP/[0-9.]+" 206' "$INTEROP_LOGS/$INTEROP_NAME.upstream.log" || true)
same "$partial" 0 "ranges that the upstream was asked for"
errors=$(curl -fsS "http://127.0.0.1:$ADMIN_PORT/metrics" | grep '^d8_registry_fill_errors_total' | grep -vc ' 0$' || true)
same "$errors" 0 "kinds of fill errors"

say "killed: everything is pulled again, by tag"
kill -KILL "$upstream"
wait "$upstream" || true
pull_by_containerd "$RO"
