#!/usr/bin/env bash
# A bundle of 8 GiB on one file system into a store on another of 10 GiB, without a reserve: imported, served, verified, and served as it
# is. None of it takes more anonymous memory than LIMIT, and the import at most RATIO times as long as a bare loop that reads, hashes, writes
# and syncs the same bytes.
# Takes minutes and 27 GiB of disk: `make e2e` runs it, run.sh only when it is named. Figures are a release build's.
source "$(dirname "$0")/harness.sh"

need curl jq openssl python3 mkfs.ext4 losetup
readonly GIB=$((1 << 30)) LAYERS=8 LIMIT=$((64 << 10)) RATIO=1.5
free=$(df --output=avail --block-size=1G "$WORK" | tail -n 1 | tr -d ' ')
((free >= 27)) || skip "27 GiB of disk have to be free in $WORK, there are $free"

say "a bundle: one image with $LAYERS layers of 1 GiB"
mkdir "$WORK/bundle"
python3 - "$WORK/bundle/platform.tar" $LAYERS $GIB <<'PYTHON'
import hashlib, json, subprocess, sys, tarfile
path, layers, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
IMAGE, CONFIG = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

def head(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)

def descriptor(kind, digest, size):
    return {"mediaType": kind, "digest": "sha256:" + digest, "size": size}

