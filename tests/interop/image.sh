#!/usr/bin/env bash
# The container image: built without a base image, twice with the same digest, pushed into our Local,
# pulled by containerd and run there, as its user and on a read-only root. In it names are resolved by
# /etc/hosts and by DNS, and the system's certificate authorities are found.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"

need buildah skopeo containerd ctr runc dnsmasq ip jq cargo strip crane

# A network of its own: the container shares it, and a name server can have port 53.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up
# The state of running containers is always in this folder; that of others, and what a killed test left, is not ours.
mkdir -p /run/containerd
mount -t tmpfs none /run/containerd
readonly NAMES=127.0.0.53 OWNER=64535

say "the same binary gives the same image, whatever the age and order of files"
# Cargo's folders are in the home of who built; only its lists are read here.
builder=$(getent passwd "${SUDO_USER:-$(id -un)}" | cut -d: -f6)
export CARGO_HOME=${CARGO_HOME:-$builder/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$builder/.rustup} CARGO_NET_OFFLINE=true
# The size counts for what is released; the tests' binary is hardly optimised.
[[ $INTEROP_SERVER == */release/* ]] || export IMAGE_LIMIT_MIB=80
build=$INTEROP_SCRIPTS/../../deploy/image/build.sh
same "$(sed -n 's/^ARG RUST_VERSION=//p' "$INTEROP_SCRIPTS/../../deploy/Dockerfile")" \
    "$(sed -n 's/^channel = "\(.*\)"/\1/p' "$INTEROP_SCRIPTS/../../rust-toolchain.toml")" "the Dockerfile's version of Rust"
"$build" "$INTEROP_SERVER" "$WORK/first"
cp --no-preserve=all "$INTEROP_SERVER" "$WORK/d8-registry"
chmod 700 "$WORK/d8-registry"
"$build" "$WORK/d8-registry" "$WORK/second"
built() { jq -r '.manifests[0].digest' "$WORK/$1/oci/index.json"; }
DIGEST=$(built first)
same "$(built second)" "$DIGEST" "digest of the second build"
VERSION=$("$INTEROP_SERVER" --version)

say "it lists what is inside"
layer=$(jq -r '.layers[0].digest' "$WORK/first/oci/blobs/${DIGEST/://}")
tar -xOzf "$WORK/first/oci/blobs/${layer/://}" usr/share/sbom/d8-registry.cdx.json >"$WORK/sbom.json"
same "$(jq -r '[.bomFormat, .metadata.component.name, (.components | map(.name) | contains(["rustls", "hyper", "sled"]))] | join(" ")' \
    "$WORK/sbom.json")" "CycloneDX d8-registry true" "what the list names"

say "into our Local, and out of it into containerd"
start_server
name=system/deckhouse/registry
skopeo copy --quiet --dest-cert-dir "$(certs_dir)" --dest-creds "$RW" "oci:$WORK/first/oci:${VERSION##* }" "docker://$REGISTRY/$name:$TAG"
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
quietly c images pull --hosts-dir "$(node_hosts '"pull", "resolve"')" --user "$RO" --snapshotter native "$ADDRESS/$name:$TAG"
same "$(c images ls "name==$ADDRESS/$name:$TAG" | awk 'NR == 2 { print $3 }')" "$DIGEST" "pulled image"

# inside NAME [OPTION...] -- ARGUMENT... runs the program in a container on a root that can't be written.
inside() {
    local container=$1 options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    c run --rm --snapshotter native --read-only --with-ns "network:/proc/self/ns/net" \
        ${options[@]+"${options[@]}"} "$ADDRESS/$name:$TAG" "$container" /usr/bin/d8-registry "${@:2}"
}
same "$(inside version -- --version)" "$VERSION" "version in the container"

# The container sees, besides the image: files that its user may read, and data.
mkdir "$WORK/etc" "$WORK/data"
cp "$CA" "$WORK/etc/ca.crt"
printf %s "${RO#*:}" >"$WORK/etc/password"
chown "$OWNER:$OWNER" "$WORK/data"

# bind FILE PLACE [ro|rw] prints the option of a mount.
bind() { echo "--mount=type=bind,src=$1,dst=$2,options=rbind:${3:-ro}"; }

# serve NAME [OPTION...] starts a server in a container, with the configuration read from standard
# input. Sets INSIDE (its base address) and INNER (the process that waits for it).
serve() {
    local container=$1
    INNER_PORT=$((16000 + RANDOM % 2000 * 2))
    INSIDE=http://127.0.0.1:$INNER_PORT
    {
        printf 'listen: 127.0.0.1:%s\nadminListen: 127.0.0.1:%s\n' "$INNER_PORT" "$((INNER_PORT + 1))"
        cat
    } >"$WORK/etc/$container.yaml"
    chmod -R a+rX "$WORK/etc"
    inside "$container" "$(bind "$WORK/etc" /etc/d8-registry)" "$(bind "$WORK/data" /data rw)" "${@:2}" \
        -- serve --config "/etc/d8-registry/$container.yaml" >>"$INTEROP_LOGS/$INTEROP_NAME.inside.log" 2>&1 &
    INNER=$!
    await ready_inside
    kill -0 "$INNER" || fail "the container $container is gone: $(tail -n 3 "$INTEROP_LOGS/$INTEROP_NAME.inside.log")"
}

# A container that ended will never be ready.
ready_inside() { ! kill -0 "$INNER" || curl -fsS "http://127.0.0.1:$((INNER_PORT + 1))/readyz"; }

# leave NAME ends it as Kubernetes does.
leave() {
    local status=0
    c task kill --signal SIGTERM "$1"
    wait "$INNER" || status=$?
    same "$status" 0 "status of the container $1"
}

say "it serves, as its own user"
serve local <<'YAML'
mode: Local
store: {dir: /data/local, reserveBytes: 0}
auth: {anonymous: push}
YAML
crane push "$INTEROP_IMAGES/image" "${INSIDE#http://}/team/app:$TAG"
crane validate --remote "${INSIDE#http://}/team/app:$TAG"
pid=$(c task ls | awk '$1 == "local" { print $2 }')
same "$(awk '/^(Uid|Gid):/ { print $2 }' "/proc/$pid/status" | sort -u)" "$OWNER" "user and group of the process"
same "$(stat -c %u:%g "$WORK/data/local")" "$OWNER:$OWNER" "owner of the data"
leave local

say "names come from /etc/hosts, and else from a name server"
readonly HOST=upstream.test
printf '127.0.0.1 localhost %s\n' "$HOST" >"$WORK/etc/hosts-with"
printf '127.0.0.1 localhost\n' >"$WORK/etc/hosts-without"
printf 'nameserver %s\noptions timeout:1 attempts:1\n' "$NAMES" >"$WORK/etc/resolv.conf"
dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --user=root --pid-file= \
    --listen-address="$NAMES" --log-queries --log-facility=- --address="/$HOST/127.0.0.1" --local=/test/ \
    >"$INTEROP_LOGS/$INTEROP_NAME.names.log" 2>&1 &
DAEMONS+=($!)
await grep -q started "$INTEROP_LOGS/$INTEROP_NAME.names.log"
asked() { grep -q "query.* $1 " "$INTEROP_LOGS/$INTEROP_NAME.names.log"; }
# resolution with|without sets the options of a container that finds the host's name in its /etc/hosts, or does not.
resolution() { RESOLUTION=("$(bind "$WORK/etc/hosts-$1" /etc/hosts)" "$(bind "$WORK/etc/resolv.conf" /etc/resolv.conf)"); }

# proxy_of NAME HOST [LINE...] prints the configuration of a Proxy in front of that host.
proxy_of() {
    cat <<YAML
mode: Proxy
store: {dir: /data/$1, reserveBytes: 0}
auth: {anonymous: pull}
upstream:
  imagesRepo: $2:$PORT/system/deckhouse
  username: ${RO%%:*}
  passwordFile: /etc/d8-registry/password
$(printf '  %s\n' "${@:3}")
YAML
}
for hosts in with without; do
    resolution "$hosts"
    ! asked "$HOST" || fail "the name server was asked for a name of /etc/hosts"
    serve "$hosts" "${RESOLUTION[@]}" < <(proxy_of "$hosts" "$HOST" 'caFile: /etc/d8-registry/ca.crt')
    same "$(crane digest "${INSIDE#http://}/$name:$TAG")" "$DIGEST" "digest through a Proxy, $hosts a name in /etc/hosts"
    leave "$hosts"
done
asked "$HOST" || fail "the name server was not asked"

# told NAME HOST WORD [LINE...]: a Proxy of that host says why it gets nothing from there.
told() {
    serve "$1" "${RESOLUTION[@]}" < <(proxy_of "$1" "$2" "${@:4}")
    curl -sS -o "$WORK/answer" -w '%{http_code}' "$INSIDE/v2/$name/manifests/$TAG" >"$WORK/status"
    same "$(cat "$WORK/status")" 502 "status from a Proxy of $2"
    grep -qF "$3" "$WORK/answer" || fail "does not say '$3': $(cat "$WORK/answer")"
    leave "$1"
}
say "a name that is nowhere, and a certificate that no authority of the image has signed, are told"
told nowhere nowhere.test "the name nowhere.test can't be looked up" 'caFile: /etc/d8-registry/ca.crt'
told stranger "$HOST" "an authority that is not known here"
