# shellcheck shell=bash
# Shared by the interop tests of Direct and Proxy: real upstreams, what stands between, and pulls by three
# clients. Sourced after harness.sh and containerd.sh.

readonly REPO=deckhouse/ee LICENSE=puller:sesame-of-the-upstream
readonly -a LAYOUTS=(image index)

# A mode of the server under test instead of Local; set before start_server.
MODE=Proxy
# Keys of `upstream` and of `proxy`, as a flow mapping without its braces.
UPSTREAM='' CACHE='tagTtl: 1s, negativeTtl: 0s'

# shellcheck disable=SC2153,SC2317 # called by start_server, which sets the ports
write_config() {
    cat <<YAML
mode: $MODE
listen: 127.0.0.1:$PORT
adminListen: 127.0.0.1:$ADMIN_PORT
tls:
  certFile: $INTEROP_PKI/tls.crt
  keyFile: $INTEROP_PKI/tls.key
store:
  dir: $WORK/store
  reserveBytes: 0
auth:
  token:
    signingKeyFile: $INTEROP_PKI/token.key
    signingCertFile: $INTEROP_PKI/token.crt
$(write_users "${1:-config}")
log:
  format: json
  access: all
upstream: {$UPSTREAM}
proxy: {$CACHE}
YAML
}

# free_port prints one below the range that the kernel gives to outgoing connections.
free_port() {
    local port
    while :; do
        port=$((8000 + RANDOM % 11000))
        (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null || break
    done
    echo "$port"
}

listens() { (: </dev/tcp/"${1%:*}"/"${1##*:}") 2>/dev/null; }

# daemon NAME COMMAND... starts a program; its number is in DAEMON, its output in the logs.
daemon() {
    local name=$1
    shift
    "$@" >>"$INTEROP_LOGS/$INTEROP_NAME.$name.log" 2>&1 &
    DAEMON=$!
    DAEMONS+=("$DAEMON")
}

# end PID ends a daemon of ours now.
end() {
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" || true
}

# distribution NAME EXTRA-YAML starts Debian's docker-registry over the storage of NAME; UP is where.
distribution() {
    UP=127.0.0.1:$(free_port)
    mkdir -p "$WORK/$1"
    cat >"$WORK/$1.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $WORK/$1}}
http: {addr: "$UP"}
$2
YAML
    daemon "$1" docker-registry serve "$WORK/$1.yml"
    await listens "$UP"
}

# fill ADDRESS FLAGS... pushes the images to where upstreams have them.
fill() {
    local address=$1 layout
    shift
    for layout in "${LAYOUTS[@]}"; do
        skopeo copy -q --all --preserve-digests "$@" "oci:$INTEROP_IMAGES/$layout:$TAG" \
            "docker://$address/$REPO/app-$layout:$TAG"
    done
}

htpasswd_file() {
    htpasswd -Bbn "${LICENSE%%:*}" "${LICENSE#*:}" >"$WORK/logins"
    echo "$WORK/logins"
}

# local_upstream starts our own Local behind a token service, with TLS, and fills it.
local_upstream() {
    UP=127.0.0.1:$(free_port)
    cat >"$WORK/upstream.yaml" <<YAML
mode: Local
listen: $UP
adminListen: 127.0.0.1:$(free_port)
tls: {certFile: $INTEROP_PKI/tls.crt, keyFile: $INTEROP_PKI/tls.key}
store: {dir: $WORK/upstream, reserveBytes: 0}
auth:
$(write_users config)
log: {format: json, access: all}
YAML
    daemon upstream "$INTEROP_SERVER" serve --config "$WORK/upstream.yaml"
    await listens "$UP"
    fill "$UP" --dest-cert-dir "$(certs_dir)" --dest-creds "$RW"
}

# self_signed NAME CA writes NAME.crt and NAME.key for upstream.test, CA is TRUE or FALSE.
self_signed() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout "$WORK/$1.key" -out "$WORK/$1.crt" \
        -subj /CN=upstream.test -addext "subjectAltName=DNS:upstream.test,IP:127.0.0.1" \
        -addext "basicConstraints=critical,CA:$2" 2>/dev/null
}

