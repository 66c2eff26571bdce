#!/usr/bin/env bash
# The conformance program of the OCI distribution-spec, with every API and every kind of data on:
# by version 1.1 and by the specification's main branch, and both once more with sparse indexes
# where the server takes manifests whose references are missing.
source "$(dirname "$0")/harness.sh"

need conformance verdict

export OCI_TLS=enabled OCI_REPO1=conformance/first OCI_REPO2=conformance/second
export OCI_USERNAME=rw OCI_CACHE_AUTH=true
OCI_PASSWORD=$(password rw)
export OCI_PASSWORD
for api in PULL PUSH BLOBS_ATOMIC BLOBS_DELETE BLOBS_DIGEST_HEADER BLOBS_MOUNT_ANONYMOUS \
    BLOBS_UPLOAD_CANCEL MANIFESTS_ATOMIC MANIFESTS_DELETE MANIFESTS_DIGEST_HEADER \
    MANIFESTS_TAG_PARAM TAGS_ATOMIC TAGS_DELETE TAGS_LIST REFERRER; do
    export "OCI_API_$api=true"
done
for data in IMAGE INDEX INDEX_LIST ARTIFACT SUBJECT SUBJECT_MISSING ARTIFACT_LIST SUBJECT_LIST \
    DATA_FIELD NONDISTRIBUTABLE CUSTOM_FIELDS NO_LAYERS EMPTY_BLOB SHA512; do
    export "OCI_DATA_$data=true"
done

# judge VERSION SPARSE RUN
judge() {
    local results=$JUDGES_LOGS/conformance-$3 status=0
    rm -rf "$results"
    mkdir -p "$results"
    say "run $3"
    (cd "$WORK" && OCI_REGISTRY=$REGISTRY OCI_VERSION=$1 OCI_DATA_SPARSE=$2 OCI_RESULTS_DIR=$results conformance) \
        >"$results/output.txt" 2>&1 || status=$?
    tail -n 40 "$results/output.txt"
    verdict "$results/junit.xml" "$JUDGES_SCRIPTS/conformance-skips.txt" "$3"
    same "$status" 0 "status of the conformance program"
}

for version in 1.1 dev; do
    start_server config refuse
    judge "$version" false "$version"
    stop_server
    start_server config allow
    judge "$version" true "$version-sparse"
    stop_server
done
