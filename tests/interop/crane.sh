#!/usr/bin/env bash
# crane: OCI image and index, tags, copy between repositories, delete; users read from files as
# Kubernetes mounts them.
source "$(dirname "$0")/harness.sh"

need crane
start_server files

say "the challenge offers a token"
challenge=$(curl -sS --max-time 30 --cacert "$CA" -o /dev/null -D - "https://$REGISTRY/v2/" | tr -d '\r' | grep -i '^www-authenticate:')
grep -qF "Bearer realm=\"https://$REGISTRY/auth/token\",service=\"Deckhouse registry\"" <<<"$challenge" ||
    fail "challenge: $challenge"

DOCKER_CONFIG=$WORK/docker
export DOCKER_CONFIG
sign_in() { crane auth login "$REGISTRY" -u "${1%%:*}" -p "${1#*:}"; }

sign_in "$RW"
crane push "$INTEROP_IMAGES/image" "$REGISTRY/team/app:$TAG"
crane push "$INTEROP_IMAGES/index" "$REGISTRY/team/multi:$TAG"
same "$(crane digest "$REGISTRY/team/app:$TAG")" "$(digest_of image)" "digest of the image"
same "$(crane digest "$REGISTRY/team/multi:$TAG")" "$(digest_of index)" "digest of the index"

say "copy into another repository, tag, list"
crane copy "$REGISTRY/team/app:$TAG" "$REGISTRY/other/deeper/app:copied"
crane tag "$REGISTRY/team/app:$TAG" second
same "$(crane ls "$REGISTRY/team/app" | tr '\n' ' ')" "second $TAG " "tags"

say "a reader pulls"
sign_in "$RO"
crane pull --format=oci "$REGISTRY/team/app:$TAG" "$WORK/pulled"
same "$(jq -r '.manifests[0].digest' "$WORK/pulled/index.json")" "$(digest_of image)" "pulled image"
crane validate --remote "$REGISTRY/other/deeper/app:copied"
crane validate --remote "$REGISTRY/team/multi@$(digest_of index)"

say "a reader neither pushes, nor deletes, nor sees the catalog"
refused crane push "$INTEROP_IMAGES/image" "$REGISTRY/team/app:v2"
refused crane tag "$REGISTRY/team/app:$TAG" v3
refused crane delete "$REGISTRY/team/app@$(digest_of image)"
refused crane catalog "$REGISTRY"
same "$(crane ls "$REGISTRY/team/app" | tr '\n' ' ')" "second $TAG " "tags"

say "mirror-puller sees the catalog"
sign_in "mirror-puller:$(password mirror-puller)"
same "$(crane catalog "$REGISTRY" | tr '\n' ' ')" "other/deeper/app team/app team/multi " "catalog"

say "delete in one repository leaves the other whole"
sign_in "$RW"
crane delete "$REGISTRY/team/app:second"
crane delete "$REGISTRY/team/app@$(digest_of image)"
same "$(api "$RO" HEAD "/v2/team/app/manifests/$TAG")" 404 "HEAD of a deleted manifest"
crane validate --remote "$REGISTRY/other/deeper/app:copied"

say "nobody comes in with a wrong password"
same "$(api ro:wrong GET /v2/)" 401 "wrong password"
