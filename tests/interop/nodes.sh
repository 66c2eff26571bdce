# shellcheck shell=bash
# Shared by the interop tests of the node's side: servers on machines of their own at the end of slow cables, an image large
# enough that a pull has a middle, and a pull in whose middle something happens. Sourced after harness.sh, containerd.sh
# and pulling.sh.

# Layers of the image, the bytes of each, and how fast a server's cable is; set before big_image and node.
LAYERS=4 LAYER_BYTES=$((24 * 1024 * 1024)) CABLE_RATE=60mbit
# The image as containerd names it, and how containerd pulls it.
BIG='' PULL=()
# A pull is in its middle when this much has come through a server's cable; a layer has more.
MIDDLE=$((6 * 1024 * 1024))

# own_network runs the test in a network of its own: nothing of this machine's is touched, and it goes with the test.
own_network() {
    if [[ -z ${OWN_NETWORK:-} ]]; then
        OWN_NETWORK=1 exec unshare --net "$0"
    fi
    ip link set lo up
}

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
    nsenter --net --target "$NODE" tc qdisc add dev eth0 root tbf rate "$CABLE_RATE" burst 256kb latency 200ms
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

# start_proxy ADDRESS BACKEND... sets REGISTRY, PROXY, PROXY_LOG.
start_proxy() {
    REGISTRY=$1
    shift
    PROXY_LOG=$INTEROP_LOGS/$INTEROP_NAME.proxy.log
    daemon proxy "$INTEROP_SERVER" node-proxy --listen "$REGISTRY" --backend-tls "${@/#/--backend=}"
    # shellcheck disable=SC2034,SC2153 # for the tests; set by daemon
    PROXY=$DAEMON
    await listens "$REGISTRY"
    await ups "$#"
}

ups() { (($(grep -c '"backend is up"' "$PROXY_LOG") >= $1)); }

# Bytes that came through a cable.
received() { ip -s -j link show "$1" | jq '.[0].stats64.rx.bytes'; }

# in_the_middle CABLE FROM: enough of the pull came through it.
in_the_middle() { (($(received "$1") - $2 > MIDDLE)); }

# middle_or_end CABLE FROM PULL: or the pull is over, which pull_while then tells.
middle_or_end() { in_the_middle "$1" "$2" || ! kill -0 "$3"; }

# pull_while CABLE COMMAND... pulls, and runs the command when the cable's server is in the middle of it.
pull_while() {
    local cable=$1 begin pull status=0
    shift
    begin=$(received "$cable")
    c images pull "${PULL[@]}" --snapshotter native "$BIG" >"$INTEROP_LOGS/$INTEROP_NAME.pull.log" 2>&1 &
    pull=$!
    await middle_or_end "$cable" "$begin" "$pull"
    kill -0 "$pull" 2>/dev/null || fail "the pull ended before its middle: $(tail -n 5 "$INTEROP_LOGS/$INTEROP_NAME.pull.log")"
    say "now: $*"
    "$@"
    wait "$pull" || status=$?
    ((status == 0)) || fail "the pull failed: $(tail -c 2000 "$INTEROP_LOGS/$INTEROP_NAME.pull.log")"
    same "$(c images ls "name==$BIG" | awk 'NR == 2 { print $3 }')" "$BIG_DIGEST" "pulled image"
    c images check | tee "$WORK/check"
    same "$(grep -c ' complete ' "$WORK/check")" 1 "images that are whole"
}

forget_images() {
    c images rm --sync "$BIG" >/dev/null
    c content ls -q | xargs -r -n1 "${CTR[@]}" content rm >/dev/null
}

# How often the second server was asked for the rest of a layer.
resumed() {
    jq -rR 'fromjson? | select(.method == "GET" and .status == 206) | .reference' "$INTEROP_LOGS/$INTEROP_NAME.master-2.log" | wc -l
}

end_all() {
    local status=$? one
    for one in "${DAEMONS[@]}"; do
        kill -KILL "$one" 2>/dev/null || true
    done
    exit "$status"
}
