#!/usr/bin/env bash
# Runs foreign programs against the server: each pushes and pulls over TLS with users.
#
#   tests/interop/run.sh [NAME...]      all interop tests, or these
#
# Needs root (it asks sudo): container engines mount file systems. Each test runs in mount and
# process namespaces of its own and in an own folder, so nothing is left behind whatever happens.
# Logs stay in target/interop. A test that can't be had is listed as skipped; with CI=true that is
# a failure, unless unobtainable.txt names it. tests/interop/prepare.sh gets the programs beforehand.
#
#   INTEROP_SERVER   the binary under test (default: target/debug/d8-registry)
#   INTEROP_LIMIT    seconds that one test may take (default 900)
#   INTEROP_WITHOUT  a test that is left out of all
set -euo pipefail

cd "$(dirname "$0")/../.."
INTEROP_SCRIPTS=$PWD/tests/interop
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
INTEROP_SERVER=$(realpath -m "${INTEROP_SERVER:-$target/debug/d8-registry}")
INTEROP_TOOLS=$target/tools/bin
INTEROP_LOGS=$target/interop
INTEROP_BEFORE=$target/before
INTEROP_LIMIT=${INTEROP_LIMIT:-900}

# Clients first that say the most about the protocol.
tests=(conformance spec masters d8-push crane skopeo podman dockerd containerd-1 containerd-2 direct proxy proxy-between
    proxy-containerd-2 takeover bundle first-master cluster node-proxy node-config nginx-push nginx-cut full-disk lost-writes
    image chart chart-cluster check-cluster switch-command real-cluster node-agent monitoring)
if [[ -n ${INTEROP_WITHOUT-} ]]; then
    kept=()
    for test in "${tests[@]}"; do [[ $test == "$INTEROP_WITHOUT" ]] || kept+=("$test"); done
    tests=("${kept[@]}")
fi
(($#)) && tests=("$@")

if ((EUID != 0)); then
    exec sudo --preserve-env=CARGO_TARGET_DIR,INTEROP_SERVER,INTEROP_LIMIT,INTEROP_WITHOUT,CLUSTER_CASES,CHART_REWRITE,CI PATH="$PATH" "$0" "$@"
fi
[[ -x $INTEROP_SERVER ]] || {
    echo "no server at $INTEROP_SERVER: build it first (cargo build)" >&2
    exit 1
}
[[ -x $INTEROP_TOOLS/testimages ]] || {
    echo "no tools in $INTEROP_TOOLS: run tests/interop/prepare.sh first" >&2
    exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf --one-file-system "$scratch"' EXIT
INTEROP_IMAGES=$scratch/images
INTEROP_PKI=$scratch/pki
mkdir -p "$INTEROP_LOGS" "$INTEROP_PKI"
export INTEROP_SCRIPTS INTEROP_SERVER INTEROP_TOOLS INTEROP_IMAGES INTEROP_PKI INTEROP_LOGS INTEROP_BEFORE

# The kinds of keys that Deckhouse has: an EC authority, RSA-2048 leaves and token key.
make_pki() (
    cd "$INTEROP_PKI"
    exec 2>openssl.log
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -days 2 -subj '/CN=registry-ca' -out ca.crt
    leaf() {
        openssl req -new -newkey rsa:2048 -nodes -keyout "$1.key" -subj "/CN=$2" -out "$1.csr"
        openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out "$1.crt" \
            -extfile <(echo "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.d8-system.svc,DNS:upstream.test")
    }
    leaf tls registry-distribution
    leaf token registry-auth
)
make_pki || {
    cat "$INTEROP_PKI/openssl.log" >&2
    exit 1
}
"$INTEROP_TOOLS/testimages" "$INTEROP_IMAGES"

passed=0 failed=0 skipped=()
for test in "${tests[@]}"; do
    script=$INTEROP_SCRIPTS/$test.sh log=$INTEROP_LOGS/$test.log
    [[ -x $script ]] || {
        echo "no such interop test: $test" >&2
        exit 2
    }
    export INTEROP_NAME=$test WORK=$scratch/$test
    mkdir "$WORK"
    rm -f "$INTEROP_LOGS/$test".*log
    begin=$SECONDS status=0
    timeout --kill-after=10 "$INTEROP_LIMIT" \
        unshare --mount --pid --fork --kill-child --mount-proc "$script" >"$log" 2>&1 </dev/null || status=$?
    took=$((SECONDS - begin))
    case $status in
        0)
            echo "ok $test ($took s)"
            passed=$((passed + 1))
            ;;
        77)
            reason=$(cat "$WORK/skip" 2>/dev/null || echo "no reason given")
            echo "skip $test: $reason"
            skipped+=("$test: $reason")
            ;;
        *)
            echo "FAIL $test (status $status, $took s); the end of its log and of the server's:"
            tail -n 60 "$log" | sed 's/^/    /'
            tail -n 15 "$INTEROP_LOGS/$test.server.log" 2>/dev/null | cut -c1-400 | sed 's/^/    server: /' || true
            failed=$((failed + 1))
            ;;
    esac
    rm -rf --one-file-system "$WORK"
done
[[ -z ${SUDO_UID:-} ]] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$INTEROP_LOGS"

unexpected=0
for one in ${skipped[@]+"${skipped[@]}"}; do
    echo "not tested by $one"
    grep -q "^${one%%:*} " "$INTEROP_SCRIPTS/unobtainable.txt" || unexpected=$((unexpected + 1))
done
echo "interop tests: $passed passed, $failed failed, ${#skipped[@]} skipped" | tee "$INTEROP_LOGS/summary"
if ((failed > 0)); then
    exit 1
fi
if [[ ${CI:-} == true ]] && ((unexpected > 0)); then
    echo "CI=true: a skipped interop test is a failure" >&2
    exit 1
fi
