#!/usr/bin/env bash
# Three masters, each with a Local of its own, behind an nginx that sends each request to the next one: what clients see through it
# is one registry. The specification, asked by tests/tools/specprobe and, where it can be had, by the conformance program; then the
# pushes of crane and of `d8 mirror push`.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/nginx.sh"
source "$(dirname "$0")/pulling.sh"
source "$(dirname "$0")/nodes.sh"

need specprobe verdict crane d8wire nginx openssl curl ip unshare

own_network
readonly MASTERS=3
trap end_all EXIT

# master NUMBER REFERENCES starts one with an empty store; its address is of the loopback.
master() {
    local at=127.0.0.$((10 + $1)) dir=$WORK/master-$1
    rm -rf "$dir"
    mkdir "$dir"
    cat >"$WORK/master-$1.yaml" <<YAML
mode: Local
listen: $at:5001
adminListen: $at:5002
tls: {certFile: $WORK/server-$1.crt, keyFile: $WORK/server-$1.key}
store: {dir: $dir, reserveBytes: 0}
auth:
  # A token of one master has to be good at the others.
  token: {signingKeyFile: $INTEROP_PKI/token.key, signingCertFile: $INTEROP_PKI/token.crt}
$(write_users config)
manifests: {missingReferences: $2}
# Whoever asks another master than the one that answered the push hears of the push.
replicas: {peers: $WORK/list, certificate: $WORK/peer-$1.crt, key: $WORK/peer-$1.key, ca: $CA, minCopies: all, whenShort: refuse}
log: {format: json, access: all}
YAML
    daemon "master-$1" "$INTEROP_SERVER" serve --config "$WORK/master-$1.yaml"
}

# masters REFERENCES starts all, and waits until each has compared its records with all others: one that was asked before it listened
# is left alone for a while.
masters() {
    local number
    PIDS=()
    for ((number = 0; number < MASTERS; number++)); do
        master "$number" "$1"
        PIDS+=("$DAEMON")
    done
    for ((number = 0; number < MASTERS; number++)); do
        await has_compared "$number"
    done
}
# metrics NUMBER
metrics() { curl -sS --max-time 30 "http://127.0.0.$((10 + $1)):5002/metrics"; }
has_compared() {
    (($(metrics "$1" | awk '/^d8_registry_records_equal_timestamp_seconds/ && $2 > 0' | wc -l) == MASTERS - 1))
}

stop_masters() {
    local pid ended
    for pid in "${PIDS[@]}"; do
        ended=0
        kill -TERM "$pid"
        wait "$pid" || ended=$?
        same "$ended" 0 "status of a master on SIGTERM"
    done
}

# Requests come to one master after the other, on whichever connection of whichever client.
balancer() {
    local number
    mkdir -p "$WORK/nginx"
    REGISTRY=127.0.0.1:5000
    cat >"$WORK/nginx.conf" <<NGINX
daemon off;
user root;
worker_processes 1;
pid $WORK/nginx/pid;
error_log $INTEROP_LOGS/$INTEROP_NAME.nginx.log info;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $WORK/nginx/body;
    proxy_temp_path $WORK/nginx/proxy;
    fastcgi_temp_path $WORK/nginx/fastcgi;
    uwsgi_temp_path $WORK/nginx/uwsgi;
    scgi_temp_path $WORK/nginx/scgi;
    upstream masters {
$(for ((number = 0; number < MASTERS; number++)); do echo "        server 127.0.0.$((10 + number)):5001;"; done)
        keepalive 16;
    }
    server {
        listen $REGISTRY ssl http2;
        ssl_certificate $INTEROP_PKI/tls.crt;
        ssl_certificate_key $INTEROP_PKI/tls.key;
        client_max_body_size 0;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_http_version 1.1;
        proxy_next_upstream off;
        proxy_set_header Connection "";
        proxy_set_header Host \$http_host;
        proxy_ssl_trusted_certificate $CA;
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        location / { proxy_pass https://masters; }
    }
}
NGINX
    daemon nginx nginx -c "$WORK/nginx.conf"
    await listens "$REGISTRY"
}

# suite PROGRAM RUN [VARIABLE=VALUE...]
suite() {
    local program=$1 run=$2 results=$INTEROP_LOGS/masters-$2 status=0 skips
    shift 2
    skips=$([[ $program == specprobe ]] && echo spec-skips.txt || echo conformance-skips.txt)
    rm -rf "$results"
    mkdir -p "$results"
    say "$run, by $program"
    (cd "$WORK" && env OCI_REGISTRY="$REGISTRY" OCI_RESULTS_DIR="$results" "$@" "$program") >"$results/output.txt" 2>&1 ||
        status=$?
    tail -n 40 "$results/output.txt"
    verdict "$results/junit.xml" "$INTEROP_SCRIPTS/$skips" "$run"
    same "$status" 0 "status of $program"
}

# all_passed_on fails unless each master has passed on what clients asked of uploads that lay at others.
all_passed_on() {
    local number
    for ((number = 0; number < MASTERS; number++)); do
        (($(metrics "$number" | awk '/^d8_registry_uploads_passed_on_total.*"answered"/ { print int($2) }') > 0)) ||
            fail "master $number has passed nothing on: the balancer does not change masters"
    done
}

for ((number = 0; number < MASTERS; number++)); do
    leaf "server-$number" registry-distribution "IP:127.0.0.$((10 + number)),DNS:localhost"
    leaf "peer-$number" registry-peer "IP:127.0.0.$((10 + number)),URI:d8-registry:peer"
    echo "127.0.0.$((10 + number)):5001" >>"$WORK/list"
done
export OCI_USERNAME=rw OCI_REPO1=conformance/first OCI_REPO2=conformance/second OCI_CACHE_AUTH=true OCI_TLS=enabled
OCI_PASSWORD=$(password rw)
export OCI_PASSWORD
balancer

masters refuse
suite specprobe push
all_passed_on

say "crane and d8"
DOCKER_CONFIG=$(docker_config "$RW")
export DOCKER_CONFIG
for ((i = 0; i < 3; i++)); do
    crane push "$INTEROP_IMAGES/index" "$REGISTRY/team/multi:v$i"
    crane validate --remote "$REGISTRY/team/multi:v$i"
    same "$(crane digest "$REGISTRY/team/multi:v$i")" "$(digest_of index)" "digest through the balancer"
done
# Of a push that is refused before its body was read the client sends no body again, which nginx answers by itself over HTTP/2.
GODEBUG=http2client=0 d8wire -registry "$REGISTRY" -ca "$CA" -rw "$RW" -ro "$RO"
stop_masters

masters allow
suite specprobe push-sparse OCI_DATA_SPARSE=true GODEBUG=http2client=0
stop_masters

if command -v conformance >/dev/null; then
    source "$INTEROP_SCRIPTS/conformance-apis.sh"
    for version in 1.1 dev; do
        masters refuse
        suite conformance $version OCI_VERSION=$version OCI_DATA_SPARSE=false
        stop_masters
    done
fi
