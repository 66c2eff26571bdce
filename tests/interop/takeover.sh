#!/usr/bin/env bash
# Take-over of what Debian's docker-registry (CNCF distribution) stored: pushed by skopeo and crane, with deletes and uploads left
# behind, and as a pull-through cache that has a part. Copied and moved, every image pulled and compared; out again as a layout
# that skopeo reads. On XFS, where files share their bytes, neither way writes one of them again.
source "$(dirname "$0")/harness.sh"

need docker-registry skopeo crane
OLD=127.0.0.1:$((34000 + RANDOM % 1000)) CACHE=127.0.0.1:$((35000 + RANDOM % 1000))

# distribution ROOT ADDRESS [UPSTREAM]
distribution() {
    local config=$WORK/distribution-$2.yml
    cat >"$config" <<YAML
version: 0.1
storage:
  delete: {enabled: true}
  filesystem: {rootdirectory: $1}
http:
  addr: $2
${3:+proxy:
  remoteurl: "http://$3"}
YAML
    docker-registry serve "$config" >>"$INTEROP_LOGS/$INTEROP_NAME.distribution.log" 2>&1 &
    OLD_PID=$!
    DAEMONS+=("$OLD_PID")
    await curl -fsS "http://$2/v2/"
}

end_distribution() {
    kill -TERM "$OLD_PID"
    wait "$OLD_PID" || true
    DAEMONS=()
}

# facts DIR prints what must not change of a tree: owner, mode, links, times of change, size, content.
facts() { (cd "$1" && find . -printf '%p %U:%G %m %n %T@ %C@ %s\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

# The machine's disk may be fuller than a store's default allows.
echo 'store: {reserveBytes: 0}' >"$WORK/import.yaml"
import() { "$INTEROP_SERVER" import --json --config "$WORK/import.yaml" --data-dir "${STORE:-$WORK/store}" "$@"; }

copy() { skopeo copy --all --preserve-digests --src-tls-verify=false --dest-tls-verify=false "$@"; }

# compare REPOSITORY TAG DIGEST pulls an image with all its platforms and hashes what came.
compare() {
    local to=$WORK/pulled
    rm -rf "$to"
    crane pull --format oci "$REGISTRY/$1:$2" "$to" 2>/dev/null
    same "$(jq -r '.manifests[0].digest' "$to/index.json")" "$3" "$1:$2"
    (cd "$to/blobs/sha256" && for blob in *; do echo "$blob  $blob"; done | sha256sum --check --quiet) || fail "$1:$2 has wrong bytes"
}

say "a registry with images, deletes and uploads"
distribution "$WORK/old" "$OLD"
copy "oci:$INTEROP_IMAGES/image:$TAG" "docker://$OLD/system/deckhouse:$TAG"
copy "oci:$INTEROP_IMAGES/index:$TAG" "docker://$OLD/system/deckhouse/multi:$TAG"
copy "docker://$OLD/system/deckhouse:$TAG" "docker://$OLD/other:gone"
crane --insecure copy "$OLD/system/deckhouse/multi:$TAG" "$OLD/system/deckhouse/multi:second" 2>/dev/null
skopeo copy --dest-tls-verify=false --format v2s2 "oci:$INTEROP_IMAGES/image:$TAG" "docker://$OLD/system/deckhouse:docker"
skopeo delete --tls-verify=false "docker://$OLD/other:gone"
location=$(curl -fsSi -X POST "http://$OLD/v2/system/deckhouse/blobs/uploads/" | tr -d '\r' | awk 'tolower($1) == "location:" { print $2 }')
curl -fsS -X PATCH -H 'Content-Type: application/octet-stream' --data-binary half "$location" -o /dev/null
docker=$(skopeo inspect --raw --tls-verify=false "docker://$OLD/system/deckhouse:docker" | sha256sum | cut -d' ' -f1)

say "a cache that has one platform of an index"
distribution_pid=$OLD_PID
distribution "$WORK/cache" "$CACHE" "$OLD"
skopeo inspect --tls-verify=false "docker://$CACHE/system/deckhouse:$TAG" >/dev/null
copy "docker://$CACHE/system/deckhouse:$TAG" "dir:$WORK/by-cache"
crane --insecure manifest "$CACHE/system/deckhouse/multi:$TAG" >/dev/null
await test -f "$WORK/cache/scheduler-state.json"
end_distribution
OLD_PID=$distribution_pid
end_distribution

start_server
stop_server
trap - EXIT
for how in copied moved; do
    say "taken over, $how"
    make_store
    "$INTEROP_SERVER" init --data-dir "$WORK/store" >/dev/null
    before=$(facts "$WORK/old")
    flags=()
    [[ $how == copied ]] || flags=(--move)
    import --from-distribution "$WORK/old" "${flags[@]}" --dry-run >"$WORK/dry.json"
    import --from-distribution "$WORK/old" "${flags[@]}" >"$WORK/report.json"
    same "$(jq -c '[.tags.taken, .tags.left, .unfinishedUploads]' "$WORK/report.json")" '[4,0,1]' "report"
    same "$(jq -c '[.tags, .manifests, .bytes]' "$WORK/dry.json")" "$(jq -c '[.tags, .manifests, .bytes]' "$WORK/report.json")" "dry run"
    if [[ $how == copied ]]; then
        [[ $(facts "$WORK/old") == "$before" ]] || fail "the source was written"
    else
        same "$(jq .movedBytes "$WORK/report.json")" "$(jq .bytes "$WORK/report.json")" "bytes moved"
    fi
    start_again
    export DOCKER_CONFIG
    DOCKER_CONFIG=$(docker_config "$RO")
    compare system/deckhouse "$TAG" "$(digest_of image)"
    compare system/deckhouse docker "sha256:$docker"
    compare system/deckhouse/multi "$TAG" "$(digest_of index)"
    compare system/deckhouse/multi second "$(digest_of index)"
    same "$(api "$RO" HEAD /v2/other/manifests/gone)" 404 "what was deleted"
    stop_server
done

say "a part of a cache: what is whole comes, the rest is named"
make_store
"$INTEROP_SERVER" init --data-dir "$WORK/store" >/dev/null
ended=0
import --from-distribution "$WORK/cache" >"$WORK/report.json" || ended=$?
same "$ended" 1 "exit code of a part"
same "$(jq -r '[.tags.taken, .tags.left, .left[0].image] | @csv' "$WORK/report.json")" "1,1,\"system/deckhouse/multi:$TAG\"" "report of a part"
import --from-distribution "$WORK/cache" --allow-missing >/dev/null

say "out as a layout that skopeo reads, and in again"
"$INTEROP_SERVER" export --to-oci "$WORK/layout" --data-dir "$WORK/store" >/dev/null
same "$(skopeo inspect --format '{{.Digest}}' "oci:$WORK/layout:system/deckhouse:$TAG")" "$(digest_of image)" "inspected"
skopeo copy --preserve-digests "oci:$WORK/layout:system/deckhouse:$TAG" "dir:$WORK/by-skopeo"
make_store
"$INTEROP_SERVER" init --data-dir "$WORK/store" >/dev/null
import --from-oci "$WORK/layout" >"$WORK/report.json"
same "$(jq -c '[.tags.taken, .tags.left]' "$WORK/report.json")" '[1,0]' "report of a layout"

say "where the file system shares bytes (XFS): in and out without a copy"
need mkfs.xfs
sharing=$WORK/sharing
mkdir "$sharing"
truncate -s 400M "$WORK/xfs"
mkfs.xfs -q -m reflink=1 "$WORK/xfs"
if ! mount -o loop "$WORK/xfs" "$sharing" 2>"$WORK/mount-error"; then
    say "left out, XFS can't be mounted: $(tr -s '\t\n' ' ' <"$WORK/mount-error")"
    exit
fi
mkdir -p "$sharing/source/blobs/sha256"
# into FILE moves it among the contents of the source and prints its digest.
into() {
    local sum
    sum=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$sharing/source/blobs/sha256/$sum"
    echo "sha256:$sum"
}
# A second copy of these would be seen in what the file system has left.
readonly BYTES=$((128 << 20))
head -c "$BYTES" /dev/urandom >"$WORK/layer"
printf '{}' >"$WORK/config"
layer=$(into "$WORK/layer") config=$(into "$WORK/config")
jq -cn --arg layer "$layer" --arg config "$config" --argjson bytes "$BYTES" '{schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: 2},
    layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: $bytes}]}' >"$WORK/manifest"
