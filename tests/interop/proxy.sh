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
sent=$INTEROP_LOGS/$INTEROP_NAME.htpasswd.log
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
# Figures for whoever reads the log; on a busy machine they say more of it than of the server.
milliseconds pull_by_containerd "$RO" image
say "the first pull took $TOOK ms"
circuit_is_open() {
    pull_by_containerd "$RO" image
    [[ $(metric d8_registry_upstream_circuits_open) == 1 ]]
}
await circuit_is_open
milliseconds pull_by_containerd "$RO" image
say "a pull behind the open circuit took $TOOK ms"
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
skopeo copy -q --preserve-digests --dest-cert-dir "$(certs_dir)" --dest-creds "$RW" "oci:$INTEROP_IMAGES/image:$TAG" \
    "docker://$REGISTRY/system/deckhouse/app-image:$TAG"
crane validate --remote "$REGISTRY/system/deckhouse/app-image:$TAG"
pull_by_containerd "$RO" image