with open(path, "wb") as tar:
    def add(name, content):
        tar.write(head(name, len(content)) + content + bytes(-len(content) % 512))

    def blob(content):
        digest = hashlib.sha256(content).hexdigest()
        add("blobs/sha256/" + digest, content)
        return digest

    named = []
    for number in range(layers):
        # Nothing compresses it; the header is written when the digest is known.
        noise = subprocess.Popen(["openssl", "enc", "-aes-128-ctr", "-nosalt", "-K", "%032x" % (number + 1), "-iv", "0" * 32,
                                  "-in", "/dev/zero"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        at, left, hashed = tar.tell(), length, hashlib.sha256()
        tar.seek(512, 1)
        while left:
            piece = noise.stdout.read(min(1 << 20, left))
            hashed.update(piece)
            tar.write(piece)
            left -= len(piece)
        noise.kill()
        noise.wait()
        end = tar.tell()
        tar.seek(at)
        tar.write(head("blobs/sha256/" + hashed.hexdigest(), length))
        tar.seek(end)
        named.append(descriptor(LAYER, hashed.hexdigest(), length))
    manifest = json.dumps({"schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, blob(b"{}"), 2), "layers": named})
    digest = blob(manifest.encode())
    entry = {**descriptor(IMAGE, digest, len(manifest)), "annotations": {"io.deckhouse.image.short_tag": "v1.70.1"}}
    add("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    tar.write(bytes(1024))
PYTHON
BYTES=$(stat -c %s "$WORK/bundle/platform.tar")

say "a file system of 10 GiB"
# What is sent to the device goes to the disk, as where there is no loop: else it waits in memory for the sync at the end.
mount_store() {
    local device
    device=$(losetup --find --show --direct-io=on "$WORK/disk")
    mount "$device" "$WORK/store"
    # With the mount.
    losetup --detach "$device"
}
make_store() {
    umount "$WORK/store" 2>/dev/null || true
    rm -rf "$WORK/store" "$WORK/disk"
    mkdir "$WORK/store"
    truncate -s 10G "$WORK/disk"
    mkfs.ext4 -q -m 0 "$WORK/disk"
    mount_store 2>"$WORK/mount-error" ||
        skip "no file system can be mounted: $(tr -s '\t\n' ' ' <"$WORK/mount-error")"
    rmdir "$WORK/store/lost+found"
}

# cold lets the kernel forget the bundle.
cold() {
    python3 -c 'import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
os.fsync(file)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)' "$WORK/bundle/platform.tar"
}

# bare prints the seconds of a loop that reads, hashes, writes and syncs the same bytes.
bare() {
    make_store
    cold
    python3 - "$WORK/bundle/platform.tar" "$WORK/store/copy" <<'PYTHON'
import hashlib, os, sys, time
begin, hashed = time.monotonic(), hashlib.sha256()
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
while piece := os.read(source, 1 << 20):
    hashed.update(piece)
    os.write(target, piece)
os.fsync(target)
print("%.1f" % (time.monotonic() - begin))
PYTHON
    umount "$WORK/store"
}

# anonymous PID prints the memory in KiB that a process has for itself, without files.
anonymous() { awk '/^RssAnon:/ { print $2 }' "/proc/$1/status" 2>/dev/null || echo 0; }

# watch PID writes it until it is ended.
watch() {
    while :; do
        anonymous "$1"
        sleep 0.05
    done
}

# flat WHAT PID COMMAND... runs the command and fails if the process had more anonymous memory than LIMIT meanwhile. Without a PID it is the
# command's own. Sets SECONDS_TAKEN.
flat() {
    local what=$1 of=$2 begin watcher status=0 most
    shift 2
    begin=$(date +%s.%N)
    if [[ -n $of ]]; then
        watch "$of" >"$WORK/samples" &
        watcher=$!
        "$@" || status=$?
    else
        "$@" &
        of=$!
        watch "$of" >"$WORK/samples" &
        watcher=$!
        wait "$of" || status=$?
    fi
    SECONDS_TAKEN=$(awk -v begin="$begin" -v end="$(date +%s.%N)" 'BEGIN { printf "%.1f", end - begin }')
    kill "$watcher"
    wait "$watcher" || true
    ((status == 0)) || fail "$what ended with $status"
    most=$(sort -n "$WORK/samples" | tail -n 1)
    say "$what: $SECONDS_TAKEN s, $(awk -v b="$BYTES" -v s="$SECONDS_TAKEN" 'BEGIN { printf "%d", b / s / 1e6 }') MB/s;" \
        "$(awk -v most="$most" 'BEGIN { printf "%.1f", most / 1024 }') MiB of anonymous memory at most, $(wc -l <"$WORK/samples") samples"
    ((most <= LIMIT)) || fail "$what took $most KiB"
}

d8r() { exec "$INTEROP_SERVER" "$@"; }
imported() { d8r bundle import "$WORK/bundle" --data-dir "$WORK/store" --config "$WORK/import.yaml" --json >"$WORK/report"; }
verified() { d8r bundle verify "$WORK/bundle" >"$WORK/verified"; }
checked() { d8r verify --data-dir "$WORK/store" >"$WORK/verified"; }
printf 'store: {reserveBytes: 0}\n' >"$WORK/import.yaml"

cold
flat "the bundle verified" "" verified
first=$(bare)
say "bare loop: $first s"
make_store
"$INTEROP_SERVER" init --data-dir "$WORK/store"
cold
flat "imported" "" imported
import=$SECONDS_TAKEN
same "$(jq -r '[.tags.taken, .tags.left] | tostring' "$WORK/report")" '[1,0]' "tags"
flat "the store verified" "" checked
umount "$WORK/store"
mv "$WORK/disk" "$WORK/kept"
second=$(bare)
say "bare loop again: $second s"
mv "$WORK/kept" "$WORK/disk"
TIMES=$(awk -v import="$import" -v first="$first" -v second="$second" 'BEGIN { printf "%.2f", import / ((first + second) / 2) }')
say "the import takes $TIMES times as long as a bare loop"

# pulled takes every layer and compares it with its digest.
pulled() {
    local manifest digest found
    manifest=$(curl -fsS --cacert "$CA" -u "$RO" "https://$REGISTRY/v2/system/deckhouse/manifests/v1.70.1" \
        -H 'Accept: application/vnd.oci.image.manifest.v1+json')
    for digest in $(jq -r '.layers[].digest' <<<"$manifest"); do
        found=$(curl -fsS --cacert "$CA" -u "$RO" "https://$REGISTRY/v2/system/deckhouse/blobs/$digest" | openssl dgst -sha256 -r | cut -d' ' -f1)
        same "$found" "${digest#*:}" "digest of what came out"
    done
}

say "served from the store"
make_store() { mountpoint -q "$WORK/store" || mount_store; }
start_server
flat "pulled from the store" "$SERVER" pulled
stop_server
umount "$WORK/store"

say "served as it is"
make_store() {
    rm -rf "$WORK/store"
    mkdir "$WORK/store"
}
run_server() { exec "$INTEROP_SERVER" serve --config "$WORK/config.yaml" --bundle "$WORK/bundle"; }
start_server
cold
flat "pulled from the bundle, hashed first" "$SERVER" pulled
flat "pulled from the bundle again" "$SERVER" pulled
stop_server

# Last, so that all figures are there. The slower loop counts: a miss by less than the two differ is none.
awk -v import="$import" -v first="$first" -v second="$second" -v most=$RATIO \
    'BEGIN { slower = first > second ? first : second; exit import / slower > most }' ||
    fail "the import takes $TIMES times as long as a bare loop, and $RATIO are wanted"