size=$(stat -c %s "$WORK/manifest") manifest=$(into "$WORK/manifest")
jq -cn --arg manifest "$manifest" --argjson size "$size" '{schemaVersion: 2, manifests: [{digest: $manifest, size: $size,
    mediaType: "application/vnd.oci.image.manifest.v1+json", annotations: {"org.opencontainers.image.ref.name": "team/app:v1"}}]}' \
    >"$sharing/source/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$sharing/source/oci-layout"
free() { sync -f "$sharing" && stat -f -c '%a * %S' "$sharing" | xargs -I{} bash -c 'echo $(({}))'; }
before=$(free)
"$INTEROP_SERVER" init --data-dir "$sharing/store" >/dev/null
STORE=$sharing/store import --from-oci "$sharing/source" >"$WORK/report.json"
same "$(jq -c '[.tags.taken, .bytes, .sharedBytes]' "$WORK/report.json")" "[1,$((BYTES + 2)),$((BYTES + 2))]" "report of shared bytes"
"$INTEROP_SERVER" export --to-oci "$sharing/layout" --data-dir "$sharing/store" >/dev/null
taken=$((before - $(free)))
((taken < BYTES / 4)) || fail "in and out took $taken bytes of the file system for an image of $BYTES"
say "in and out took $taken bytes of the file system for an image of $BYTES"
"$INTEROP_SERVER" verify --data-dir "$sharing/store" >/dev/null
same "$(skopeo inspect --format '{{.Digest}}' "oci:$sharing/layout:team/app:v1")" "$manifest" "what came out"
