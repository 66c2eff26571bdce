#!/usr/bin/env bash
# A bundle pushed by `bundle import --to` into Debian's docker-registry (CNCF distribution), with and without a login: every image is
# pulled and compared, what two repositories share is mounted, and a second run sends nothing.
source "$(dirname "$0")/harness.sh"

need docker-registry htpasswd skopeo jq
TO=127.0.0.1:$((24000 + RANDOM % 1000)) OPEN=127.0.0.1:$((25000 + RANDOM % 1000))

# distribution NAME ADDRESS [AUTH]
distribution() {
    cat >"$WORK/$1.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $WORK/$1}}
http: {addr: "$2"}
$3
YAML
    docker-registry serve "$WORK/$1.yml" >>"$INTEROP_LOGS/$INTEROP_NAME.$1.log" 2>&1 &
    DAEMONS+=("$!")
}

# layout PATH TAG IMAGE makes a layout of the bundle.
layout() {
    mkdir -p "$WORK/tree/$1"
    cp -r "$INTEROP_IMAGES/$3/." "$WORK/tree/$1"
    jq --arg tag "$2" '.manifests[0].annotations["io.deckhouse.image.short_tag"] = $tag | .manifests |= .[:1]' \
        "$INTEROP_IMAGES/$3/index.json" >"$WORK/tree/$1/index.json"
    rm -f "$WORK/tree/$1/digest"
}

push() { "$INTEROP_SERVER" bundle import --json "$WORK/bundle" "$@"; }

# compare REGISTRY REPOSITORY:TAG IMAGE
compare() {
    local found
    found=sha256:$(skopeo inspect --raw --tls-verify=false "${LOGIN[@]}" "docker://$1/deckhouse/ee$2" | sha256sum | cut -d' ' -f1)
    same "$found" "$(digest_of "$3")" "$2"
    skopeo copy --all --preserve-digests --src-tls-verify=false "${LOGIN[@]/--creds/--src-creds}" \
        "docker://$1/deckhouse/ee$2" "dir:$WORK/pulled" >/dev/null
}

say "a bundle in chunks"
layout . v1.70.1 image
layout install v1.70.1 image
layout modules/console v1.2.3 image
layout deckhouse-cli/plugins/tool v0.1.0 index
mkdir "$WORK/bundle"
tar -C "$WORK/tree" --format=gnu --sort=name -cf "$WORK/platform.tar" .
split -b 300000 -d -a 4 "$WORK/platform.tar" "$WORK/bundle/platform.tar."
for chunk in "$WORK"/bundle/platform.tar.*; do mv "$chunk" "$chunk.chunk"; done
"$INTEROP_SERVER" bundle verify "$WORK/bundle"

htpasswd -Bbn pusher sesame >"$WORK/logins"
distribution signed "$TO" "auth: {htpasswd: {realm: here, path: $WORK/logins}}"
distribution open "$OPEN" ""
await curl -fsS "http://$OPEN/v2/"
await curl -fsS -u pusher:sesame "http://$TO/v2/"
echo sesame >"$WORK/password"

for registry in "$TO" "$OPEN"; do
    LOGIN=()
    flags=()
    if [[ $registry = "$TO" ]]; then
        LOGIN=(--creds pusher:sesame)
        flags=(--username pusher --password-file "$WORK/password")
    fi
    say "into $registry"
    push --to "http://$registry/deckhouse/ee" "${flags[@]}" >"$WORK/report"
    same "$(jq '[.tags.left, .tags.taken, (.mounted > 0)] | tostring' "$WORK/report")" '"[0,6,true]"' "report of the push"
    compare "$registry" ":v1.70.1" image
    compare "$registry" "/install:v1.70.1" image
    compare "$registry" "/modules/console:v1.2.3" image
    compare "$registry" "/deckhouse-cli/plugins/tool:v0.1.0" index
    same "$(skopeo list-tags --tls-verify=false "${LOGIN[@]}" "docker://$registry/deckhouse/ee/modules" | jq -c .Tags)" '["console"]' "modules"
    push --to "http://$registry/deckhouse/ee" "${flags[@]}" >"$WORK/report"
    same "$(jq '[.bytes, .tags.taken, .manifests.taken] | tostring' "$WORK/report")" '"[0,0,0]"' "report of the second push"
done

say "without the login"
refused push --to "http://$TO/deckhouse/ee"
for daemon in "${DAEMONS[@]}"; do kill -TERM "$daemon"; done
