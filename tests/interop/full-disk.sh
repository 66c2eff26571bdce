#!/usr/bin/env bash
# A disk that is really full (a small tmpfs and no reserve): pushes get 507, reads go on, nothing is
# left over, and after a delete pushes work again.
source "$(dirname "$0")/harness.sh"

need curl jq crane

make_store() {
    umount "$WORK/store" 2>/dev/null || true
    rm -rf "$WORK/store"
    mkdir "$WORK/store"
    mount -t tmpfs -o size=48m,mode=700 none "$WORK/store" 2>"$WORK/mount-error" ||
        skip "no tmpfs can be mounted: $(tr -s '\t\n' ' ' <"$WORK/mount-error")"
}
start_server

# call METHOD PATH [OPTION...] prints the status; the body is in $WORK/answer, the head in $WORK/head.
call() {
    curl -sS --max-time 60 --cacert "$CA" -u "$RW" -X "$1" -o "$WORK/answer" -D "$WORK/head" -w '%{http_code}' \
        "${@:3}" "https://$REGISTRY$2"
}
header() { tr -d '\r' <"$WORK/head" | awk -v name="$1:" 'tolower($1) == name { print $2 }'; }
digest() { echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"; }
octets=(-H 'Content-Type: application/octet-stream')

# A full disk has the specification's body and a code that clients don't repeat.
is_full() {
    same "$1" 507 "$2"
    same "$(jq -r '.errors[0].code + " " + .errors[0].detail.reason' "$WORK/answer")" "INSUFFICIENT_STORAGE ReserveExhausted" "body of $2"
}

readonly NAME=team/app
crane auth login "$REGISTRY" -u "${RW%%:*}" -p "${RW#*:}"
crane push "$INTEROP_IMAGES/image" "$REGISTRY/$NAME:$TAG"

say "an upload begun in time, and the blobs of an image whose manifest comes too late"
same "$(call POST "/v2/$NAME/blobs/uploads/")" 202 "begin"
upload=$(header location)
head -c $((1 << 20)) /dev/urandom >"$WORK/chunk"
same "$(call PATCH "$upload" "${octets[@]}" -T "$WORK/chunk")" 202 "first chunk"
printf '{}' >"$WORK/config"
same "$(call POST "/v2/$NAME/blobs/uploads/?digest=$(digest "$WORK/config")" "${octets[@]}" --data-binary "@$WORK/config")" 201 "config"
jq -n --arg config "$(digest "$WORK/config")" --arg padding "$(head -c 60000 /dev/zero | tr '\0' x)" '{schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json", annotations: {padding: $padding}, layers: [],
    config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: 2}}' >"$WORK/late"

say "filled until nothing goes in"
stored=()
for size in 4194304 1048576 131072 16384 4096 1; do
    for ((i = 0; ; i++)); do
        ((i < 64)) || fail "the disk does not get full"
        head -c "$size" /dev/urandom >"$WORK/piece"
        piece=$(digest "$WORK/piece")
        got=$(call POST "/v2/$NAME/blobs/uploads/?digest=$piece" "${octets[@]}" --data-binary "@$WORK/piece")
        if [[ $got != 201 ]]; then
            is_full "$got" "a push of $size bytes"
            break
        fi
        stored+=("$piece")
    done
    say "$i of $size bytes went in"
done
is_full "$(call PATCH "$upload" "${octets[@]}" -T "$WORK/chunk")" "the second chunk"
is_full "$(call PUT "/v2/$NAME/manifests/late" -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    --data-binary "@$WORK/late")" "a manifest"
same "$(api "$RW" HEAD "/v2/$NAME/manifests/late")" 404 "HEAD of the manifest that found no room"
same "$(metric d8_registry_store_writable)" 0 "store_writable"
check_store

say "reads go on"
same "$(curl -sS -o /dev/null -w '%{http_code}' "http://127.0.0.1:$ADMIN_PORT/readyz")" 200 "readyz"
same "$(api "$RW" HEAD "/v2/$NAME/manifests/$TAG")" 200 "HEAD of an image"
crane validate --remote "$REGISTRY/$NAME:$TAG"
same "$(call GET "/v2/$NAME/blobs/${stored[0]}")" 200 "a blob"
same "$(digest "$WORK/answer")" "${stored[0]}" "digest of a blob"

say "a broken upload can be cancelled and leaves nothing"
same "$(call DELETE "$upload")" 204 "cancel"
same "$(find "$WORK/store/uploads" -mindepth 1 | wc -l)" 0 "entries below uploads/"
check_store

say "killed and started again with no block free it serves as before"
kill -KILL "$SERVER"
wait "$SERVER" || true
cat /dev/zero >"$WORK/store/ballast" 2>/dev/null || true
same "$(stat -f -c %a "$WORK/store")" 0 "free blocks"
start_again
same "$(metric d8_registry_store_writable)" 0 "store_writable"
crane validate --remote "$REGISTRY/$NAME:$TAG"

say "a deleted blob makes room"
same "$(call DELETE "/v2/$NAME/blobs/${stored[0]}")" 202 "delete"
same "$(metric d8_registry_store_writable)" 1 "store_writable"
head -c $((2 << 20)) /dev/urandom >"$WORK/piece"
same "$(call POST "/v2/$NAME/blobs/uploads/?digest=$(digest "$WORK/piece")" "${octets[@]}" --data-binary "@$WORK/piece")" 201 "a push"
same "$(call PUT "/v2/$NAME/manifests/late" -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    --data-binary "@$WORK/late")" 201 "the manifest"
has_tags() { [[ $(crane ls "$REGISTRY/$NAME" | sort | tr '\n' ' ') == "late $TAG " ]]; }
await has_tags
! grep -E 'panicked|internal fault' "$SERVER_LOG" || fail "the server's log"
