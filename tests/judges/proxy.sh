#!/usr/bin/env bash
# Mode Proxy in front of real registries: each blob is fetched once, and pulls go on when the
# upstream is gone.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"

need docker-registry htpasswd skopeo crane containerd ctr

say "docker-registry with htpasswd"
distribution htpasswd "auth: {htpasswd: {realm: upstream, path: $(htpasswd_file)}}"
upstream=$DAEMON
fill "$UP" --dest-tls-verify=false --dest-creds "$LICENSE"
sent=$JUDGES_LOGS/$JUDGE.htpasswd.log
: >"$sent"
UPSTREAM="imagesRepo: '$UP/$REPO', scheme: HTTP, username: ${LICENSE%%:*}, password: ${LICENSE#*:}"
start_server
containerd_of proxy
pull_by_all "$RO"
(($(served filled) > 0)) || fail "nothing was filled"
(($(served hit) > 0)) || fail "nothing was hit"
never_twice "$sent"

say "black-holed: it takes connections and says nothing"
kill -STOP "$upstream"
milliseconds pull_by_containerd "$RO" image
say "the first pull took $TOOK ms"
((TOOK < 5000)) || fail "the first pull from a black-holed upstream took $TOOK ms, more than 5 s"
pull_by_containerd "$RO"
milliseconds pull_by_containerd "$RO" image
say "a later pull took $TOOK ms"
# Half of it is containerd's own on a slow machine; a dial that is waited for takes longer.
((TOOK < 2000)) || fail "a later pull from a black-holed upstream took $TOOK ms"
(($(served stale) > 0)) || fail "nothing was stale"
kill -CONT "$upstream"

say "killed: everything is pulled again, by tag"
kill -KILL "$upstream"
wait "$upstream" || true
pull_by_all "$RO"
never=$(api "$RO" GET /v2/system/deckhouse/app-image/manifests/never-pulled)
[[ $never == 50[24] ]] || fail "what was never pulled: got '$never', want 502 or 504"

say "the switch to Local: a layer that was never pulled is pushed, the rest is there"
distribution htpasswd "auth: {htpasswd: {realm: upstream, path: $(htpasswd_file)}}"
UPSTREAM="imagesRepo: '$UP/$REPO', scheme: HTTP, username: ${LICENSE%%:*}, password: ${LICENSE#*:}"
another_server
DOCKER_CONFIG=$(docker_config "$RO")
export DOCKER_CONFIG
crane manifest "$REGISTRY/system/deckhouse/app-image:$TAG" >"$WORK/manifest"
mapfile -t layers < <(jq -r '.layers[].digest, .config.digest' "$WORK/manifest")
for layer in "${layers[@]:1}"; do
    crane blob "$REGISTRY/system/deckhouse/app-image@$layer" >/dev/null
done
MODE=Local
write_config >"$WORK/config.yaml"
kill -HUP "$SERVER"
mode_is() { curl -fsS "http://127.0.0.1:$ADMIN_PORT/status" | jq -e --arg mode "$1" '.mode == $mode'; }
await mode_is Local
skopeo copy -q --preserve-digests --dest-cert-dir "$(certs_dir)" --dest-creds "$RW" "oci:$JUDGES_IMAGES/image:$TAG" \
    "docker://$REGISTRY/system/deckhouse/app-image:$TAG"
crane validate --remote "$REGISTRY/system/deckhouse/app-image:$TAG"
pull_by_containerd "$RO" image
