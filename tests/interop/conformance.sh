#!/usr/bin/env bash
# The conformance program of the OCI distribution-spec, with every API and every kind of data on:
# by version 1.1 and by the specification's main branch, and both once more with sparse indexes
# where the server takes manifests whose references are missing. Then its read-only form, through
# Direct and Proxy, with a Local as upstream that a run of the program has filled.
source "$(dirname "$0")/harness.sh"

need conformance verdict curl jq

source "$INTEROP_SCRIPTS/conformance-apis.sh"

# suite RUN [VARIABLE=VALUE...]; PART tells the verdict that a part of the tests is switched off.
PART=()
suite() {
    local run=$1 results=$INTEROP_LOGS/conformance-$1 status=0
    shift
    rm -rf "$results"
    mkdir -p "$results"
    say "run $run"
    (cd "$WORK" && env OCI_REGISTRY="$REGISTRY" OCI_RESULTS_DIR="$results" "$@" conformance) \
        >"$results/output.txt" 2>&1 || status=$?
    tail -n 40 "$results/output.txt"
    verdict "$results/junit.xml" "$INTEROP_SCRIPTS/conformance-skips.txt" "$run" "${PART[@]}"
    same "$status" 0 "status of the conformance program"
}

for version in 1.1 dev; do
    start_server config refuse
    suite "$version" OCI_VERSION=$version OCI_DATA_SPARSE=false
    stop_server
    start_server config allow
    suite "$version-sparse" OCI_VERSION=$version OCI_DATA_SPARSE=true
    stop_server
done

say "a run that leaves what it pushed"
PART=(switched-off)
export OCI_VERSION=1.1 OCI_DATA_SPARSE=false
export OCI_API_BLOBS_DELETE=false OCI_API_MANIFESTS_DELETE=false OCI_API_TAGS_DELETE=false
export OCI_API_BLOBS_ATOMIC=false OCI_API_MANIFESTS_ATOMIC=false OCI_API_TAGS_ATOMIC=false
start_server config refuse
suite filling
OCI_RO_DATA_TAGS=$(curl -sS --cacert "$CA" -u "$RW" "https://$REGISTRY/v2/$OCI_REPO1/tags/list" | jq -r '.tags | join(" ")')
stop_server
mv "$WORK/store" "$WORK/upstream"
# digests KIND prints those of the first repository.
digests() (cd "$WORK/upstream/repositories/$OCI_REPO1/_$1" && find . -type f | sed 's|^\./||; s|/|:|' | sort)
OCI_RO_DATA_MANIFESTS=$(digests manifests | paste -sd' ')
OCI_RO_DATA_BLOBS=$(digests blobs | head -n 40 | paste -sd' ')
OCI_RO_DATA_REFERRERS=$(find "$WORK/upstream/repositories/$OCI_REPO1/_manifests" -type f -exec jq -r '.subject.digest // empty' {} + |
    sort -u | paste -sd' ')
# The program looks for this header of a manifest that it has not pushed itself in an answer that it has not kept.
export OCI_API_MANIFESTS_DIGEST_HEADER=false
export OCI_RO_DATA_TAGS OCI_RO_DATA_MANIFESTS OCI_RO_DATA_BLOBS OCI_RO_DATA_REFERRERS OCI_API_PUSH=false
for list in "$OCI_RO_DATA_TAGS" "$OCI_RO_DATA_MANIFESTS" "$OCI_RO_DATA_BLOBS" "$OCI_RO_DATA_REFERRERS"; do
    [[ -n $list ]] || fail "the run left nothing of a kind"
    say "$(wc -w <<<"$list") to read"
done

source "$(dirname "$0")/pulling.sh"
# shellcheck disable=SC2317 # called by local_upstream; what the upstream has was pushed by that run
fill() { :; }
local_upstream
UPSTREAM="imagesRepo: '$UP/${OCI_REPO1%/*}', caFile: $CA, username: ro, password: $(password ro)"
OCI_REPO1=system/deckhouse/${OCI_REPO1##*/}

say "Direct, whose only user is the upstream's"
MODE=Direct OCI_USERNAME=ro OCI_PASSWORD=$(password ro)
roles_of_the_harness=$(declare -f write_users)
write_users() { echo "  upstreamUser: true"; }
start_server
suite direct-cold
suite direct-warm

say "Proxy"
MODE=Proxy OCI_USERNAME=rw OCI_PASSWORD=$(password rw)
eval "$roles_of_the_harness"
another_server
suite proxy-cold
(($(served filled) > 0)) || fail "nothing was filled"
suite proxy-warm
(($(served hit) > 0)) || fail "nothing was hit"
