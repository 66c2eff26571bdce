#!/usr/bin/env bash
# Mode Direct in front of real registries: nothing is kept, and clients sign in with the upstream's
# own user and password.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"

need docker-registry htpasswd nginx skopeo crane containerd ctr
MODE=Direct

# The only users are the upstream's.
roles_of_the_harness=$(declare -f write_users)
write_users() { echo "  upstreamUser: true"; }

say "docker-registry with htpasswd"
distribution htpasswd "auth: {htpasswd: {realm: upstream, path: $(htpasswd_file)}}"
fill "$UP" --dest-tls-verify=false --dest-creds "$LICENSE"
UPSTREAM="imagesRepo: '$UP/$REPO', scheme: HTTP, username: ${LICENSE%%:*}, password: ${LICENSE#*:}"
start_server
containerd_of direct
pull_by_all "$LICENSE"
pull_by_all "$LICENSE"
same "$(find "$WORK/store/blobs" -type f 2>/dev/null | wc -l)" 0 "stored blobs"
(($(served relayed) > 0)) || fail "nothing was relayed"
same "$(served hit)" 0 "hits"

say "nobody else comes in, and nobody pushes"
same "$(api "${LICENSE%%:*}:wrong" GET /v2/)" 401 "wrong password"
refused c images pull --hosts-dir "$(node_hosts '"pull", "resolve"')" --user ro:wrong "$IMAGE-image:v2"
same "$(api "$LICENSE" POST /v2/system/deckhouse/app-image/blobs/uploads/)" 405 "push"
same "$(api "$LICENSE" GET /v2/other/manifests/v1)" 404 "beside the alias"

say "our own Local with its token service, over TLS"
eval "$roles_of_the_harness"
local_upstream
write_users() { echo "  upstreamUser: true"; }
UPSTREAM="imagesRepo: '$UP/$REPO', caFile: $CA, username: ro, password: $(password ro)"
another_server
pull_by_all "$RO"
