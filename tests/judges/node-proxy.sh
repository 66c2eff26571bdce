#!/usr/bin/env bash
# containerd pulls through node-proxy over two servers with the same content while one of them dies:
# it is killed, or its network is gone without a word. Both pulls have to succeed.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"

need containerd ctr skopeo ip tc nsenter unshare

# A network of its own: nothing of this machine's is touched, and it goes with the judge.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up

readonly LAYERS=4 LAYER_BYTES=$((24 * 1024 * 1024))
readonly BIG=$REPO/big

# A node for a server: a network namespace at the other end of a cable. node NAME ADDRESS
node() {
    local name=$1 address=$2
    unshare --net sleep infinity &
    NODE=$!
    DAEMONS+=("$NODE")
    # The namespace is another than ours as soon as unshare has become sleep.
    await grep -q sleep "/proc/$NODE/comm"
    ip link add "$name" type veth peer name eth0 netns "$NODE"
    ip address add "${address%.*}.1/24" dev "$name"
    ip link set "$name" up
    nsenter --net --target "$NODE" ip link set lo up
    nsenter --net --target "$NODE" ip address add "$address/24" dev eth0
    nsenter --net --target "$NODE" ip link set eth0 up
    # Slow enough that there is a middle: a layer takes seconds.
    nsenter --net --target "$NODE" tc qdisc add dev eth0 root tbf rate 60mbit burst 256kb latency 200ms
}

# A server on a node. server NAME ADDRESS
server() {
    node "$1" "$2"
    cat >"$WORK/$1.yaml" <<YAML
mode: Local
listen: $2:5001
adminListen: 127.0.0.1:5002
tls: {certFile: $JUDGES_PKI/tls.crt, keyFile: $JUDGES_PKI/tls.key}
store: {dir: $WORK/$1, reserveBytes: 0}
auth:
  # A token of one server has to be good at the other.
  token: {signingKeyFile: $JUDGES_PKI/token.key, signingCertFile: $JUDGES_PKI/token.crt}
$(write_users config)
log: {format: json, access: all}
YAML
    daemon "$1" nsenter --net --target "$NODE" "$JUDGES_SERVER" serve --config "$WORK/$1.yaml"
    await listens "$2:5001"
}

# An image of layers that can't be compressed, as an OCI layout.
big_image() {
    local layout=$WORK/big i file descriptors=() config
    mkdir -p "$layout/blobs/sha256"
    for ((i = 0; i < LAYERS; i++)); do
        file=$WORK/layer
        mkdir -p "$file.d"
        head -c "$LAYER_BYTES" /dev/urandom >"$file.d/data-$i"
        tar -C "$file.d" -cf "$file" "data-$i"
        rm -r "$file.d"
        put "$file" application/vnd.oci.image.layer.v1.tar
        descriptors+=("$PUT")
    done
    jq -cs '{architecture: "amd64", os: "linux", config: {}, rootfs: {type: "layers", diff_ids: map(.digest)}}' \
        <<<"${descriptors[*]}" >"$WORK/config"
    put "$WORK/config" application/vnd.oci.image.config.v1+json
    config=$PUT
    jq -cn --argjson config "$config" --argjson layers "$(jq -cs . <<<"${descriptors[*]}")" \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: $layers}' \
        >"$WORK/manifest"
    put "$WORK/manifest" application/vnd.oci.image.manifest.v1+json
    BIG_DIGEST=$(jq -r .digest <<<"$PUT")
    jq -cn --argjson manifest "$PUT" --arg tag "$TAG" \
        '{schemaVersion: 2, manifests: [$manifest + {annotations: {"org.opencontainers.image.ref.name": $tag}}]}' \
        >"$layout/index.json"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
}

# put FILE TYPE moves a file into the layout; its descriptor is in PUT.
put() {
    local hex
    hex=$(sha256sum "$1" | cut -d' ' -f1)
    PUT=$(jq -cn --arg type "$2" --arg digest "sha256:$hex" --argjson size "$(stat -c %s "$1")" \
        '{mediaType: $type, digest: $digest, size: $size}')
    mv "$1" "$WORK/big/blobs/sha256/$hex"
}

# push_big ADDRESS: from the server's own side of the cable, the shaping is only outward.
push_big() {
    skopeo copy -q --preserve-digests --dest-cert-dir "$(certs_dir)" --dest-creds "$RW" --dest-tls-verify=false \
        "oci:$WORK/big:$TAG" "docker://$1:5001/$BIG:$TAG"
}

