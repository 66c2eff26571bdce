# shellcheck shell=bash
# Shared by the interop tests with an nginx in front: its certificates, and its configuration, which is what the
# Ingress controller makes of the chart's annotations. Sourced after harness.sh.

readonly PUBLIC=registry.example.org
# Addresses of clients that nginx lets in, and one that it does not.
# shellcheck disable=SC2034 # used by the tests
readonly SOURCES=127.0.0.0/26 OUTSIDE=127.0.0.99

# leaf NAME CN SAN writes a certificate of the tests' authority.
leaf() {
    openssl req -new -newkey rsa:2048 -nodes -keyout "$WORK/$1.key" -subj "/CN=$2" -out "$WORK/$1.csr" 2>>"$WORK/openssl.log"
    openssl x509 -req -in "$WORK/$1.csr" -CA "$CA" -CAkey "$INTEROP_PKI/ca.key" -set_serial "0x$(openssl rand -hex 8)" \
        -days 2 -out "$WORK/$1.crt" -extfile <(echo "subjectAltName=$3") 2>>"$WORK/openssl.log"
}
make_leaves() {
    leaf front nginx-front "DNS:$PUBLIC,IP:127.0.0.1"
    leaf client front-proxy DNS:front-proxy
    leaf stranger somebody DNS:somebody
}

# shellcheck disable=SC2317 # called by write_config
more_tls() { printf '  clientCAFile: %s\n  trustedProxyNames: [front-proxy]\n' "$CA"; }

write_nginx() {
    cat <<NGINX
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
    upstream registry {
        # One client's requests go to one server: it has the upload that they are about.
        hash \$remote_addr consistent;
        server 127.0.0.1:$PORT;
        keepalive 8;
    }
    server {
        listen 127.0.0.1:$FRONT_PLAIN;
        listen 127.0.0.1:$FRONT ssl http2;
        server_name $PUBLIC;
        ssl_certificate $WORK/front.crt;
        ssl_certificate_key $WORK/front.key;
        allow $SOURCES;
        deny all;
        client_max_body_size 0;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_read_timeout 600s;
        proxy_send_timeout 600s;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $PUBLIC;
        proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto \$scheme;
        proxy_set_header X-Forwarded-Host \$http_host;
        proxy_set_header X-Request-Id \$request_id;
        proxy_ssl_certificate $WORK/client.crt;
        proxy_ssl_certificate_key $WORK/client.key;
        proxy_ssl_trusted_certificate $CA;
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        location / { proxy_pass https://registry; }
    }
}
NGINX
}

# start_nginx puts one in front of the server; its address is REGISTRY then, the server's own DIRECT.
start_nginx() {
    local try
    mkdir -p "$WORK/nginx"
    # shellcheck disable=SC2034 # used by the tests
    DIRECT=$REGISTRY
    for try in 1 2 3 4 5; do
        # Below those of the server, which are even and their followers from 20000 on.
        FRONT=$((10000 + RANDOM % 4000 * 2)) FRONT_PLAIN=$((FRONT + 1))
        write_nginx >"$WORK/nginx.conf"
        if start_nginx_again; then
            # shellcheck disable=SC2034 # used by the tests
            REGISTRY=127.0.0.1:$FRONT
            return
        fi
        say "no nginx at port $FRONT (try $try)"
        kill_nginx
    done
    fail "nginx does not start: $(tail -n 5 "$INTEROP_LOGS/$INTEROP_NAME.nginx.log")"
}

# start_nginx_again starts it as it was configured before. Sets NGINX, its first process.
start_nginx_again() {
    local i
    nginx -c "$WORK/nginx.conf" 2>>"$INTEROP_LOGS/$INTEROP_NAME.nginx.log" &
    NGINX=$!
    DAEMONS+=("$NGINX")
    for ((i = 0; i < 100; i++)); do
        kill -0 "$NGINX" 2>/dev/null || return 1
        if curl -sS --max-time 2 --cacert "$CA" -o /dev/null "https://127.0.0.1:$FRONT/v2/" 2>/dev/null; then
            return 0
        fi
        sleep 0.1
    done
    return 1
}

# nginx_workers prints the numbers of its working processes.
nginx_workers() { awk -v parent="$NGINX" '$4 == parent { print $1 }' /proc/[0-9]*/stat 2>/dev/null || true; }

