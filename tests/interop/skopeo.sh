#!/usr/bin/env bash
# skopeo: OCI and Docker schema 2, an index with all its platforms, list, inspect, delete.
source "$(dirname "$0")/harness.sh"

need skopeo
start_server

certs=$(certs_dir)
push() { skopeo copy --dest-cert-dir "$certs" --dest-creds "$1" "${@:2}"; }
pull() { skopeo copy --src-cert-dir "$certs" --src-creds "$1" "${@:2}"; }

push "$RW" --preserve-digests "oci:$INTEROP_IMAGES/image:$TAG" "docker://$REGISTRY/team/app:$TAG"
push "$RW" --all --preserve-digests "oci:$INTEROP_IMAGES/index:$TAG" "docker://$REGISTRY/team/multi:$TAG"
push "$RW" --format v2s2 "oci:$INTEROP_IMAGES/image:$TAG" "docker://$REGISTRY/team/app:docker"

say "a reader lists and pulls"
same "$(skopeo list-tags --cert-dir "$certs" --creds "$RO" "docker://$REGISTRY/team/app" | jq -rc .Tags)" \
    "[\"docker\",\"$TAG\"]" "tags"
same "$(skopeo inspect --cert-dir "$certs" --creds "$RO" --format '{{.Digest}}' "docker://$REGISTRY/team/app:$TAG")" \
    "$(digest_of image)" "digest of the image"
for tag in "$TAG" docker; do
    pull "$RO" --preserve-digests "docker://$REGISTRY/team/app:$tag" "dir:$WORK/pulled-$tag"
done
pull "$RO" --all --preserve-digests "docker://$REGISTRY/team/multi@$(digest_of index)" "oci:$WORK/multi:$TAG"
same "sha256:$(sha256sum <"$WORK/pulled-$TAG/manifest.json" | cut -d' ' -f1)" "$(digest_of image)" "pulled manifest"
same "$(jq -r .mediaType "$WORK/pulled-docker/manifest.json")" \
    application/vnd.docker.distribution.manifest.v2+json "media type of the Docker image"
same "$(jq -r '.manifests[0].digest' "$WORK/multi/index.json")" "$(digest_of index)" "pulled index"

say "a reader neither pushes nor deletes"
refused push "$RO" "oci:$INTEROP_IMAGES/image:$TAG" "docker://$REGISTRY/team/app:v2"
refused skopeo delete --cert-dir "$certs" --creds "$RO" "docker://$REGISTRY/team/app:$TAG"

skopeo delete --cert-dir "$certs" --creds "$RW" "docker://$REGISTRY/team/app:$TAG"
same "$(api "$RO" HEAD "/v2/team/app/manifests/$TAG")" 404 "HEAD of a deleted image"