# start_proxy BACKEND... sets REGISTRY, PROXY, PROXY_LOG.
start_proxy() {
    REGISTRY=127.0.0.1:$(free_port)
    PROXY_LOG=$JUDGES_LOGS/$JUDGE.proxy.log
    daemon proxy "$JUDGES_SERVER" node-proxy --listen "$REGISTRY" --backend-tls "${@/#/--backend=}"
    PROXY=$DAEMON
    await listens "$REGISTRY"
    await ups "$#"
}

ups() { (($(grep -c '"backend is up"' "$PROXY_LOG") >= $1)); }

# Bytes that came through a cable.
received() { ip -s -j link show "$1" | jq '.[0].stats64.rx.bytes'; }

# in_the_middle CABLE FROM: some MiB of the pull came through it; one layer alone has four times as much.
in_the_middle() { (($(received "$1") - $2 > 6 * 1024 * 1024)); }

# pull_while CABLE COMMAND... pulls, and runs the command when the cable's server is in the middle of it.
pull_while() {
    local cable=$1 begin pull status=0
    shift
    begin=$(received "$cable")
    c images pull --hosts-dir "$(node_hosts '"pull", "resolve"')" --user "$RO" --snapshotter native \
        "$ADDRESS/$BIG:$TAG" >"$JUDGES_LOGS/$JUDGE.pull.log" 2>&1 &
    pull=$!
    await in_the_middle "$cable" "$begin"
    kill -0 "$pull" 2>/dev/null || fail "the pull ended before its middle: $(tail -n 5 "$JUDGES_LOGS/$JUDGE.pull.log")"
    say "now: $*"
    "$@"
    wait "$pull" || status=$?
    ((status == 0)) || fail "the pull failed: $(tail -c 2000 "$JUDGES_LOGS/$JUDGE.pull.log")"
    same "$(c images ls "name==$ADDRESS/$BIG:$TAG" | awk 'NR == 2 { print $3 }')" "$BIG_DIGEST" "pulled image"
    c images check | tee "$WORK/check"
    same "$(grep -c ' complete ' "$WORK/check")" 1 "images that are whole"
}

forget_images() {
    c images rm --sync "$ADDRESS/$BIG:$TAG" >/dev/null
    c content ls -q | xargs -r -n1 "${CTR[@]}" content rm >/dev/null
}

# How often the second server was asked for the rest of a layer.
resumed() {
    jq -rR 'fromjson? | select(.method == "GET" and .status == 206) | .reference' "$JUDGES_LOGS/$JUDGE.master-2.log" | wc -l
}

end_all() {
    local status=$? one
    for one in "${DAEMONS[@]}"; do
        kill -KILL "$one" 2>/dev/null || true
    done
    exit "$status"
}
trap end_all EXIT

big_image
server master-1 10.111.1.2
first=$DAEMON first_node=$NODE
server master-2 10.111.2.2
push_big 10.111.1.2
push_big 10.111.2.2
containerd_of nodes

say "a server is killed in the middle of a pull"
start_proxy 10.111.1.2:5001 10.111.2.2:5001
pull_while master-1 kill -KILL "$first"
after_kill=$(resumed)
((after_kill > 0)) || fail "nothing was resumed"
grep '"backend is down"' "$PROXY_LOG" | grep -q 10.111.1.2 || fail "the killed server is not down"
forget_images

say "it comes back"
before=$(grep -c '"backend is up"' "$PROXY_LOG")
daemon master-1 nsenter --net --target "$first_node" "$JUDGES_SERVER" serve --config "$WORK/master-1.yaml"
await ups $((before + 1))

say "a server falls silent in the middle of a pull"
began=$SECONDS
pull_while master-1 nsenter --net --target "$first_node" ip link set eth0 down
grep '"a backend broke a connection"' "$PROXY_LOG" | grep 10.111.1.2 | grep -q 'timed out' || fail "silence was not noticed"
(($(resumed) > after_kill)) || fail "nothing was resumed"
say "pulled in $((SECONDS - began)) s"

say "node-proxy ends as it should"
ended=0
kill -TERM "$PROXY"
wait "$PROXY" || ended=$?
same "$ended" 0 "status of node-proxy on SIGTERM"
