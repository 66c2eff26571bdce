#!/usr/bin/env bash
# The OCI distribution-spec, asked by tests/tools/specprobe: all of it of mode Local, and what a
# registry without pushes has to answer of Direct and Proxy, each with our own Local as upstream.
source "$(dirname "$0")/harness.sh"

need specprobe verdict

export OCI_USERNAME=rw OCI_REPO1=conformance/first OCI_REPO2=conformance/second
OCI_PASSWORD=$(password rw)
export OCI_PASSWORD

# suite RUN [ENVIRONMENT...]
suite() {
    local run=$1 results=$INTEROP_LOGS/spec-$1 status=0
    shift
    rm -rf "$results"
    mkdir -p "$results"
    say "run $run"
    env OCI_REGISTRY="$REGISTRY" OCI_RESULTS_DIR="$results" "$@" specprobe >"$results/output.txt" 2>&1 || status=$?
    tail -n 40 "$results/output.txt"
    verdict "$results/junit.xml" "$INTEROP_SCRIPTS/spec-skips.txt" "$run"
    same "$status" 0 "status of the probe"
}

start_server config refuse
suite push PROBE_KEEP="$WORK/kept"
stop_server
mv "$WORK/store" "$WORK/upstream"

# The client of Go speaks HTTP/2 unless it is told otherwise.
start_server config allow
suite push-sparse OCI_DATA_SPARSE=true GODEBUG=http2client=0
stop_server

source "$(dirname "$0")/pulling.sh"
# shellcheck disable=SC1091 # written by the first run
source "$WORK/kept"
export OCI_API_PUSH=false

# The first run pushed the upstream's content.
# shellcheck disable=SC2317 # called by local_upstream
fill() { :; }
local_upstream
REGISTRY=$UP
suite local

# Both modes read this; they have the repository under their alias.
UPSTREAM="imagesRepo: '$UP/conformance', caFile: $CA, username: ro, password: $(password ro)"
OCI_REPO1=system/deckhouse/first
export OCI_API_MANIFESTS_DELETE=false

say "Direct, whose only user is the upstream's"
MODE=Direct OCI_USERNAME=ro OCI_PASSWORD=$(password ro)
roles_of_the_harness=$(declare -f write_users)
write_users() { echo "  upstreamUser: true"; }
start_server
suite direct-cold
suite direct-warm
(($(served relayed) > 0)) || fail "nothing was relayed"
same "$(served hit)" 0 "hits"

say "Proxy"
MODE=Proxy OCI_USERNAME=rw OCI_PASSWORD=$(password rw)
eval "$roles_of_the_harness"
sent=$INTEROP_LOGS/$INTEROP_NAME.upstream.log
: >"$sent"
another_server
suite proxy-cold
(($(served filled) > 0)) || fail "nothing was filled"
local_never_twice "$sent"
: >"$sent"
suite proxy-warm
(($(served hit) > 0)) || fail "nothing was hit"
for digest in $OCI_RO_DATA_BLOBS; do
    ! grep -q "$digest" "$sent" || fail "the upstream was asked again for $digest"
done
