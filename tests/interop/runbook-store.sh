#!/usr/bin/env bash
# What RUNBOOK has for a store, as written, each in the situation that it is for: damaged contents, a read-only file system, a new
# disk, an index that is gone, a copy of the store, backups with rsync and restic. Clusters are real-runbook's.
source "$(dirname "$0")/harness.sh"
# shellcheck source=tests/interop/real-documents.sh
source "$(dirname "$0")/real-documents.sh"

need skopeo jq rsync restic
cd "$INTEROP_SCRIPTS/../.."
# A network of its own: the addresses are those of the document.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up
open_document RUNBOOK
readonly STORE=$WORK/store DAMAGED="Damaged contents (a blob is damaged)" BACKUP="Backup and restore" NO_ROOM="No room (507, \`d8_registry_store_writable\` 0)"
# Commands without --data-dir take the folder `data` where they are typed.
ln -sfn "$STORE" "$DESK/data"

# ends well|badly SECTION PIECE [FROM=>TO...]: the command ends so; what it says is in SAID, and in WORRIES what on its standard error.
ends() {
    local wanted=$1 ended=well
    SAID=$( (as_written "${@:2}") 2>"$WORK/worries") || ended=badly
    WORRIES=$(<"$WORK/worries")
    same "$ended" "$wanted" "how it ended: $SAID $WORRIES"
}
has() { [[ $SAID$WORRIES == *"$1"* ]] || fail "it does not say '$1': $SAID $WORRIES"; }

# The addresses are those of the document.
PORT=5001 ADMIN_PORT=5002 REGISTRY=127.0.0.1:5001 SERVER_LOG=$INTEROP_LOGS/$INTEROP_NAME.server.log
push() { skopeo copy -q --preserve-digests --dest-creds "$RW" --dest-cert-dir "$(certs_dir)" "oci:$INTEROP_IMAGES/$1:$TAG" "docker://$REGISTRY/system/deckhouse/$2:$TAG"; }
pulls() {
    rm -rf "$WORK/pulled"
    skopeo copy -q --preserve-digests --src-creds "$RO" --src-cert-dir "$(certs_dir)" "docker://$REGISTRY/system/deckhouse/$1:$TAG" "dir:$WORK/pulled"
}
status() { curl -s --max-time 10 "http://127.0.0.1:5002/status"; }
is() { [[ $(status | jq -c "$1") == "$2" ]]; }
says() { grep -q "$1" "$SERVER_LOG"; }

say "a new disk: an empty folder is refused until it is named"
more_store() { echo '  mustExist: true'; }
make_store
write_config config refuse >"$WORK/config.yaml"
! "$INTEROP_SERVER" serve --config "$WORK/config.yaml" >"$WORK/refused" 2>&1 || fail "an empty folder was taken"
grep -q 'init' "$WORK/refused" || fail "it does not say what to do: $(<"$WORK/refused")"
ends well "The disk is not mounted" "d8-registry init --data-dir DIR" "DIR=>$STORE"
ends well "A configuration was refused" "d8-registry serve --check-config --config FILE" "FILE=>$WORK/config.yaml"
sed 's/^mode: Local/mode: Locl/' "$WORK/config.yaml" >"$WORK/wrong.yaml"
ends badly "A configuration was refused" "d8-registry serve --check-config --config FILE" "FILE=>$WORK/wrong.yaml"
has mode
start_again

say "what is asked first"
push image app
push index tool
ends well "Nothing pulls" "http://127.0.0.1:5002/healthz"
ends well "Nothing pulls" "http://127.0.0.1:5002/readyz"
ends well "Nothing pulls" "http://127.0.0.1:5002/status"
jq -e '.store and .index and .certificateExpiry' <<<"$SAID" >/dev/null || fail "no store, index or certificate: $SAID"
ends well "The disk fills up" "du -sh DIR" "DIR=>$STORE"
ends well "$NO_ROOM" "df -i"
ends well "Is the store whole?" "d8-registry verify --data-dir DIR" "DIR=>$STORE"

