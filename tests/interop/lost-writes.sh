#!/usr/bin/env bash
# A disk that takes bytes into memory and then can't write them (a file system on a device whose own
# storage has run out): such a push is not acknowledged and leaves nothing, and what was acknowledged
# before and after is there when it is read from the device.
source "$(dirname "$0")/harness.sh"

need curl mkfs.ext4

# The device under the store: 64 MiB of real room behind 400 MiB that the file system believes in.
make_store() {
    mkdir -p "$WORK/store" "$WORK/device"
    mount -t tmpfs -o size=64m none "$WORK/device" 2>"$WORK/mount-error" ||
        skip "no tmpfs can be mounted: $(tr -s '\t\n' ' ' <"$WORK/mount-error")"
    truncate -s 400M "$WORK/device/image"
    # No journal: a file system that lost its journal takes no more writes, and that is not the question here.
    mkfs.ext4 -q -F -O ^has_journal "$WORK/device/image"
    mount -o loop,errors=continue "$WORK/device/image" "$WORK/store" 2>"$WORK/mount-error" ||
        skip "no loop device can be mounted: $(tr -s '\t\n' ' ' <"$WORK/mount-error")"
    rmdir "$WORK/store/lost+found"
}
start_server

# push FILE prints the status of POST, PATCH and PUT, as far as it came.
push() {
    local upload status
    upload=$(curl -sS --max-time 60 --cacert "$CA" -u "$RW" -X POST -o /dev/null -D - \
        "https://$REGISTRY/v2/team/app/blobs/uploads/" | tr -d '\r' | awk 'tolower($1) == "location:" { print $2 }')
    status=$(curl -sS --max-time 60 --cacert "$CA" -u "$RW" -X PATCH -o "$WORK/answer" -w '%{http_code}' \
        -H 'Content-Type: application/octet-stream' -T "$1" "https://$REGISTRY$upload")
    if [[ $status == 202 ]]; then
        status=$(curl -sS --max-time 60 --cacert "$CA" -u "$RW" -X PUT -o "$WORK/answer" -w '%{http_code}' \
            "https://$REGISTRY$upload?digest=$(digest "$1")")
    fi
    echo "$status"
}
digest() { echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"; }
for name in before lost after; do
    head -c $((8 << 20)) /dev/urandom >"$WORK/$name"
done

same "$(push "$WORK/before")" 201 "a push with room behind the disk"

say "the room behind the disk runs out"
sync -f "$WORK/store"
cat /dev/zero >"$WORK/device/ballast" 2>/dev/null || true
got=$(push "$WORK/lost")
[[ $got == 5?? ]] || fail "a push whose bytes are lost was answered $got"
say "answered $got: $(cat "$WORK/answer")"
same "$(api "$RW" HEAD "/v2/team/app/blobs/$(digest "$WORK/lost")")" 404 "HEAD of the lost blob"
same "$(find "$WORK/store/uploads" -mindepth 1 | wc -l)" 0 "entries below uploads/"
same "$(api "$RW" HEAD "/v2/team/app/blobs/$(digest "$WORK/before")")" 200 "HEAD of the blob from before"

say "there is room again"
rm "$WORK/device/ballast"
same "$(push "$WORK/after")" 201 "the next push"
same "$(push "$WORK/lost")" 201 "the lost push once more"

say "what was acknowledged is on the device"
stop_server
umount "$WORK/store"
mount -o loop "$WORK/device/image" "$WORK/store"
start_again
for name in before lost after; do
    same "$(curl -sS --max-time 60 --cacert "$CA" -u "$RW" "https://$REGISTRY/v2/team/app/blobs/$(digest "$WORK/$name")" |
        sha256sum | cut -d' ' -f1)" "$(sha256sum "$WORK/$name" | cut -d' ' -f1)" "content of $name"
done
check_store

say "a Proxy whose disk loses what is filled: its clients get all bytes, and none of them stay"
source "$(dirname "$0")/pulling.sh"
# shellcheck disable=SC2317 # called by local_upstream
fill() {
    REGISTRY=$1
    for name in before lost; do
        same "$(push "$WORK/$name")" 201 "a push to the upstream"
    done
}
stop_server
umount "$WORK/store"
umount "$WORK/device"
# The first call makes the upstream's folder, which is on a disk without faults.
mkdir "$WORK/upstream"
local_upstream
UPSTREAM="imagesRepo: '$UP/team', caFile: $CA, username: ro, password: $(password ro)"
start_server
# pulled NAME prints the digest of what a client gets.
pulled() {
    echo "sha256:$(curl -sS --max-time 60 --cacert "$CA" -u "$RW" \
        "https://$REGISTRY/v2/system/deckhouse/app/blobs/$(digest "$WORK/$1")" | sha256sum | cut -d' ' -f1)"
}
same "$(pulled before)" "$(digest "$WORK/before")" "a fill with room behind the disk"
sync -f "$WORK/store"
cat /dev/zero >"$WORK/device/ballast" 2>/dev/null || true
same "$(pulled lost)" "$(digest "$WORK/lost")" "a fill whose bytes are lost"
nothing_left() { [[ $(find "$WORK/store/fills" -type f | wc -l) == 0 ]]; }
await nothing_left
same "$(find "$WORK/store/repositories" -name "$(sha256sum "$WORK/lost" | cut -d' ' -f1)" | wc -l)" 0 "memberships of the lost blob"
rm "$WORK/device/ballast"
same "$(pulled lost)" "$(digest "$WORK/lost")" "a fill with room again"
stored() { (($(find "$WORK/store/repositories" -name "$(sha256sum "$WORK/lost" | cut -d' ' -f1)" | wc -l) == 1)); }
await stored
same "$(pulled before)" "$(digest "$WORK/before")" "a hit"
check_store
