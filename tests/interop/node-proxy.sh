#!/usr/bin/env bash
# containerd pulls through node-proxy over two servers with the same content while one of them dies:
# it is killed, or its network is gone without a word. Both pulls have to succeed.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"
source "$(dirname "$0")/nodes.sh"

need containerd ctr skopeo ip tc nsenter unshare nginx

own_network

BIG=$ADDRESS/$REPO/big:$TAG

# A server on a node. server NAME ADDRESS
server() {
    node "$1" "$2"
    cat >"$WORK/$1.yaml" <<YAML
mode: Local
listen: $2:5001
adminListen: 127.0.0.1:5002
tls: {certFile: $INTEROP_PKI/tls.crt, keyFile: $INTEROP_PKI/tls.key}
store: {dir: $WORK/$1, reserveBytes: 0}
auth:
  # A token of one server has to be good at the other.
  token: {signingKeyFile: $INTEROP_PKI/token.key, signingCertFile: $INTEROP_PKI/token.crt}
$(write_users config)
log: {format: json, access: all}
YAML
    daemon "$1" nsenter --net --target "$NODE" "$INTEROP_SERVER" serve --config "$WORK/$1.yaml"
    await listens "$2:5001"
}

# push_big ADDRESS: from the server's own side of the cable, the shaping is only outward.
push_big() {
    skopeo copy -q --preserve-digests --dest-cert-dir "$(certs_dir)" --dest-creds "$RW" --dest-tls-verify=false \
        "oci:$WORK/big:$TAG" "docker://$1:5001/${BIG#*/}"
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
start_proxy "127.0.0.1:$(free_port)" 10.111.1.2:5001 10.111.2.2:5001
PULL=(--hosts-dir "$(node_hosts '"pull", "resolve"')" --user "$RO")
pull_while master-1 kill -KILL "$first"
after_kill=$(resumed)
((after_kill > 0)) || fail "nothing was resumed"
grep '"backend is down"' "$PROXY_LOG" | grep -q 10.111.1.2 || fail "the killed server is not down"
forget_images

say "it comes back"
before=$(grep -c '"backend is up"' "$PROXY_LOG")
daemon master-1 nsenter --net --target "$first_node" "$INTEROP_SERVER" serve --config "$WORK/master-1.yaml"
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

say "nginx holds the address, as bashible's balancer does"
HELD=127.0.0.1:$(free_port)
mkdir -p "$WORK/nginx"
cat >"$WORK/nginx.conf" <<NGINX
worker_processes 1;
pid $WORK/nginx/pid;
error_log $INTEROP_LOGS/$INTEROP_NAME.nginx.log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path $WORK/nginx/body;
    proxy_temp_path $WORK/nginx/proxy;
    fastcgi_temp_path $WORK/nginx/fastcgi;
    uwsgi_temp_path $WORK/nginx/uwsgi;
    scgi_temp_path $WORK/nginx/scgi;
    server { listen $HELD; return 200 nginx; }
}
NGINX
nginx -c "$WORK/nginx.conf"
"$INTEROP_SERVER" node-proxy --listen "$HELD" --backend 10.111.2.2:5001 --backend-tls 2>"$WORK/waiting.log" &
waiting=$!
DAEMONS+=("$waiting")
await grep -q 'another process holds the address, waiting beside it' "$WORK/waiting.log"
same "$(curl -sS --max-time 30 "http://$HELD/")" nginx "who answers"
nginx -c "$WORK/nginx.conf" -s quit
await grep -q '"listening"' "$WORK/waiting.log"
same "$(curl -sS --max-time 30 --cacert "$CA" -o /dev/null -w '%{http_code}' "https://$HELD/v2/")" 401 "the registry behind it"
! nginx -c "$WORK/nginx.conf" 2>/dev/null || fail "two on one address"
kill -TERM "$waiting"
