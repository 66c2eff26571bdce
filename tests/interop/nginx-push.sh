#!/usr/bin/env bash
# A real nginx in front, as people put one there: no buffering of requests, TLS to the registry, and
# a client certificate by which the registry believes its X-Forwarded-* headers. Pushes and pulls
# work through it, and one that is refused before its body was read shows its status.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/nginx.sh"

need nginx openssl crane skopeo
readonly BUDGET=$((32 << 20))
more_store() { printf '  maxBytes: %s\n' "$BUDGET"; }
start_server
make_leaves
start_nginx

# line_of REPOSITORY prints its last access line in the server's log, which is written a little later.
line_of() {
    await logged "$1"
    logged "$1"
}
logged() { grep -F "\"repository\":\"$1\"" "$SERVER_LOG" | grep -F '"target":"access"' | tail -n 1; }

say "an image goes in and comes out"
DOCKER_CONFIG=$(docker_config "$RW")
export DOCKER_CONFIG
crane push "$INTEROP_IMAGES/index" "$REGISTRY/team/multi:$TAG"
crane validate --remote "$REGISTRY/team/multi:$TAG"
same "$(crane digest "$REGISTRY/team/multi:$TAG")" "$(digest_of index)" "digest through nginx"
certs=$(certs_dir)
skopeo copy --all --src-cert-dir "$certs" --src-creds "$RO" "docker://$REGISTRY/team/multi:$TAG" "oci:$WORK/multi:$TAG"
same "$(jq -r '.manifests[0].digest' "$WORK/multi/index.json")" "$(digest_of index)" "pulled index"

say "what nginx says of its client counts"
# curl_public PATH [OPTION...] asks nginx by its public name, from an address that is not nginx's own.
curl_public() {
    curl -sS --max-time 30 --cacert "$CA" --interface 127.0.0.9 --connect-to "$PUBLIC:443:127.0.0.1:$FRONT" \
        "${@:2}" "https://$PUBLIC$1"
}
# curl_direct CERTIFICATE PATH [OPTION...] asks the server itself, pretending to be a proxy.
curl_direct() {
    local certificate=()
    [[ -z $1 ]] || certificate=(--cert "$WORK/$1.crt" --key "$WORK/$1.key")
    curl -sS --max-time 30 --cacert "$CA" ${certificate[@]+"${certificate[@]}"} -H 'X-Forwarded-For: 192.0.2.7' \
        -H 'X-Forwarded-Proto: http' -H 'X-Forwarded-Host: forged.example.org' -H 'X-Request-Id: forged' \
        "${@:3}" "https://$DIRECT$2"
}
challenge_in() { tr -d '\r' | grep -i '^www-authenticate:'; }
grep -qF "Bearer realm=\"https://$PUBLIC/auth/token\"" <<<"$(curl_public /v2/ -o /dev/null -D - | challenge_in)" ||
    fail "the challenge through nginx: $(curl_public /v2/ -o /dev/null -D - | challenge_in)"
id=$(curl_public /v2/believed/tags/list -u "$RO" -H 'X-Forwarded-For: 192.0.2.7' -o /dev/null -D - |
    tr -d '\r' | awk 'tolower($1) == "x-request-id:" { print $2 }')
