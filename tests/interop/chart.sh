#!/usr/bin/env bash
# Helm, the schemas of Kubernetes and of the CRDs, and a node without a kubelet test what the chart renders. What becomes of it
# in a cluster is chart-cluster.sh's.
#
# With CHART_REWRITE=1 deploy/manifests is written anew from what helm renders; else it has to be the same.
source "$(dirname "$0")/harness.sh"

need helm ip setpriv crane openssl
readonly PYTHON=$INTEROP_TOOLS/../venv/bin/python CRDS=$INTEROP_TOOLS/../crds TOOLS=$INTEROP_SCRIPTS/../tools/helm
[[ -x $PYTHON && -d $CRDS ]] || skip "can't get kubernetes-validate or the CRDs"

# A network of its own with the node's two addresses: the chart's ports are free there.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up
ip address add 10.0.0.1/32 dev lo
ip address add fd00::1/128 dev lo nodad
readonly ADDRESSES=10.0.0.1,fd00::1

cd "$INTEROP_SCRIPTS/../.."
readonly CHART=deploy/helm/d8-registry
# Every user may look into it: the server runs as another one. It goes with the test's mount namespace.
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p "$WORK/rendered"

template() { helm template d8-registry "$CHART" --namespace d8-system "$@"; }

say "lint, and what is rendered in every mode"
for values in "$CHART"/ci/*.yaml; do
    name=$(basename "$values" .yaml)
    helm lint --strict --quiet "$CHART" --namespace d8-system -f "$values"
    { echo "# Rendered from $values; tests/interop/chart.sh writes it."; template -f "$values"; } >"$WORK/rendered/$name.yaml"
    if [[ -n ${CHART_REWRITE:-} ]]; then
        cp "$WORK/rendered/$name.yaml" "deploy/manifests/$name.yaml"
    fi
done
# Once, where no helm runs: what the chart begins with, without its hooks.
template -f "$CHART/ci/controlled-static-pod.yaml" --set secrets.create=true,mode=Unmanaged | "$PYTHON" -c 'import sys, yaml
found = next(d for d in yaml.safe_load_all(sys.stdin) if d and d["metadata"]["name"] == "d8-registry-mode")
found["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
print("# For the first kubectl create; applied again it would undo what the controller has made of it. tests/interop/chart.sh writes it.")
yaml.safe_dump(found, sys.stdout, sort_keys=False)' >"$WORK/rendered/controlled-first.yaml"
if [[ -n ${CHART_REWRITE:-} ]]; then
    cp "$WORK/rendered/controlled-first.yaml" deploy/manifests/controlled-first.yaml
fi
diff -ru deploy/manifests "$WORK/rendered" || fail "deploy/manifests is not what the chart renders: CHART_REWRITE=1 tests/interop/run.sh chart"

say "schemas"
# The same with users and keys.
mkdir "$WORK/whole"
for values in "$CHART"/ci/*.yaml; do
    template -f "$values" --set secrets.create=true >"$WORK/whole/$(basename "$values")"
done
"$PYTHON" "$TOOLS/validate.py" "$CRDS" "$WORK"/whole/*.yaml deploy/monitoring/rules.yaml
# Each kind of fault has to be found. wrong CASE CHANGE FOUND
faults=()
wrong() {
    local file=$WORK/wrong-${#faults[@]}.yaml
    sed "$2" "$WORK/rendered/$1.yaml" >"$file"
    ! cmp -s "$file" "$WORK/rendered/$1.yaml" || fail "nothing to make wrong: $2"
    faults+=("$(basename "$file"): .*$3")
}
wrong direct 's/replicas: 2/replicaz: 2/' replicaz
wrong direct 's/podMetricsEndpoints/podEndpoints/' 'PodMonitor.*podEndpoints'
wrong local-daemonset 's/hostnames:/hostnamez:/' 'HTTPRoute.*hostnamez'
wrong local-static-pod 's/readOnlyRootFilesystem: true/readOnlyRootFilesystem: false/' 'can be written'
wrong local-static-pod 's/host: 127.0.0.1, port: 5004/port: 5004/' 'does not ask 127.0.0.1'
wrong direct 's/port: probe, path: .healthz/port: registry, path: \//' 'livenessProbe does not ask the probe listener'
wrong proxy-static-pod 's/  imagePullPolicy: IfNotPresent/  imagePullPolicies: IfNotPresent/' 'Pod d8-registry'
wrong direct 's/preferredDuringScheduling/requiredDuringScheduling/' 'Deployment d8-registry: a cluster with one master'
wrong proxy-daemonset '/minReadySeconds/d' 'd8-registry-node: static pods'
"$PYTHON" "$TOOLS/validate.py" "$CRDS" "$WORK"/wrong-*.yaml >"$WORK/found" && fail "none of the faults is found"
for fault in "${faults[@]}"; do
    grep -q "^$fault" "$WORK/found" || fail "not found: $fault"
done

say "values that make no sense are refused"
nonsense() { ! template "${@:2}" >"$WORK/out" 2>"$WORK/why" || fail "rendered: $*"; grep -q "$1" "$WORK/why" || fail "$1: $(cat "$WORK/why")"; }
nonsense 'needs upstream' --set image.reference=x,mode=Proxy
nonsense 'needs controller.enabled' --set image.reference=x,mode=Unmanaged,controller.enabled=false
nonsense 'needs secrets.create' --set image.reference=x,mode=Unmanaged,secrets.create=false
nonsense 'needs Kubernetes 1.30' --set image.reference=x,mode=Local --kube-version 1.29.4
nonsense 'nodeAgent.enabled needs Kubernetes 1.30' --set image.reference=x,mode=Local,controller.enabled=false,nodeAgent.enabled=true --kube-version 1.29.4
nonsense 'nodeAgent.image is not' -f "$CHART/ci/controlled-daemonset.yaml" --set nodeAgent.image=deckhouse
nonsense 'two of them are the same' -f "$CHART/ci/controlled-daemonset.yaml" --set ports.nodeAgent=5001
nonsense 'two of them are the same' -f "$CHART/ci/controlled-static-pod.yaml" --set ports.controller=5004
nonsense 'takes no pushes' -f "$CHART/ci/direct.yaml" --set push.kind=Ingress,push.host=x
nonsense 'two of them are the same' -f "$CHART/ci/direct.yaml" --set ports.admin=5001
nonsense 'two of them are the same' -f "$CHART/ci/direct.yaml" --set ports.probe=5003
nonsense 'additional properties' -f "$CHART/ci/direct.yaml" --set store.maxbytes=1
nonsense 'image' --set mode=Local
for key in mode repository listen adminListen probeListen store.dir tls.disabled limits.drainDeadline modeFile tls.controllerCAFile; do
    nonsense "config: $key " -f "$CHART/ci/direct.yaml" --set "config.$key=x"
done
# A value for which the chart only has a default may be set.
template -f "$CHART/ci/direct.yaml" --set config.limits.pulls=9,config.store.maxBytes=1GiB,config.tls.x=1 >/dev/null
readonly INGRESS=(-f "$CHART/ci/local-static-pod.yaml") ROUTE=(-f "$CHART/ci/local-daemonset.yaml")
readonly TWO='nodeProxy.backends={a:1,b:1}'
nonsense 'reaches one of 2 masters' "${INGRESS[@]}" --set "$TWO,replicas.enabled=false"
template "${INGRESS[@]}" --set "$TWO,replicas.enabled=false,push.manyMasters=true" >/dev/null
template "${INGRESS[@]}" --set "$TWO" >/dev/null
nonsense 'an upload is state of one master' "${ROUTE[@]}" --set "$TWO,replicas.enabled=false,push.manyMasters=true,push.gateway.alb=false"
template "${ROUTE[@]}" --set "$TWO,push.gateway.alb=false,push.sourceRanges=null" >/dev/null
nonsense 'everybody could push' "${ROUTE[@]}" --set push.gateway.alb=false
nonsense 'clientCertificate: with HTTPRoute' "${ROUTE[@]}" --set push.gateway.alb=false,push.sourceRanges=null,push.clientCertificate=Controller,push.trustedCA=x
nonsense 'clientCertificate: with HTTPRoute' "${ROUTE[@]}" --set push.clientCertificate=Secret,push.clientCertificateSecret=a/b,push.trustedCA=x
! helm template d8-registry "$CHART" --namespace default -f "$CHART/ci/direct.yaml" >/dev/null 2>&1 || fail "rendered into another namespace"

say "masters know each other unless a value says otherwise, and never in the pod network"
knowing() { template "$@" | grep -c 'certificate: /etc/d8-registry/tls/peer.crt' || true; }
for case in local-static-pod local-daemonset proxy-static-pod controlled-daemonset; do
    same "$(knowing -f "$CHART/ci/$case.yaml")" 1 "configurations with the other masters in $case"
    same "$(knowing -f "$CHART/ci/$case.yaml" --set replicas.enabled=false)" 0 "configurations with the other masters in $case, where they are off"
    same "$(template -f "$CHART/ci/$case.yaml" --set replicas.enabled=false | grep -c 'name: masters\|/masters')" 0 "mounts of a list that nobody reads in $case"
done
same "$(knowing -f "$CHART/ci/direct.yaml" --set replicas.enabled=true)" 0 "configurations with the other masters in the pod network"

say "a folder of the nodes that servers may take over from"
readable() { template -f "$CHART/ci/$1.yaml" --set store.importFrom=/mnt/usb | grep -cE 'name: import, mountPath: /mnt/usb, readOnly: true|hostPath: \{path: /mnt/usb, type' || true; }
for case in local-static-pod local-daemonset controlled-static-pod; do same "$(readable $case)" 2 "volume and mount in $case"; done
same "$(readable direct)" 0 "volume and mount of a server that stores nothing"

say "the image that node-agent asks for"
asked() { template -f "$CHART/ci/controlled-daemonset.yaml" --set "$1" | sed -n 's/^ *- --image=//p'; }
readonly OWN=registry.d8-system.svc:5001/system/deckhouse PINNED=@sha256:$(printf '0%.0s' {1..64})
same "$(asked "nodeAgent.image=deckhouse$PINNED")" "deckhouse$PINNED" "the one that is given"
same "$(asked "nodeAgent.image=,image.reference=$OWN$PINNED")" "$PINNED" "its own"
same "$(asked "nodeAgent.image=,image.reference=$OWN/d8-registry:v1$PINNED")" "d8-registry$PINNED" "its own, in a repository below"
for reference in "$OWN:v1" "${OWN}x/y$PINNED" "registry.example.com/x$PINNED"; do
    same "$(asked "nodeAgent.image=,image.reference=$reference")" "" "what is asked for with $reference"
done

say "secrets stay in Secrets"
readonly SECRET=s3cr3t-word
# In no document but Secrets, whatever the mode and placement, stands what must not be read.
"$PYTHON" - "$CHART" "$SECRET" <<'PYTHON'
import itertools, subprocess, sys, yaml
chart, secret = sys.argv[1:]
def render(*settings):
    return subprocess.run(["helm", "template", "d8-registry", chart, "--namespace", "d8-system", *settings], capture_output=True, text=True)
def where(documents):
    return {d["kind"] for d in yaml.safe_load_all(documents) if d and secret in yaml.safe_dump(d)}
for mode, placement, scheme, controller in itertools.product(["Direct", "Proxy", "Local"], ["StaticPod", "DaemonSet"], ["http", "https"], ["true", "false"]):
    proxy = f"{scheme}://corp:{secret}@proxy.example.com:3128"
    done = render("--set", f"controller.enabled={controller}", "--set", f"mode={mode},placement={placement},image.reference=x,upstream.imagesRepo=r.example.com/ee,nodeProxy.backends={{a:1}}",
        "--set", f"httpProxy.http={proxy},httpProxy.https={proxy}", "--set", f"upstream.username=u,upstream.password={secret}",
        "--set", f"config.auth.users[0].name=u,config.auth.users[0].passwordHash={secret}", "--set", "metrics.kubeRbacProxyImage=x")
    assert done.returncode == 0, done.stderr
    assert where(done.stdout) == {"Secret"}, (mode, placement, where(done.stdout))
    config = next(d for d in yaml.safe_load_all(done.stdout) if d and d["metadata"]["name"] == "d8-registry-config" and d["kind"] == "Secret")
    assert config["stringData"]["http-proxy"] == config["stringData"]["https-proxy"] == proxy, config["stringData"].keys()
    assert "HTTPS_PROXY_FILE" in done.stdout and "corp:" not in done.stdout.replace(proxy, ""), mode
# A value without a place of its own is refused. Our sentences do not repeat it; helm's own, for a pattern of the schema, do.
key = f"-----BEGIN PRIVATE KEY-----{secret}"
for setting in [f"upstream.imagesRepo=u:{secret}@r.example.com/ee", f"image.reference=u:{secret}@r.example.com/x", f"image.next=u:{secret}@r/x",
        f"metrics.kubeRbacProxyImage=u:{secret}@r/x", f"nodeProxy.backends={{http://u:{secret}@a:1}}", f"httpProxy.noProxy=http://u:{secret}@a",
        f"upstream.ca={key}", f"push.trustedCA={key}", f"push.gateway.registryCA={key}", f"metrics.clientCA={key}"]:
    done = render("--set", "mode=Proxy,image.reference=x,upstream.imagesRepo=r/ee,nodeProxy.backends={a:1}", "--set", setting)
    by_schema = "schema" in done.stderr
    assert done.returncode != 0 and secret not in done.stdout and (by_schema or secret not in done.stderr), (setting, done.stderr)
    assert setting.split("=")[0].replace(".", "/" if by_schema else ".") in done.stderr, done.stderr
PYTHON

say "what Deckhouse's alb is told"
template "${ROUTE[@]}" --set push.clientCertificate=Controller,push.trustedCA=x >"$WORK/route.yaml"
same "$("$PYTHON" -c 'import sys, yaml, json
found = [d for d in yaml.safe_load_all(open(sys.argv[1])) if d and d["kind"] in ("HTTPRoute", "BackendTLSPolicy")]
notes = found[0]["metadata"]["annotations"]
prefix = "alb.network.deckhouse.io/"
print(len(found), notes[prefix + "hash-key"], notes[prefix + "whitelist-source-range"], notes[prefix + "idle-timeout"],
    json.loads(notes[prefix + "backend-tls-settings"])["mode"], found[0]["spec"]["parentRefs"][0]["kind"])' "$WORK/route.yaml")" \
    "1 source-ip 192.0.2.0/24,2001:db8::/32 3600 MUTUAL ListenerSet" "annotations of the HTTPRoute"

say "the node.yaml of INSTALL is one that node-config takes"
"$PYTHON" -c 'import sys, textwrap
text = open("docs/INSTALL.md").read()
block = textwrap.dedent(text[text.rindex("\n", 0, text.index("# node.yaml")) + 1:].split("```")[0])
indent = " " * 10
print(block.replace(indent + "...the authority of registry-pki...", textwrap.indent(open(sys.argv[1]).read(), indent)).replace("...", "x"))' \
    "$INTEROP_PKI/ca.crt" >"$WORK/node.yaml"
mkdir -p "$WORK/bare/etc/containerd"
"$INTEROP_SERVER" node-config --root "$WORK/bare" --config "$WORK/node.yaml" --dry-run >"$WORK/found" 2>&1 || fail "$(cat "$WORK/found")"
for host in 127.0.0.1:5001 10.0.0.1:5001 10.0.0.2:5001; do
    grep -q "^+.*https://$host" "$WORK/found" || fail "no $host in what node-config would write: $(cat "$WORK/found")"
done

say "the values' descriptions"
same "$(jq '[.. | objects | select(.properties? | type == "object") | .properties[] | select(has("description") | not)] | length' \
    "$CHART/values.schema.json")" 0 "values without a description"

say "a node without a kubelet"
cp "$INTEROP_SERVER" /mnt/d8-registry
chmod 755 /mnt/d8-registry
cat >"$WORK/registry-config.yaml" <<'YAML'
apiVersion: v1
kind: Secret
metadata: {name: registry-config}
stringData:
  mode: Proxy
  imagesRepo: "127.0.0.3:5001/deckhouse/ee"
  scheme: HTTP
  username: license-token
  password: example
  checkMode: Default
YAML
node_runs() { "$PYTHON" "$TOOLS/node.py" /mnt/d8-registry /mnt/node "$ADDRESSES" "$WORK/whole/$1.yaml" "$WORK/registry-config.yaml" -- "${@:2}"; }
value() { "$PYTHON" -c 'import sys, yaml, base64
print(next(base64.b64decode(d["data"][sys.argv[3]]).decode() for d in yaml.safe_load_all(open(sys.argv[1]))
    if d and d["kind"] == "Secret" and d["metadata"]["name"] == sys.argv[2]))' "$WORK/whole/$1.yaml" "$2" "$3"; }
manifests() { find /mnt/node/etc/kubernetes/manifests -type f -printf '%f\n' | sort | xargs; }
mkdir -p /mnt/node/opt/deckhouse/registry/local_data/docker /mnt/node/etc/kubernetes/manifests
same "$(manifests)" "" "manifests at first"
# clients USER PORT STATUS: what a client hears at the node's own address and at each of the server's.
clients() {
    local case=$1 port=$2 users=$3 host ca=$WORK/$1.ca user
    value "$case" registry-pki ca.crt >"$ca"
    for host in "${@:4}"; do
        same "$(curl -sS --cacert "$ca" -o /dev/null -w '%{http_code}' "https://$host:$port/v2/")" 401 "$host without a password"
        for user in $users; do
            same "$(curl -sS --cacert "$ca" -u "$user:$(value "$case" "registry-user-$user" password)" -o /dev/null -w '%{http_code}' \
                "https://$host:$port/v2/")" 200 "$host as $user"
        done
    done
}
local_clients() {
    clients local-static-pod 5001 "ro rw" 127.0.0.1 10.0.0.1 '[fd00::1]'
    export SSL_CERT_FILE=$WORK/local-static-pod.ca
    crane auth login 127.0.0.1:5001 -u rw -p "$(value local-static-pod registry-user-rw password)"
    crane push "$INTEROP_IMAGES/image" 127.0.0.1:5001/system/deckhouse/chart:v1 >/dev/null
    crane auth login 127.0.0.1:5001 -u ro -p "$(value local-static-pod registry-user-ro password)"
    crane digest 127.0.0.1:5001/system/deckhouse/chart:v1
    same "$(stat -c %u:%g /mnt/node/opt/deckhouse/registry/d8_data /mnt/node/opt/deckhouse/registry/local_data | xargs)" \
        "64535:64535 0:0" "owners of the data folders"
    same "$(manifests)" "d8-registry-node-proxy.yaml d8-registry.yaml" "manifests"
    same "$(find /mnt/node/etc/kubernetes -type f -perm /077 | wc -l)" 0 "files that others can read"
    same "$(find /mnt/node -name ca.key | wc -l)" 0 "keys of the authority on the node"
    peer_certificate local-static-pod
}
# peer_certificate CASE: beside the server's there is one for the other masters, with this master's addresses.
peer_certificate() {
    local file
    file=$(find /mnt/node/etc/kubernetes -name peer.crt)
    same "$(openssl x509 -in "$file" -noout -ext subjectAltName | tail -n 1 | xargs)" \
        "IP Address:10.0.0.1, IP Address:FD00:0:0:0:0:0:0:1, URI:d8-registry:peer" "names of the peer's certificate"
    value "$1" registry-pki ca.crt >"$WORK/$1.ca"
    openssl verify -purpose sslclient -CAfile "$WORK/$1.ca" "$file" >/dev/null || fail "the peer's certificate is none"
    same "$(openssl x509 -in "$file" -noout -pubkey)" "$(openssl pkey -in "${file%.crt}.key" -pubout)" "the peer's key"
    [[ -f ${file%/*}/tls.crt ]] || fail "the server's certificate is not beside the peer's"
}
proxy_daemonset_clients() {
    clients proxy-daemonset 5011 ro 127.0.0.1 10.0.0.1 '[fd00::1]'
    same "$(manifests)" "" "manifests that are left in placement DaemonSet"
    same "$(find /mnt/node/etc/kubernetes -type f | wc -l)" 0 "files that are left"
}
direct_clients() { clients direct 5001 "" 10.0.0.1 '[fd00::1]'; }
# controlled CASE MODE MANIFESTS: the four users, and what the controller hears that the mode file is in force.
controlled() {
    clients "$1" 5001 "ro rw mirror-puller mirror-pusher" 127.0.0.1 10.0.0.1 '[fd00::1]'
    value "$1" registry-pki ca.key >"$WORK/$1.key"
    "$INTEROP_SERVER" pki issue --ca-cert "$WORK/$1.ca" --ca-key "$WORK/$1.key" --uri d8-registry:controller --out "$WORK/$1.controller"
    local state file
    state=$(curl -sS --cacert "$WORK/$1.ca" --cert "$WORK/$1.controller/tls.crt" --key "$WORK/$1.controller/tls.key" https://10.0.0.1:5001/-/state)
    file=$("$PYTHON" -c 'import sys, yaml
print(next(d["stringData"]["mode.yaml"] for d in yaml.safe_load_all(open(sys.argv[1])) if d and d["metadata"]["name"] == "d8-registry-mode"), end="")' \
        "$WORK/whole/$1.yaml" | sha256sum | cut -d' ' -f1)
    same "$(jq -r '.inForce, .modeFile.generation, .modeFile.hash, .modeFile.error' <<<"$state" | xargs)" "$2 1 $file null" "state of the server"
    same "$(curl -sS --cacert "$WORK/$1.ca" -o /dev/null -w '%{http_code}' https://10.0.0.1:5001/-/state)" 404 "state, for everybody else"
    same "$(manifests)" "$3" "manifests"
}
export -f value same fail clients manifests peer_certificate local_clients proxy_daemonset_clients direct_clients controlled
export WORK PYTHON INTEROP_IMAGES INTEROP_SERVER
# second_master: another node with the same objects. What was pushed to the first one is pulled from it, by tag too, what is
# deleted on one is gone from the other, and the list is followed.
second_master() {
    asked() { [[ $(curl -sS http://127.0.0.1:5002/status | jq -c '[.replicas.peers, .replicas.error]') == "$1" ]]; }
    local digest list=/mnt/second/etc/kubernetes/d8-registry/masters/backends
    asked '[["10.0.0.1:5001"],null]' || fail "the masters that are asked: $(curl -sS http://127.0.0.1:5002/status)"
    export SSL_CERT_FILE=$WORK/two-masters.ca
    value two-masters registry-pki ca.crt >"$SSL_CERT_FILE"
    crane auth login 10.0.0.1:5001 -u rw -p "$(value two-masters registry-user-rw password)"
    crane push "$INTEROP_IMAGES/image" 10.0.0.1:5001/system/deckhouse/second:v1 >/dev/null
    digest=$(crane digest 10.0.0.1:5001/system/deckhouse/second:v1)
    crane auth login 10.0.0.2:5001 -u ro -p "$(value two-masters registry-user-ro password)"
    same "$(crane digest 10.0.0.2:5001/system/deckhouse/second:v1)" "$digest" "the tag on the second master"
    crane pull "10.0.0.2:5001/system/deckhouse/second@$digest" "$WORK/second.tar"
    crane auth login 10.0.0.2:5001 -u rw -p "$(value two-masters registry-user-rw password)"
    await crane manifest 10.0.0.2:5001/system/deckhouse/second:v1
    crane delete "10.0.0.2:5001/system/deckhouse/second@$digest"
    gone() { ! crane digest 10.0.0.1:5001/system/deckhouse/second:v1; }
    await gone
    # As a changed ConfigMap comes: by rename.
    echo 10.0.0.2:5001 >"$list.new"
    chmod 444 "$list.new"
    mv "$list.new" "$list"
    await asked '[[],null]'
}
# with_second COMMAND of the second node.
with_second() {
    local second inside
    unshare --net sleep infinity &
    second=$!
    # The namespace is another than ours as soon as unshare has become sleep.
    await grep -q sleep "/proc/$second/comm"
    inside=(nsenter --net --target "$second")
    ip link add cable type veth peer name eth0 netns "$second"
    ip address add 10.0.9.1/24 dev cable
    ip link set cable up
    "${inside[@]}" ip link set lo up
    "${inside[@]}" ip address add 10.0.0.2/32 dev lo
    "${inside[@]}" ip address add 10.0.9.2/24 dev eth0
    "${inside[@]}" ip link set eth0 up
    "${inside[@]}" ip route add 10.0.0.1 via 10.0.9.1
    ip route add 10.0.0.2 via 10.0.9.2
    "${inside[@]}" "$PYTHON" "$TOOLS/node.py" /mnt/d8-registry /mnt/second 10.0.0.2 "$WORK/whole/two-masters.yaml" \
        "$WORK/registry-config.yaml" -- "$@"
    kill "$second"
}
template -f "$CHART/ci/local-static-pod.yaml" --set "secrets.create=true,nodeProxy.backends={10.0.0.1:5001,10.0.0.2:5001}" >"$WORK/whole/two-masters.yaml"
export -f second_master with_second await
export TOOLS
node_runs two-masters bash -c 'set -euo pipefail; with_second bash -c "set -euo pipefail; second_master"'
node_runs local-static-pod bash -c 'set -euo pipefail; local_clients'
node_runs local-daemonset bash -c 'set -euo pipefail; clients local-daemonset 5001 "ro rw" 10.0.0.1 "[fd00::1]"'
node_runs proxy-static-pod bash -c 'set -euo pipefail; clients proxy-static-pod 5001 ro 127.0.0.1 10.0.0.1'
node_runs proxy-daemonset bash -c 'set -euo pipefail; proxy_daemonset_clients'
node_runs direct bash -c 'set -euo pipefail; direct_clients'
node_runs controlled-static-pod bash -c 'set -euo pipefail; controlled controlled-static-pod Proxy "d8-registry-node-proxy.yaml d8-registry.yaml"; peer_certificate controlled-static-pod'
node_runs controlled-daemonset bash -c 'set -euo pipefail; controlled controlled-daemonset Direct ""'