# kill_nginx ends it and its workers as a lost node does: nothing is said to anybody.
kill_nginx() {
    local daemon rest=() workers
    mapfile -t workers < <(nginx_workers)
    kill -KILL "$NGINX" ${workers[@]+"${workers[@]}"} 2>/dev/null || true
    { wait "$NGINX"; } 2>/dev/null || true
    for daemon in ${DAEMONS[@]+"${DAEMONS[@]}"}; do
        [[ $daemon == "$NGINX" ]] || rest+=("$daemon")
    done
    DAEMONS=(${rest[@]+"${rest[@]}"})
}

# make_layout FOLDER BYTES writes an OCI layout of one image with one layer that no client can or will make
# smaller: it is not compressed by its type, and its content is random. Sets LAYER and LAYER_BYTES. The
# layer takes that much of the disk once.
make_layout() {
    local blobs=$1/blobs/sha256 config manifest
    local -r content=$(($2 - 1536))
    mkdir -p "$blobs"
    truncate -s "$content" "$blobs/content"
    # The head of a tar, its content, and the two empty blocks behind it.
    tar -C "$blobs" -cf - content 2>/dev/null | head -c 512 >"$blobs/layer" || true
    rm "$blobs/content"
    openssl enc -aes-128-ctr -pass "pass:$RANDOM$RANDOM" -pbkdf2 -nosalt -in /dev/zero 2>/dev/null | head -c "$content" >>"$blobs/layer" || true
    truncate -s "$2" "$blobs/layer"
    LAYER_BYTES=$(stat -c %s "$blobs/layer")
    LAYER=$(put_away "$blobs" layer)
    jq -cn --arg layer "$LAYER" '{architecture: "amd64", os: "linux", config: {}, rootfs: {type: "layers", diff_ids: [$layer]}}' \
        >"$blobs/config"
    local -r config_bytes=$(stat -c %s "$blobs/config")
    config=$(put_away "$blobs" config)
    jq -cn --arg layer "$LAYER" --argjson size "$LAYER_BYTES" --arg config "$config" --argjson config_size "$config_bytes" \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
          config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: $config_size},
          layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $size}]}' >"$blobs/manifest"
    local -r manifest_bytes=$(stat -c %s "$blobs/manifest")
    manifest=$(put_away "$blobs" manifest)
    jq -cn --arg digest "$manifest" --argjson size "$manifest_bytes" --arg tag "$TAG" '{schemaVersion: 2, manifests: [
        {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size,
         annotations: {"org.opencontainers.image.ref.name": $tag}}]}' >"$1/index.json"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$1/oci-layout"
}
# put_away FOLDER FILE names the file by its digest, which it prints.
put_away() {
    local digest
    digest=$(openssl dgst -sha256 -r "$1/$2" | cut -d' ' -f1)
    mv "$1/$2" "$1/$digest"
    echo "sha256:$digest"
}

# uploads prints the data of the uploads that there are; uploaded_more_than BYTES waits for one of that size.
uploads() { find "$WORK/store/uploads" -name data -type f; }
uploaded_more_than() { [[ -n $(find "$WORK/store/uploads" -name data -type f -size "+$1c") ]]; }

# cut_push COMMAND... runs a push and kills nginx as soon as the server has some of it; CUT bytes are on the disk then.
# The push has to fail, and nginx is back afterwards.
cut_push() {
    local bytes=$1 client status=0
    shift
    "$@" >"$WORK/cut.log" 2>&1 &
    client=$!
    until uploaded_more_than "$bytes"; do
        kill -0 "$client" 2>/dev/null || fail "the push ended before it could be cut: $(cat "$WORK/cut.log")"
        sleep 0.02
    done
    kill_nginx
    wait "$client" || status=$?
    ((status != 0)) || fail "a push whose nginx was killed went through"
    # The server writes what it had read.
    await quiet
    CUT=$(stat -c %s "$(uploads)")
    start_nginx_again || fail "nginx does not start again: $(tail -n 5 "$INTEROP_LOGS/$INTEROP_NAME.nginx.log")"
    say "cut after $CUT bytes: $(tail -n 1 "$WORK/cut.log" | cut -c1-300)"
}
quiet() { [[ $(metric d8_registry_http_requests_in_flight) == 0 ]]; }

# reaped prints how often uploads were removed, and how many.
reaped() { jq -rs '[.[] | select(.message == "abandoned uploads and fills removed") | .reaped] | join(" ")' "$SERVER_LOG"; }

# near GOT WANT WHAT compares sizes of the store; the index has its own, which is small.
near() {
    local -r difference=$(($1 - $2))
    ((${difference#-} < 1 << 20)) || fail "$3: got $1, want about $2"
}
