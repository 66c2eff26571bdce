#!/usr/bin/env bash
# Mode Proxy and what stands between it and its upstream: token services, corporate proxies, nginx
# with a certificate that signed itself, another Proxy.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/containerd.sh"
source "$(dirname "$0")/pulling.sh"

need docker-registry htpasswd nginx squid skopeo crane containerd ctr

own_hosts upstream.test

say "our own Local with its token service"
local_upstream
origin=$UP
UPSTREAM="imagesRepo: '$UP/$REPO', caFile: $CA, username: ro, password: $(password ro)"
start_server
containerd_of between
pull_by_all "$RO"
local_never_twice "$INTEROP_LOGS/$INTEROP_NAME.upstream.log"

say "a Proxy in front of a Proxy"
front=127.0.0.1:$(free_port)
PORT=${front##*:} ADMIN_PORT=$(free_port) write_config | sed "s#$WORK/store#$WORK/middle#" >"$WORK/middle.yaml"
daemon middle "$INTEROP_SERVER" serve --config "$WORK/middle.yaml"
await listens "$front"
UPSTREAM="imagesRepo: '$front/system/deckhouse', caFile: $CA, username: ro, password: $(password ro)"
another_server
pull_by_all "$RO"
(($(served filled) > 0)) || fail "nothing was filled"

say "squid that demands user and password"
squid_between corp 'p@ss:w#rd'
# Loopback addresses may go past a proxy by themselves; a name that stands for one does not.
UPSTREAM="imagesRepo: 'upstream.test:${origin##*:}/$REPO', caFile: $CA, username: ro, password: $(password ro)"
another_server "HTTPS_PROXY=http://corp:p%40ss%3Aw%23rd@$GATEWAY" NO_PROXY=other.example
pull_by_all "$RO"
say "with a wrong password nothing goes through"
another_server "HTTPS_PROXY=http://corp:wrong@$GATEWAY"
# A tunnel is logged when it ends, which it did with the server before.
await grep -qE "TCP_TUNNEL.* CONNECT upstream.test:${origin##*:} corp " "$SQUID/access.log"
same "$(api "$RO" GET "/v2/system/deckhouse/app-image/manifests/$TAG")" 502 "pull through squid with a wrong password"
say "what NO_PROXY names goes straight"
another_server "HTTPS_PROXY=http://corp:wrong@$GATEWAY" NO_PROXY=.test
same "$(api "$RO" GET "/v2/system/deckhouse/app-image/manifests/$TAG")" 200 "pull past squid"

say "docker-registry behind nginx with a certificate that signed itself"
distribution plain ""
plain=$UP
fill "$plain" --dest-tls-verify=false
for authority in TRUE FALSE; do
    self_signed "self-$authority" "$authority"
    tls_front "nginx-$authority" "$plain" "$WORK/self-$authority.crt" "$WORK/self-$authority.key"
    UPSTREAM="imagesRepo: 'upstream.test:${UP##*:}/$REPO', caFile: $WORK/self-$authority.crt"
    another_server
    pull_by_all "$RO"
    UPSTREAM="imagesRepo: 'upstream.test:${UP##*:}/$REPO', caFile: $CA"
    another_server
    same "$(api "$RO" GET "/v2/system/deckhouse/app-image/manifests/$TAG")" 502 "a certificate that nothing vouches for"
done

say "docker-registry with tokens of another server's"
# A token as a token service signs it; nginx hands it out to whoever has the password.
b64() { base64 -w0 | tr '+/' '-_' | tr -d '='; }
now=$(date +%s)
access=$(jq -cn --arg repo "$REPO" '["image", "index"] | map({type: "repository", name: "\($repo)/app-\(.)", actions: ["pull"]})')
header=$(jq -cn --arg x5c "$(openssl x509 -in "$INTEROP_PKI/token.crt" -outform DER | base64 -w0)" \
    '{typ: "JWT", alg: "RS256", x5c: [$x5c]}' | tr -d '\n' | b64)
claims=$(jq -cn --argjson now "$now" --argjson access "$access" \
    '{iss: "issuer", sub: "puller", aud: "upstream", exp: ($now + 3600), nbf: ($now - 60), iat: $now, jti: "1", access: $access}' |
    tr -d '\n' | b64)
token=$header.$claims.$(printf %s "$header.$claims" | openssl dgst -sha256 -sign "$INTEROP_PKI/token.key" -binary | b64)
htpasswd -bcm "$WORK/token-users" "${LICENSE%%:*}" "${LICENSE#*:}" 2>/dev/null
chmod a+r "$WORK/token-users"
chmod a+x "$WORK"
tls_front tokens "$plain" "$INTEROP_PKI/tls.crt" "$INTEROP_PKI/tls.key" \
    "location /token { default_type application/json; auth_basic tokens; auth_basic_user_file $WORK/token-users; alias $WORK/tokens/; index token.json; }"
desk=$UP
jq -cn --arg token "$token" '{token: $token, expires_in: 3600}' >"$WORK/tokens/token.json"
distribution plain "auth: {token: {realm: 'https://$desk/token/', service: upstream, issuer: issuer, rootcertbundle: $CA}}"
tls_front nginx-token "$UP" "$INTEROP_PKI/tls.crt" "$INTEROP_PKI/tls.key"
UPSTREAM="imagesRepo: '$UP/$REPO', caFile: $CA, username: ${LICENSE%%:*}, password: ${LICENSE#*:}"
another_server
pull_by_all "$RO"