# tls_front NAME BACKEND CERT KEY starts nginx before a registry; UP is where.
tls_front() {
    UP=127.0.0.1:$(free_port)
    mkdir -p "$WORK/$1"
    cat >"$WORK/$1.conf" <<CONF
daemon off;
user root;
pid $WORK/$1/pid;
error_log $INTEROP_LOGS/$INTEROP_NAME.$1.error.log;
events {}
http {
    access_log $INTEROP_LOGS/$INTEROP_NAME.$1.access.log;
    client_body_temp_path $WORK/$1; proxy_temp_path $WORK/$1; fastcgi_temp_path $WORK/$1;
    uwsgi_temp_path $WORK/$1; scgi_temp_path $WORK/$1;
    server {
        listen $UP ssl http2;
        ssl_certificate $3; ssl_certificate_key $4;
        ${5:-}
        location /v2/ { proxy_pass http://$2; proxy_set_header Host \$http_host; proxy_buffering off; }
    }
}
CONF
    daemon "$1" nginx -c "$WORK/$1.conf"
    await listens "$UP"
}

# squid_between USER PASSWORD starts a forward proxy that lets only this user through; GATEWAY is where, SQUID has its logs.
squid_between() {
    GATEWAY=127.0.0.1:$(free_port)
    # squid gives root away and can't look into WORK then.
    SQUID=/mnt
    mount -t tmpfs -o mode=777 tmpfs "$SQUID"
    htpasswd -bcm "$SQUID/users" "$1" "$2" 2>/dev/null
    chmod a+r "$SQUID/users"
    cat >"$SQUID/conf" <<CONF
http_port $GATEWAY
pid_filename none
cache deny all
cache_log $SQUID/cache.log
access_log stdio:$SQUID/access.log
coredump_dir $SQUID
hosts_file /etc/hosts
shutdown_lifetime 0 seconds
auth_param basic program /usr/lib/squid/basic_ncsa_auth $SQUID/users
auth_param basic realm gateway
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
CONF
    daemon squid squid -N -f "$SQUID/conf"
    await listens "$GATEWAY"
}

# own_hosts NAME... makes names stand for 127.0.0.1 in this test's namespace.
own_hosts() {
    { cat /etc/hosts && printf '127.0.0.1 %s\n' "$@"; } >"$WORK/hosts"
    mount --bind "$WORK/hosts" /etc/hosts
}

# containerd_of NAME starts containerd 1.6 with a content store of its own.
containerd_of() {
    cat >"$WORK/$1.toml" <<TOML
version = 2
root = "$WORK/$1.root"
state = "$WORK/$1.state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$WORK/$1.sock"
[ttrpc]
  address = "$WORK/$1.ttrpc"
TOML
    CTR=(ctr --address "$WORK/$1.sock")
    start_containerd containerd "$WORK/$1.toml"
}

c() { "${CTR[@]}" "$@"; }

# pull_by_containerd USER [LAYOUT...] forgets all content and pulls anew, by tag.
pull_by_containerd() {
    local user=$1 nodes layout
    shift
    nodes=$(node_hosts '"pull", "resolve"')
    for layout in "${@:-${LAYOUTS[@]}}"; do
        c images rm --sync "$IMAGE-$layout:$TAG" >/dev/null
    done
    c content ls -q | xargs -r -n1 "${CTR[@]}" content rm >/dev/null
    for layout in "${@:-${LAYOUTS[@]}}"; do
        quietly c images pull --hosts-dir "$nodes" --user "$user" --snapshotter native --all-platforms "$IMAGE-$layout:$TAG"
        same "$(c images ls "name==$IMAGE-$layout:$TAG" | awk 'NR == 2 { print $3 }')" "$(digest_of "$layout")" \
            "$layout pulled by containerd"
    done
}

# pull_by_all USER pulls both images by each client, by tag.
pull_by_all() {
    local user=$1 layout alias=system/deckhouse
    DOCKER_CONFIG=$(docker_config "$user")
    export DOCKER_CONFIG
    for layout in "${LAYOUTS[@]}"; do
        crane validate --remote "$REGISTRY/$alias/app-$layout:$TAG"
        same "$(crane digest "$REGISTRY/$alias/app-$layout:$TAG")" "$(digest_of "$layout")" "$layout seen by crane"
        same "$(crane ls "$REGISTRY/$alias/app-$layout")" "$TAG" "tags of $layout"
        rm -rf "$WORK/skopeo"
        skopeo copy -q --all --preserve-digests --src-cert-dir "$(certs_dir)" --src-creds "$user" \
            "docker://$REGISTRY/$alias/app-$layout:$TAG" "oci:$WORK/skopeo:$TAG"
        same "$(jq -r '.manifests[0].digest' "$WORK/skopeo/index.json")" "$(digest_of "$layout")" "$layout by skopeo"
    done
    pull_by_containerd "$user"
}

# served OUTCOME prints how many answers since the last start came about so.
served() { grep -c "\"cache\":\"$1\"" "$SERVER_LOG" || true; }

# never_twice LOG counts what the upstream's access log says it sent of each blob.
never_twice() {
    local twice
    twice=$(grep -oE '"GET /v2/[^ ]*/blobs/sha256:[0-9a-f]{64} HTTP/[0-9.]+" 200' "$1" | sort | uniq -d)
    [[ -z $twice ]] || fail "the upstream sent blobs more than once: $twice"
}

# local_never_twice LOG is the same for the access log of our own.
local_never_twice() {
    local twice
    twice=$(jq -rR 'fromjson? | select(.method == "GET" and .status == 200 and (.reference // "" | startswith("sha256:")))
        | "\(.repository)@\(.reference)"' "$1" | sort | uniq -d)
    [[ -z $twice ]] || fail "the upstream sent content more than once: $twice"
}

# shellcheck disable=SC2034 # TOOK is for the tests
# milliseconds COMMAND... runs it and sets TOOK.
milliseconds() {
    local begin
    begin=$(date +%s%N)
    "$@"
    TOOK=$((($(date +%s%N) - begin) / 1000000))
}

# shellcheck disable=SC2120 # most tests want no environment
# another_server [ENVIRONMENT...] ends the server under test and starts it anew with an empty store.
another_server() {
    stop_server
    : >"$SERVER_LOG"
    SERVER_ENV=("$@")
    start_server
}

SERVER_ENV=()
# shellcheck disable=SC2317 # called by start_server
run_server() { exec env "${SERVER_ENV[@]}" "$INTEROP_SERVER" serve --config "$WORK/config.yaml"; }
