#!/usr/bin/env bash
# The first master before there is a cluster, as INSTALL has it: the binary serves a bundle from its disk while its store is filled, or
# what an upstream gives it, and then the static pod of the chart takes its place, at the same port and with the same data.
source "$(dirname "$0")/harness.sh"

need helm ip setpriv crane openssl jq
readonly PYTHON=$INTEROP_TOOLS/../venv/bin/python TOOLS=$INTEROP_SCRIPTS/../tools/helm
[[ -x $PYTHON ]] || skip "can't get the Python environment"
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up
ip address add 10.0.0.1/32 dev lo
cd "$INTEROP_SCRIPTS/../.."
# The server's user may look into it, as into a node's file system.
mount -t tmpfs -o mode=755 tmpfs /mnt
readonly ADDRESS=10.0.0.1 OUTSIDE=127.0.0.1:5000 FIRST=/mnt/first IMAGE=system/deckhouse:v1.70.1
install -m 755 "$INTEROP_SERVER" /mnt/d8-registry

say "a bundle on a disk"
mkdir -p /mnt/usb/layout /mnt/usb/bundle
cp -r "$INTEROP_IMAGES/image/." /mnt/usb/layout
jq '.manifests[0].annotations = {"org.opencontainers.image.ref.name": "v1.70.1", "io.deckhouse.image.short_tag": "v1.70.1"}' \
    "$INTEROP_IMAGES/image/index.json" >/mnt/usb/layout/index.json
tar -C /mnt/usb/layout -cf /mnt/usb/bundle/platform.tar .
digest=$(jq -r '.manifests[0].digest' /mnt/usb/layout/index.json)

say "files of the first master: authority, certificate, users, configuration"
mkdir -p "$FIRST"
cp "$INTEROP_PKI"/{ca.crt,ca.key,token.crt,token.key} "$FIRST"
/mnt/d8-registry pki issue --ca-cert "$FIRST/ca.crt" --ca-key "$FIRST/ca.key" --san "$ADDRESS" --out "$FIRST/tls"
for user in ro rw; do printf %s "$(password $user)" | /mnt/d8-registry hash-password >"$FIRST/$user.hash"; done

# begin CONFIGURATION FLAGS... starts the binary as the first master's user.
begin() {
    cat >"$FIRST/config.yaml" <<YAML
listen: ["$ADDRESS:5001", "127.0.0.1:5001"]
tls: {certFile: $FIRST/tls/tls.crt, keyFile: $FIRST/tls/tls.key}
store: {dir: $DATA, reserveBytes: 0}
auth:
  users:
    - {name: ro, role: ro, passwordHash: "$(<"$FIRST/ro.hash")"}
    - {name: rw, role: rw, passwordHash: "$(<"$FIRST/rw.hash")"}
log: {format: json}
$1
YAML
    install -d -m 700 -o 64535 -g 64535 "$DATA"
    chown -R 64535:64535 "$FIRST"
    setpriv --reuid=64535 --regid=64535 --clear-groups /mnt/d8-registry serve --config "$FIRST/config.yaml" --give-way \
        "${@:2}" >"$INTEROP_LOGS/$INTEROP_NAME.first.log" 2>&1 &
    first=$!
    DAEMONS+=("$first")
    await answers
    crane auth login "$ADDRESS:5001" -u ro -p "$(password ro)" 2>/dev/null
    crane auth login 127.0.0.1:5001 -u ro -p "$(password ro)" 2>/dev/null
}
export SSL_CERT_FILE=$FIRST/ca.crt
answers() { curl -sf -o /dev/null --cacert "$FIRST/ca.crt" -u "$RO" "https://$ADDRESS:5001/v2/"; }
# Somebody asks all the time. The last column is the time of the answer.
prober() {
    while [[ -e $WORK/probing ]]; do
        printf '%s %s\n' "$(curl -s -m 5 --cacert "$FIRST/ca.crt" -u "$RO" -o /dev/null -w '%{http_code}' \
            "https://$ADDRESS:5001/v2/system/deckhouse/manifests/$digest")" "$(date +%s%N)" >>"$WORK/probes"
    done
}
taken_over() {
    ! kill -0 "$first" 2>/dev/null || fail "the first server runs still"
    crane auth login "$ADDRESS:5001" -u ro -p "$(password ro)" 2>/dev/null
    same "$(crane digest "127.0.0.1:5001/$IMAGE")" "$digest" "the image from the store"

    crane pull --format=oci "127.0.0.1:5001/$IMAGE" "$WORK/pulled-$way" >/dev/null
    if [[ $way == bundle ]]; then
        crane auth login "$ADDRESS:5001" -u rw -p "$(password rw)" 2>/dev/null
        crane push "$INTEROP_IMAGES/image" "$ADDRESS:5001/system/deckhouse/more:v1" >/dev/null
    fi
    same "$(stat -c %u:%g "$DATA" | xargs)" 64535:64535 "the owner of the data"
}
export -f taken_over fail same password
# becomes_a_pod VALUES FLAGS...: the chart's static pod takes its place, and somebody asks all the time.
becomes_a_pod() {
    say "the chart's static pod takes its place"
    helm template d8-registry deploy/helm/d8-registry --namespace d8-system -f "deploy/helm/d8-registry/ci/$1" \
        --set secrets.create=true,store.reserveBytes=1Ki "${@:2}" >"$WORK/chart.yaml" 2>"$WORK/why" || fail "$(cat "$WORK/why")"
    rm -f "$WORK/probes"
    touch "$WORK/probing"
    prober &
    local prober=$! status=0
    export WORK IMAGE ADDRESS DATA digest first way INTEROP_IMAGES
    "$PYTHON" "$TOOLS/node.py" /mnt/d8-registry "$NODE" "$ADDRESS" "$WORK/chart.yaml" "$WORK/given.yaml" -- \
        bash -c 'set -euo pipefail; taken_over; rm "$WORK/probing"'
    wait "$prober"
    wait "$first" || status=$?
    same "$status" 0 "the end of the first server"
    DAEMONS=()
    # A connection may be refused between the two; nothing else is ever answered but the image.
    same "$(cut -d' ' -f1 "$WORK/probes" | sort -u | grep -v '^000$' | xargs)" 200 "answers while the server changed"
    awk '$1 == "200" { if (last && $2 - last > most) most = $2 - last; last = $2 }
        END { printf "longest time without an answer: %.2f s\n", most / 1e9 }' "$WORK/probes"
}

