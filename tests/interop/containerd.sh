# shellcheck shell=bash
# Shared by the interop tests of both containerd versions: the directory layout of Deckhouse nodes, and one
# push, pull and refusal through it. Sourced after harness.sh.

# On a node the images are named for the in-cluster address, and containerd goes to the balancer
# on loopback instead; so it sends `?ns=registry.d8-system.svc:5001` with each request.
readonly ADDRESS=registry.d8-system.svc:5001
readonly IMAGE=$ADDRESS/system/deckhouse/app

# node_hosts CAPABILITIES prints a folder like /etc/containerd/registry.d of a Deckhouse node.
node_hosts() {
    local folder=$WORK/registry.d-${1//[^a-z]/-}
    mkdir -p "$folder/$ADDRESS"
    cp "$CA" "$folder/$ADDRESS/https-$REGISTRY-ca.crt"
    cat >"$folder/$ADDRESS/hosts.toml" <<TOML
[host]
  [host."https://$REGISTRY"]
    capabilities = [$1]
    ca = ["$folder/$ADDRESS/https-$REGISTRY-ca.crt"]
TOML
    echo "$folder"
}

# start_containerd COMMAND CONFIG
start_containerd() {
    "$1" --config "$2" >"$INTEROP_LOGS/$INTEROP_NAME.daemon.log" 2>&1 &
    DAEMONS+=($!)
    await c version
}

# quietly COMMAND... leaves out the progress bars.
quietly() { "$@" >/dev/null; }

# push_and_pull pushes and pulls with the function c, which is ctr with its address.
push_and_pull() {
    local nodes pushers layout
    nodes=$(node_hosts '"pull", "resolve"')
    pushers=$(node_hosts '"pull", "resolve", "push"')
    for layout in image index; do
        tar -C "$INTEROP_IMAGES/$layout" -cf "$WORK/$layout.tar" blobs index.json oci-layout
        c images import --base-name "$IMAGE-$layout" --all-platforms --no-unpack "$WORK/$layout.tar"
        quietly c images push --hosts-dir "$pushers" --user "$RW" "$IMAGE-$layout:$TAG"
        c images rm --sync "$IMAGE-$layout:$TAG"
    done

    say "a reader pulls"
    c content ls -q | xargs -r -n1 "${CTR[@]}" content rm
    quietly c images pull --hosts-dir "$nodes" --user "$RO" --snapshotter native "$IMAGE-image:$TAG"
    quietly c images pull --hosts-dir "$nodes" --user "$RO" --snapshotter native --all-platforms "$IMAGE-index:$TAG"
    same "$(c images ls "name==$IMAGE-image:$TAG" | awk 'NR == 2 { print $3 }')" "$(digest_of image)" "pulled image"
    same "$(c images ls "name==$IMAGE-index:$TAG" | awk 'NR == 2 { print $3 }')" "$(digest_of index)" "pulled index"
    c images check | tee "$WORK/check"
    same "$(grep -c complete "$WORK/check")" 2 "images that are whole"

    say "a reader does not push, and nobody comes in with a wrong password"
    c images tag "$IMAGE-image:$TAG" "$IMAGE-image:v2"
    refused c images push --hosts-dir "$pushers" --user "$RO" "$IMAGE-image:v2"
    same "$(api "$RO" HEAD /v2/system/deckhouse/app-image/manifests/v2)" 404 "HEAD of what a reader pushed"
    refused c images pull --hosts-dir "$nodes" --user ro:wrong "$IMAGE-image:v3"
}
