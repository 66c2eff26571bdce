#!/usr/bin/env bash
# Two kinds of containerd pull by what node-config wrote and by nothing else: through node-proxy on the node's own address,
# in Direct, Proxy and Local, while one of two masters is killed; then in a transition, and straight from an upstream.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"
source "$(dirname "$0")/nodes.sh"

need containerd ctr containerd2 ctr2 docker-registry htpasswd skopeo ip tc nsenter unshare

own_network
trap end_all EXIT

# The authority has to come from the files that are written.
unset SSL_CERT_FILE

LAYERS=3 LAYER_BYTES=$((12 * 1024 * 1024)) MIDDLE=$((4 * 1024 * 1024)) CABLE_RATE=80mbit
BIG=$ADDRESS/system/deckhouse/big:$TAG
readonly NODE_ROOT=$WORK/node MASTERS=(10.111.1.2 10.111.2.2) UPSTREAM_AT=10.111.0.1:5555

node_config() { "$INTEROP_SERVER" node-config --root "$NODE_ROOT" --config "$WORK/node.yaml" "$@"; }

# want HOST MIRROR... writes what the node is to have, a mirror is a mapping of YAML, and applies it.
want() {
    local mirror version
    printf '%shosts:\n  "%s":\n    mirrors:\n' "${CONTAINERD:-}" "$1" >"$WORK/node.yaml"
    shift
    for mirror; do
        echo "      - $mirror" >>"$WORK/node.yaml"
    done
    version=$(node_config)
    ((${#version} == 64)) || fail "no version: $version"
    same "$(node_config)" "$version" "version of what is there already"
    PULL=(--hosts-dir "$NODE_ROOT/etc/containerd/registry.d")
}

# The node's own address as a mirror, for USER:PASSWORD.
own_mirror() {
    echo "{host: '$REGISTRY', scheme: https, ca: $(jq -Rs . <"$CA"), auth: {username: '${1%%:*}', password: '${1#*:}'}}"
}

# master NUMBER MODE starts the server of a master on what it has.
master() {
    local name=master-$1 users address=${MASTERS[$1 - 1]}
    users=$(write_users config)
    [[ $2 != Direct ]] || users='  upstreamUser: true'
    cat >"$WORK/$name.yaml" <<YAML
mode: $2
listen: $address:5001
adminListen: 127.0.0.1:5002
tls: {certFile: $INTEROP_PKI/tls.crt, keyFile: $INTEROP_PKI/tls.key}
store: {dir: $WORK/$name-$2, reserveBytes: 0}
auth:
  token: {signingKeyFile: $INTEROP_PKI/token.key, signingCertFile: $INTEROP_PKI/token.crt}
$users
log: {format: json, access: all}
upstream: {imagesRepo: '$UPSTREAM_AT/$REPO', scheme: HTTP, username: '${LICENSE%%:*}', password: '${LICENSE#*:}'}
YAML
    daemon "$name" nsenter --net --target "${NODES[$1 - 1]}" "$INTEROP_SERVER" serve --config "$WORK/$name.yaml"
    SERVERS[$1]=$DAEMON
    await listens "$address:5001"
}

# by GENERATION lets c be a containerd of that generation.
by() {
    CTR=(ctr --address "$WORK/one.sock")
    [[ $1 == 1 ]] || CTR=(ctr2 --address "$WORK/two.sock")
}

containerd2_of() {
    cat >"$WORK/$1.toml" <<TOML
version = 3
root = "$WORK/$1.root"
state = "$WORK/$1.state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$WORK/$1.sock"
[ttrpc]
  address = "$WORK/$1.ttrpc"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "native"
  differ = "walking"
TOML
    start_containerd containerd2 "$WORK/$1.toml"
}

# pull_in_mode MODE USER: by each containerd, the first master killed in the middle of it.
pull_in_mode() {
    local generation ups_before resumed_before
    want "$ADDRESS" "$(own_mirror "$2")"
    for generation in 1 2; do
        by "$generation"
        if ((generation == 2)); then
            ups_before=$(grep -c '"backend is up"' "$PROXY_LOG")
            master 1 "$1"
            await ups $((ups_before + 1))
        fi
        say "$1, containerd $generation: a master is killed in the middle of a pull"
        resumed_before=$(resumed)
        pull_while master-1 kill -KILL "${SERVERS[1]}"
        (($(resumed) > resumed_before)) || fail "nothing was resumed"
        forget_images
    done
}

# begin_mode MODE starts both masters and the balancer before them.
begin_mode() {
    master 1 "$1"
    master 2 "$1"
    : >"$INTEROP_LOGS/$INTEROP_NAME.proxy.log"
    start_proxy 127.0.0.1:5001 "${MASTERS[@]/%/:5001}"
}

end_mode() {
    # The first master is dead already.
    kill -KILL "$PROXY" "${SERVERS[2]}"
    wait "$PROXY" "${SERVERS[@]}" || true
}

# pull_small REF GENERATION... pulls a small image by these containerds.
pull_small() {
    local ref=$1 generation
    shift
    for generation; do
        by "$generation"
        quietly c images pull "${PULL[@]}" --snapshotter native "$ref"
        same "$(c images ls "name==$ref" | awk 'NR == 2 { print $3 }')" "$(digest_of image)" "pulled by containerd $generation"
        c images rm --sync "$ref" >/dev/null
        c content ls -q | xargs -r -n1 "${CTR[@]}" content rm >/dev/null
    done
}

# An upstream that all masters see, with a password.
ip address add "${UPSTREAM_AT%:*}/32" dev lo
SERVERS=() NODES=()
for number in 1 2; do
    node "master-$number" "${MASTERS[number - 1]}"
    NODES+=("$NODE")
    nsenter --net --target "$NODE" ip route add default via "10.111.$number.1"
done
cat >"$WORK/upstream.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $WORK/upstream}}
http: {addr: "$UPSTREAM_AT"}
auth: {htpasswd: {realm: upstream, path: $(htpasswd_file)}}
YAML
daemon upstream docker-registry serve "$WORK/upstream.yml"
await listens "$UPSTREAM_AT"
big_image
for layout in "$WORK/big:$TAG big" "$INTEROP_IMAGES/image:$TAG app-image"; do
    skopeo copy -q --preserve-digests --dest-tls-verify=false --dest-creds "$LICENSE" \
        "oci:${layout% *}" "docker://$UPSTREAM_AT/$REPO/${layout#* }:$TAG"
done
by 1
containerd_of one
by 2
containerd2_of two

say "--check and the configurations that containerd itself prints"
mkdir -p "$NODE_ROOT/etc/containerd"
main=$NODE_ROOT/etc/containerd/config.toml
printf 'hosts: {}\n' >"$WORK/node.yaml"
containerd config default >"$main" 2>/dev/null
same "$(node_config --check | grep -c 'registry.config_path is not set')" 1 "findings in the default of containerd 1"
sed -i 's|config_path = ""|config_path = "/etc/containerd/registry.d"|' "$main"
node_config --check
containerd2 config default >"$main" 2>/dev/null
same "$(node_config --check | grep -c 'registry.config_path is not set')" 1 "findings in the default of containerd 2"
sed -i "s|config_path = ''|config_path = '/etc/containerd/registry.d'|" "$main"
node_config --check

begin_mode Direct
pull_in_mode Direct "$LICENSE"
end_mode

begin_mode Proxy
pull_in_mode Proxy "$RO"
end_mode

begin_mode Local
for master in "${MASTERS[@]}"; do
    for layout in "$WORK/big:$TAG big" "$INTEROP_IMAGES/image:$TAG app-image"; do
        skopeo copy -q --preserve-digests --dest-creds "$RW" --dest-tls-verify=false \
            "oci:${layout% *}" "docker://$master:5001/system/deckhouse/${layout#* }:$TAG"
    done
done
pull_in_mode Local "$RO"

say "a transition: the old source is asked first, the new one has it"
old="{host: '$UPSTREAM_AT', scheme: http, auth: {username: '${LICENSE%%:*}', password: '${LICENSE#*:}'}}"
want "$ADDRESS" "$old" "$(own_mirror "$RO")"
pull_small "$IMAGE-image:$TAG" 1 2
asked=$(grep -c '"HEAD /v2/system/deckhouse/app-image/manifests/v1?ns=registry.d8-system.svc[^ ]* HTTP/1.1" 404' \
    "$INTEROP_LOGS/$INTEROP_NAME.upstream.log" || true)
same "$asked" 2 "how often the old source was asked"
want "$ADDRESS" "$(own_mirror "$RO")"
pull_small "$IMAGE-image:$TAG" 1
asked=$(grep -c '"HEAD /v2/system/deckhouse/app-image/manifests/' "$INTEROP_LOGS/$INTEROP_NAME.upstream.log" || true)
same "$asked" 2 "how often the old source was asked in the end"

say "an address of IPv6 that nobody answers at, before one that works"
for generation in 1 2; do
    CONTAINERD="containerd: {version: v$generation}"$'\n' want "$ADDRESS" "{host: '[::1]:9', scheme: http}" "$(own_mirror "$RO")"
    pull_small "$IMAGE-image:$TAG" "$generation"
done
want "$ADDRESS" "$(own_mirror "$RO")"

say "Unmanaged: the folder of the upstream itself, and no other"
want "$UPSTREAM_AT" "$old"
same "$(find "$NODE_ROOT/etc/containerd/registry.d" -mindepth 1 -maxdepth 1 -type d -printf '%f ')" "$UPSTREAM_AT " "folders"
pull_small "$UPSTREAM_AT/$REPO/app-image:$TAG" 1 2
same "$(stat -c %a "$NODE_ROOT/etc/containerd/registry.d/$UPSTREAM_AT/hosts.toml")" 600 "permissions of a file with a login"
