#!/usr/bin/env bash
# Take-over of what Debian's docker-registry (CNCF distribution) stored: pushed by skopeo and crane, with deletes and uploads left
# behind, and as a pull-through cache that has a part. Copied and moved, every image pulled and compared; out again as a layout
# that skopeo reads.
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
import() { "$INTEROP_SERVER" import --json --config "$WORK/import.yaml" --data-dir "$WORK/store" "$@"; }

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
