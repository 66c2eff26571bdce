#!/usr/bin/env bash
# An nginx that is killed while a client pushes through it. The push again succeeds, what the first one left
# is removed and its bytes are given back once, and a client that asks where its upload is goes on there.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/nginx.sh"

need nginx openssl crane jq ip tc
# A network of its own: it is made slow.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up

readonly BYTES=$((24 << 20)) SOME=$((4 << 20))
start_server
make_leaves
start_nginx
make_layout "$WORK/big" "$BYTES"
blob=$WORK/big/blobs/${LAYER/://}
DOCKER_CONFIG=$(docker_config "$RW")
export DOCKER_CONFIG

# Slow enough that there is a middle: the bytes pass twice, to nginx and to the server.
slow() { tc qdisc add dev lo root tbf rate 160mbit burst 256kb latency 200ms; }
fast() { tc qdisc del dev lo root; }

# whole REPOSITORY pulls the layer out of it.
whole() {
    same "$(crane blob "$REGISTRY/$1@$LAYER" | openssl dgst -sha256 -r | cut -d' ' -f1)" "${LAYER#*:}" "digest of what $1 has"
}

say "a client that asks where its upload is goes on there"
# ask METHOD PATH [OPTION...] prints the status of a request through nginx; the answer's head is in $WORK/head.
ask() {
    curl -sS --http1.1 --max-time 60 --cacert "$CA" -u "$RW" -X "$1" -D "$WORK/head" -o /dev/null -w '%{http_code}' \
        "${@:3}" "https://$REGISTRY$2"
}
header() { tr -d '\r' <"$WORK/head" | awk -v name="$1:" 'tolower($1) == name { print $2 }'; }
octets=(-H 'Content-Type: application/octet-stream')
same "$(ask POST /v2/team/raw/blobs/uploads/)" 202 "begin"
upload=$(header location)
slow
cut_push "$SOME" ask PATCH "$upload" "${octets[@]}" -T "$blob"
fast
same "$(ask GET "$upload")" 204 "GET of the upload"
same "$(header range)" "0-$((CUT - 1))" "what the server has of it"
tail -c "+$((CUT + 1))" "$blob" >"$WORK/rest"
same "$(ask PATCH "$upload" "${octets[@]}" -T "$WORK/rest" -H "Content-Range: $((CUT - 1))-$((BYTES - 2))")" 416 "PATCH one byte too early"
same "$(ask PATCH "$upload" "${octets[@]}" -T "$WORK/rest" -H "Content-Range: $CUT-$((BYTES - 1))")" 202 "PATCH from there on"
same "$(ask PUT "$upload?digest=$LAYER" -H 'Content-Length: 0')" 201 "PUT"
whole team/raw
same "$(api "$RW" DELETE "/v2/team/raw/blobs/$LAYER")" 202 "delete"

say "crane's push is cut, and goes in when it is repeated"
before=$(metric d8_registry_store_used_bytes)
slow
cut_push "$SOME" crane push "$WORK/big" "$REGISTRY/team/big:$TAG"
fast
near "$(metric d8_registry_store_used_bytes)" $((before + CUT)) "used with what was cut"
same "$(api "$RO" HEAD "/v2/team/big/manifests/$TAG")" 404 "HEAD of what was cut"
crane push "$WORK/big" "$REGISTRY/team/big:$TAG"
whole team/big
near "$(metric d8_registry_store_used_bytes)" $((before + CUT + BYTES)) "used with both"

say "what the first one left is removed once, and its bytes are given back once"
same "$(uploads | wc -l)" 1 "uploads that are left"
same "$(reaped)" "" "removed so far"
touch -d '2 hours ago' "$(uploads)"
stop_server
start_again
gone() { [[ $(reaped) == 1 && -z $(uploads) ]]; }
await gone
near "$(metric d8_registry_store_used_bytes)" $((before + BYTES)) "used when it is gone"
whole team/big