# What helm makes of Secret registry-init in a cluster (chart-cluster): authority and users are those of the first master.
"$PYTHON" - "$FIRST" "$(password ro)" "$(password rw)" >"$WORK/given.yaml" <<'PYTHON'
import pathlib, sys, yaml
folder, *passwords = sys.argv[1:]
read = lambda name: (pathlib.Path(folder) / name).read_text()
def secret(name, kind, data):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": data}
pki = {name: read(name) for name in ("ca.crt", "ca.key", "token.crt", "token.key")}
documents = [secret("registry-pki", "registry/pki", pki)]
for user, password in zip(("ro", "rw"), passwords):
    documents.append(secret(f"registry-user-{user}", "registry/user",
        {"name": user, "password": password, "passwordHash": read(f"{user}.hash").strip()}))
documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "registry-ca"}, "data": {"ca.crt": pki["ca.crt"]}})
yaml.safe_dump_all(documents, sys.stdout)
PYTHON

say "from a bundle on a disk"
way=bundle NODE=/mnt/node DATA=/mnt/node/opt/deckhouse/registry/d8_data
begin "mode: Local" --bundle /mnt/usb/bundle
same "$(crane digest "$ADDRESS:5001/$IMAGE")" "$digest" "the image from the bundle"
say "its store is filled meanwhile"
/mnt/d8-registry bundle import --data-dir "$DATA" /mnt/usb/bundle >"$WORK/imported" || fail "$(cat "$WORK/imported")"

say "containerd's files of the node lead there"
mkdir -p "$WORK/root/etc/containerd"
cat >"$WORK/node.yaml" <<YAML
mode: Unmanaged
version: "1"
imagesBase: registry.d8-system.svc:5001/system/deckhouse
proxyEndpoints: []
hosts:
  registry.d8-system.svc:5001:
    mirrors:
      - host: 127.0.0.1:5001
        scheme: https
        ca: |
$(sed 's/^/          /' "$FIRST/ca.crt")
        auth: {username: ro, password: $(password ro)}
YAML
/mnt/d8-registry node-config --root "$WORK/root" --config "$WORK/node.yaml" >"$WORK/version" 2>&1 || fail "$(cat "$WORK/version")"
grep -rq 127.0.0.1:5001 "$WORK/root/etc/containerd/registry.d" || fail "no hosts.toml"

becomes_a_pod local-static-pod.yaml

say "from an upstream, which is gone when the pod comes: what was pulled is there"
way=upstream NODE=/mnt/other DATA=/mnt/other/opt/deckhouse/registry/d8_data
cat >"$WORK/upstream.yaml" <<YAML
mode: Local
listen: ["$OUTSIDE"]
store: {dir: $WORK/upstream, reserveBytes: 0}
adminListen: ["127.0.0.1:5099"]
auth: {anonymous: push}
YAML
"$INTEROP_SERVER" serve --config "$WORK/upstream.yaml" >"$INTEROP_LOGS/$INTEROP_NAME.upstream.log" 2>&1 &
upstream=$!
DAEMONS+=("$upstream")
await crane push "$INTEROP_IMAGES/image" "$OUTSIDE/deckhouse/ee:v1.70.1" --insecure
begin "mode: Proxy
upstream: {imagesRepo: $OUTSIDE/deckhouse/ee, scheme: HTTP}"
crane pull --format=oci "$ADDRESS:5001/$IMAGE" "$WORK/pulled" >/dev/null
kill "$upstream"
wait "$upstream" || true
DAEMONS=("$first")
becomes_a_pod proxy-static-pod.yaml --set "upstream.secretName=,upstream.imagesRepo=$OUTSIDE/deckhouse/ee,upstream.scheme=HTTP,store.maxBytes=null"