say "a blob is damaged: who needs it, and a push mends it"
layer=$(jq -r '.layers[0].digest' "$INTEROP_IMAGES/image/blobs/$(digest_of image | tr : /)")
file=$STORE/blobs/sha256/${layer:7:2}/${layer#*:}
printf rot | dd of="$file" conv=notrunc status=none
ends badly "$DAMAGED" "d8-registry verify --data-dir DIR" "DIR=>$STORE"
has wrongBytes
has system/deckhouse/app
ends badly "Work beside requests, and orders" "d8-registry scrub"
ends well "$DAMAGED" "d8-registry admin status --data-dir DIR" "DIR=>$STORE"
jq -e --arg digest "$layer" '[.store.damaged | .. | strings] | (any(. == $digest) and any(contains("system/deckhouse/app")))' <<<"$SAID" >/dev/null ||
    fail "store.damaged has not the layer with its image: $SAID"
name=$(basename "$(find "$STORE/damaged/sha256" -name "${layer#*:}.*")")
ends well "$DAMAGED" "find DIR/repositories -samefile DIR/damaged/sha256/NAME" "DIR=>$STORE" "NAME=>$name"
has "/repositories/system/deckhouse/app/"
! pulls app 2>/dev/null || fail "a damaged image was pulled"
push image app
pulls app
ends well "Work beside requests, and orders" "d8-registry scrub"

say "somebody links a file of the store from outside"
ln "$file" "$WORK/foreign"
ends badly "$DAMAGED" "d8-registry verify --data-dir DIR" "DIR=>$STORE"
has foreignLinks
# Elsewhere files come and go meanwhile.
ends well "$DAMAGED" "find / -xdev -samefile FILE" "find / =>find $WORK " "FILE=>$file"
has "$WORK/foreign"
rm "$WORK/foreign"
ends well "$DAMAGED" "d8-registry verify --data-dir DIR" "DIR=>$STORE"

say "orders"
ends well "Work beside requests, and orders" "d8-registry admin jobs --data-dir DIR" "DIR=>$STORE"
for job in store-maintenance index damage scrub reload collection pins; do has "$job"; done
for section in "Work beside requests, and orders" "The disk fills up" "$BACKUP" D8RegistryRemovalsWait D8RegistryRetentionLeftAlone; do
    ends well "$section" "d8-registry gc"
    has "removed"
done
for section in "$DAMAGED" D8RegistryScrubBehind; do ends well "$section" "d8-registry scrub"; done
ends well "The disk fills up" "d8-registry gc --why DIGEST" "DIGEST=>$layer"
has system/deckhouse/app
ends well "$NO_ROOM" "d8-registry store drop Local|Proxy" "Local|Proxy=>Proxy"
ends badly "$NO_ROOM" "d8-registry store drop Local|Proxy" "Local|Proxy=>Local"
ends well "Work beside requests, and orders" "d8-registry store drop" "store drop=>store drop Proxy --dry-run"
ends well "Work beside requests, and orders" "d8-registry admin run expected"
ends well D8RegistryRetentionLeftAlone "d8-registry retention preview"
for section in D8RegistryScrubBehind D8RegistryJobFailing; do ends well "$section" "d8-registry admin jobs"; done
ends well D8RegistryContentDamaged "d8-registry admin status"
for section in D8RegistryImagesBroken D8RegistryExpectedImagesMissing; do
    ends well "$section" "d8-registry admin status --data-dir DIR" "DIR=>$STORE"
    same "$(jq .store.damagedContents <<<"$SAID")" 0 "damaged contents"
done

say "snapshots, and a restore of what was deleted"
snapshot() { ends well "$BACKUP" "d8-registry snapshot $1" "DIR=>$STORE" "${@:2}"; }
snapshot "create before-v1.71 --data-dir DIR"
snapshot "list --data-dir DIR"
has before-v1.71
same "$(api "$RW" DELETE "/v2/system/deckhouse/app/manifests/$TAG")" 202 "a delete"
! pulls app 2>/dev/null || fail "a deleted tag was pulled"
snapshot "restore before-v1.71 --dry-run"
! pulls app 2>/dev/null || fail "a dry run gave it back"
snapshot "restore before-v1.71 --data-dir DIR"
pulls app
snapshot "rm before-v1.71"

# Backups: what they have comes into a new empty store, which serves.
readonly KEPT=$WORK/kept
mkdir -p "$KEPT"
# new_store NAME: the server ends, its data folder is put away, and it serves from a new one.
new_store() {
    stop_server
    mv "$STORE" "$WORK/store-$1"
    mkdir "$STORE"
    ends well "$BACKUP" "d8-registry init --data-dir DIR" "DIR=>$STORE"
    start_again
    ! pulls app 2>/dev/null || fail "an empty store has an image"
}
both_pull() {
    pulls app
    pulls tool
}
say "rsync: a backup, another one that links what is unchanged, and back"
for one in first second; do
    snapshot "create nightly --data-dir DIR"
    for piece in "--link-dest=../LAST" "--exclude=/blobs"; do
        replaced=("DIR=>$STORE" "BACKUP=>$KEPT" "NEW=>$one")
        [[ $piece != *LAST ]] || replaced+=("LAST=>first")
        ends well "$BACKUP" "$piece" "${replaced[@]}"
    done
    snapshot "rm nightly --data-dir DIR"
done
copy=$(find "$KEPT/second/blobs" -name "${layer#*:}")
same "$(stat -c %h "$copy")" 2 "links of an unchanged content in two backups"
new_store rsync
ends well "$BACKUP" "rsync -a --mkpath" "BACKUP=>$KEPT" "NEW=>second" "DIR=>$STORE"
snapshot "restore back --data-dir DIR"
snapshot "rm back --data-dir DIR"
both_pull

say "restic: a backup, and back"
export RESTIC_REPOSITORY=$WORK/restic RESTIC_PASSWORD=sesame RESTIC_CACHE_DIR=$WORK/restic-cache
ends well "$BACKUP" "restic init"
snapshot "create nightly --data-dir DIR"
ends well "$BACKUP" "restic backup --tag d8-registry DIR/snapshots/nightly" "DIR=>$STORE"
snapshot "rm nightly --data-dir DIR"
new_store restic
ends well "$BACKUP" "restic restore latest --tag d8-registry --target /"
ends well "$BACKUP" "chown -R" "chown -R=>chown -R $(id -u) $STORE/snapshots"
snapshot "restore back --data-dir DIR" "restore back=>restore nightly"
snapshot "rm back --data-dir DIR" "rm back=>rm nightly"
both_pull

say "the store is moved, and its index made anew"
stop_server
ends well "Moving a store" "rsync -aH --delete SRC/ DST/" "SRC=>$STORE" "DST=>$WORK/moved"
ends well "$DAMAGED" "rsync -aH" "rsync -aH=>rsync -aH $STORE/ $WORK/moved-too"
rm -rf "$STORE"
mv "$WORK/moved" "$STORE"
ends well "The index" "d8-registry index rebuild --data-dir DIR" "DIR=>$STORE"
ends well "$DAMAGED" "d8-registry index rebuild"
ends well "Is the store whole?" "d8-registry verify --data-dir DIR" "DIR=>$STORE"
start_again
both_pull

say "the store's file system is read-only, and then it is not"
stop_server
mkdir "$WORK/disk"
mount -t tmpfs -o mode=700 none "$WORK/disk"
cp -a "$STORE/." "$WORK/disk"
mount --move "$WORK/disk" "$STORE"
mount -o remount,ro "$STORE"
start_again
await is .store.refusal '"ReadOnly"'
says "the store's file system is read-only" || fail "the log does not say so"
same "$(metric d8_registry_store_writable)" 0 d8_registry_store_writable
both_pull
! push index other 2>"$WORK/refused" || fail "a push was taken"
ends well "The store is read-only" "mount -o remount,rw" "remount,rw=>remount,rw $STORE"
# It is tried once a minute: a server that began so has no socket for orders.
for ((try = 0; try < 3; try++)); do (await says "takes writes again") 2>/dev/null && break; done
says "takes writes again" || fail "the store takes no writes"
push index other
pulls other

say "bundles, in a store without a server"
stop_server
mkdir -p "$WORK/bundle"
cp -r "$INTEROP_IMAGES/image/." "$WORK/bundle"
ends well "A bundle is damaged, or not all there" "d8-registry bundle inspect" "bundle inspect=>bundle inspect $WORK/bundle"
ends well D8RegistryExpectedImagesMissing "d8-registry bundle import" "bundle import=>bundle import $WORK/bundle"