[[ $id =~ ^[0-9a-f]{32}$ ]] || fail "no request id of nginx came back: '$id'"
# The last address is the one that nginx itself wrote.
line=$(line_of believed)
same "$(jq -r .address <<<"$line")" 127.0.0.9 "address in the access log"
same "$(jq -r .id <<<"$line")" "$id" "id in the access log"
same "$(curl_direct client /v2/ -o /dev/null -D - | challenge_in | grep -o 'realm="[^"]*"')" \
    'realm="http://forged.example.org/auth/token"' "realm for who shows the proxy's certificate"

say "who is not among the source ranges does not reach the server"
curl_public /v2/outside/tags/list -u "$RO" -o /dev/null
same "$(curl_public /v2/outside/tags/list -u "$RO" --interface "$OUTSIDE" -o /dev/null -w '%{http_code}')" 403 "status for $OUTSIDE"
line_of outside >/dev/null
same "$(grep -cF '"repository":"outside"' "$SERVER_LOG")" 1 "requests that reached the server"

say "nobody else is believed"
for certificate in "" stranger; do
    same "$(curl_direct "$certificate" /v2/ -o /dev/null -D - | challenge_in | grep -o 'realm="[^"]*"')" \
        "realm=\"https://$DIRECT/auth/token\"" "realm for certificate '$certificate'"
    curl_direct "$certificate" "/v2/forged${certificate:-none}/tags/list" -u "$RO" -o /dev/null
    line=$(line_of "forged${certificate:-none}")
    same "$(jq -r .address <<<"$line")" 127.0.0.1 "address in the access log"
    [[ $(jq -r .id <<<"$line") != forged ]] || fail "a forged id was taken over"
done

# raw METHOD PATH USER:PASSWORD BYTES prints the status that a client reads who sends all of its
# body first, without TLS to nginx.
raw() {
    local status
    exec 3<>"/dev/tcp/127.0.0.1/$FRONT_PLAIN"
    {
        printf '%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\n' "$1" "$2" "$PUBLIC" "$(printf %s "$3" | base64 -w0)"
        printf 'Content-Type: application/octet-stream\r\nContent-Length: %s\r\n\r\n' "$4"
        head -c "$4" /dev/zero
    } >&3 2>/dev/null || true
    IFS=' ' read -r -t 60 _ status _ <&3 || status="nothing"
    exec 3>&-
    echo "$status"
}

# begin prints the location of a new upload.
begin() {
    curl -sS --max-time 30 --cacert "$CA" -u "$RW" -X POST -o /dev/null -D - "https://$DIRECT/v2/team/big/blobs/uploads/" |
        tr -d '\r' | awk 'tolower($1) == "location:" { print $2 }'
}

say "a push refused early shows its status, whatever its length"
zeros=sha256:$(head -c $((BUDGET * 2)) /dev/zero | sha256sum | cut -d' ' -f1)
small=sha256:$(head -c 1000000 /dev/zero | sha256sum | cut -d' ' -f1)
for round in 1 2 3; do
    for size in 1000000 12000000 60000000; do
        location=$(begin)
        same "$(raw PATCH "$location" rw:wrong "$size")" 401 "wrong password, $size bytes, round $round"
        same "$(raw PATCH "$location" "$RO" "$size")" 403 "reader, $size bytes, round $round"
        same "$(raw POST "/v2/team/big/blobs/uploads/?digest=$small" "$RO" "$size")" 403 "reader's POST, $size bytes"
        same "$(raw PUT "/v2/team/big/manifests/v1" "$RO" "$size")" 403 "reader's manifest, $size bytes"
        same "$(raw PUT "/v2/team/big/manifests/v1" "$RW" $((size + (4 << 20))))" 413 "too large a manifest"
        same "$(api "$RW" DELETE "$location")" 204 "cancel"
    done
    location=$(begin)
    same "$(raw POST "/v2/team/big/blobs/uploads/?digest=$zeros" "$RW" $((BUDGET * 2)))" 507 "over the budget in one POST"
    same "$(raw PATCH "$location" "$RW" $((BUDGET * 2)))" 507 "over the budget in one PATCH"
    same "$(raw PUT "$location?digest=$zeros" "$RW" $((BUDGET * 2)))" 507 "over the budget in the final PUT"
    same "$(api "$RW" DELETE "$location")" 204 "cancel"
done

say "over TLS and HTTP/2 too, with what the refusal says"
head -c $((BUDGET * 2)) /dev/zero >"$WORK/zeros"
for version in --http1.1 --http2; do
    location=$(begin)
    for try in "rw:wrong 401 UNAUTHORIZED" "$RO 403 DENIED" "$RW 507 INSUFFICIENT_STORAGE"; do
        read -r user status code <<<"$try"
        got=$(curl -sS --max-time 60 "$version" --cacert "$CA" -u "$user" -X PATCH -T "$WORK/zeros" \
            -H 'Content-Type: application/octet-stream' -o "$WORK/refusal" -w '%{http_code}' "https://$REGISTRY$location") ||
            fail "curl $version as $user: status $got"
        same "$got" "$status" "curl $version as $user"
        same "$(jq -r '.errors[0].code' "$WORK/refusal")" "$code" "code for $user"
    done
    same "$(api "$RW" DELETE "$location")" 204 "cancel"
done

say "crane and skopeo say why"
head -c $((BUDGET + (16 << 20))) /dev/urandom >"$WORK/random"
tar -C "$WORK" -cf "$WORK/big.tar" random
# told WORD COMMAND... succeeds if the command fails and says WORD.
told() {
    local output
    if output=$("${@:2}" 2>&1); then
        fail "was let through: ${*:2}"
    fi
    grep -qF "$1" <<<"$output" || fail "does not say $1: ${*:2}: $output"
}
told "store.maxBytes" crane append --oci-empty-base --new_layer "$WORK/big.tar" --new_tag "$REGISTRY/team/big:$TAG"
crane append --oci-empty-base --new_layer "$WORK/big.tar" --new_tag "$PUBLIC/team/big:$TAG" --output "$WORK/big.image" --platform linux/amd64
skopeo copy "docker-archive:$WORK/big.image" "oci:$WORK/big:$TAG"
told "507 Insufficient Storage" skopeo copy --retry-times 0 --dest-cert-dir "$certs" --dest-creds "$RW" "oci:$WORK/big:$TAG" "docker://$REGISTRY/team/big:$TAG"
refused skopeo copy --dest-cert-dir "$certs" --dest-creds "$RO" "oci:$WORK/big:$TAG" "docker://$REGISTRY/team/big:$TAG"
refused skopeo copy --dest-cert-dir "$certs" --dest-creds rw:wrong "oci:$WORK/big:$TAG" "docker://$REGISTRY/team/big:$TAG"
DOCKER_CONFIG=$(docker_config "$RO")
refused crane push "$WORK/big" "$REGISTRY/team/big:$TAG"
DOCKER_CONFIG=$(docker_config ro:wrong)
refused crane push "$WORK/big" "$REGISTRY/team/big:$TAG"

say "nothing of all that is left, and there is room again"
same "$(api "$RO" HEAD "/v2/team/big/manifests/$TAG")" 404 "HEAD of what was refused"
DOCKER_CONFIG=$(docker_config "$RW")
crane push "$INTEROP_IMAGES/image" "$REGISTRY/team/app:$TAG"
crane validate --remote "$REGISTRY/team/app:$TAG"
