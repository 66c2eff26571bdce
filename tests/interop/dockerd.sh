#!/usr/bin/env bash
# dockerd and the docker client, without networks. dockerd calls every loopback address insecure:
# it speaks TLS but does not check the certificate; the other tests do.
source "$(dirname "$0")/harness.sh"

need dockerd docker skopeo
start_server

echo "{}" >"$WORK/daemon.json"
socket=unix://$WORK/docker.sock
dockerd --bridge=none --iptables=false --ip6tables=false --storage-driver=vfs \
    --data-root "$WORK/data" --exec-root "$WORK/exec" --pidfile "$WORK/docker.pid" \
    --config-file "$WORK/daemon.json" --host "$socket" >"$INTEROP_LOGS/$INTEROP_NAME.daemon.log" 2>&1 &
DAEMONS+=($!)
d() { docker --host "$socket" --config "$WORK/client" "$@"; }
await d version

skopeo copy "oci:$INTEROP_IMAGES/image:$TAG" "docker-archive:$WORK/image.tar:local/app:$TAG"
d load --input "$WORK/image.tar"
ref=$REGISTRY/team/app:$TAG
d tag "local/app:$TAG" "$ref"

sign_in() { d login -u "${1%%:*}" --password-stdin "$REGISTRY" <<<"${1#*:}"; }
say "nobody comes in with a wrong password"
refused sign_in rw:wrong

sign_in "$RW"
d push "$ref"
say "a second push finds everything there"
d push "$ref" | tee "$WORK/again"
[[ $(grep -c 'Layer already exists' "$WORK/again") == 5 ]] || fail "layers were pushed again"

say "a reader pulls, by tag and by digest"
digest=$(d image inspect --format '{{index .RepoDigests 0}}' "$ref")
id=$(d image inspect --format '{{.Id}}' "$ref")
d logout "$REGISTRY"
sign_in "$RO"
d image rm --force "$id"
d pull "$ref"
same "$(d image inspect --format '{{.Id}}' "$ref")" "$id" "id of the pulled image"
d image rm --force "$id"
d pull "$digest"

say "a reader does not push"
d tag "$digest" "$REGISTRY/team/app:v2"
refused d push "$REGISTRY/team/app:v2"
same "$(api "$RO" HEAD /v2/team/app/manifests/v2)" 404 "HEAD of what a reader pushed"
