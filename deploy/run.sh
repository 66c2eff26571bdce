#!/usr/bin/env bash
# What `make run` starts: a Proxy on 127.0.0.1:5001, open to this machine, in front of $UPSTREAM; or,
# without one, of a Local beside it on 127.0.0.1:5003 with a small image in it. It pulls once and
# again, says what was filled and what was hit, and stays up until it is interrupted.
#
#   UPSTREAM   http[s]://[user:password@]host[:port][/path]
#   IMAGE      what to pull of it, NAME:TAG or TAG, below the path (default: the first tag there is)
set -euo pipefail

server=${1:?usage: run.sh SERVER}
if ! command -v curl >/dev/null; then
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -q && "${as_root[@]}" apt-get install -y -q curl
fi
address=127.0.0.1:5001 beside=127.0.0.1:5003 alias=system/deckhouse
data=$PWD/data
pids=()

# Each has its own process group, so an interrupt reaches it from here alone, in this order.
finish() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in ${pids[@]+"${pids[@]}"}; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    exit "$status"
}
trap finish EXIT
trap 'exit 0' INT TERM

die() {
    echo "$*" >&2
    exit 1
}

# start NAME ADMIN-ADDRESS ARGUMENT... starts a server and waits until it is ready.
start() {
    local name=$1 admin=$2
    shift 2
    mkdir -p "$data"
    setsid "$server" serve --data-dir "$data/$name" --admin-listen "$admin" "$@" 2>>"$data/$name.log" &
    pids=("$!" ${pids[@]+"${pids[@]}"})
    until curl -fsS -o /dev/null "http://$admin/readyz" 2>/dev/null; do
        kill -0 "${pids[0]}" 2>/dev/null || die "$name does not start: $(tail -n 3 "$data/$name.log")"
        sleep 0.1
    done
}

sha256() { sha256sum | cut -d' ' -f1; }

# push_blob REPOSITORY FILE
push_blob() {
    curl -fsS -o /dev/null -X POST -H 'Content-Type: application/octet-stream' --data-binary "@$2" \
        "http://$beside/v2/$1/blobs/uploads/?digest=sha256:$(sha256 <"$2")"
}

# push_image pushes an image of one layer with one file, as demo/hello:v1.
push_image() (
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    head -c 4000000 /dev/urandom >payload
    tar -cf layer payload
    printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(sha256 <layer)" >config
    descriptor() { printf '{"mediaType":"%s","digest":"sha256:%s","size":%s}' "$1" "$(sha256 <"$2")" "$(stat -c %s "$2")"; }
    oci=application/vnd.oci.image
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' "$oci.manifest.v1+json" \
        "$(descriptor "$oci.config.v1+json" config)" "$(descriptor "$oci.layer.v1.tar" layer)" >manifest
    push_blob demo/hello config
    push_blob demo/hello layer
    curl -fsS -o /dev/null -X PUT -H "Content-Type: $oci.manifest.v1+json" --data-binary @manifest \
        "http://$beside/v2/demo/hello/manifests/v1"
)

# fetch PATH FILE prints how an answer came about, and keeps its body.
fetch() {
    local head
    head=$(curl -sS -D - -o "$2" "http://$address/v2/$1" | tr -d '\r') || return
    [[ $head == 'HTTP/1.1 200 '* ]] || die "GET /v2/$1: ${head%%$'\n'*} $(head -c 500 "$2")"
    sed -n 's/^d8-registry-cache: //p' <<<"$head"
}

# pull REPOSITORY REFERENCE fetches a manifest and all it names, one level of an index at most.
pull() {
    local repository=$1 reference=$2 body child digest
    body=$(mktemp)
    printf '  %-10s manifest %s\n' "$(fetch "$repository/manifests/$reference" "$body")" "$reference"
    if grep -q '"manifests"' "$body"; then
        child=$(grep -oE 'sha256:[0-9a-f]{64}' "$body" | head -n 1)
        rm "$body"
        pull "$repository" "$child"
        return
    fi
    while read -r digest; do
        printf '  %-10s blob     %s\n' "$(fetch "$repository/blobs/$digest" /dev/null)" "$digest"
    done < <(grep -oE 'sha256:[0-9a-f]{64}' "$body" | awk '!seen[$0]++')
    rm "$body"
}

if [[ -z ${UPSTREAM:-} ]]; then
    start upstream 127.0.0.1:5004 --listen "$beside"
    push_image
    UPSTREAM=http://$beside/demo IMAGE=hello:v1
    echo "A Local with a small image is at $beside."
fi
start proxy 127.0.0.1:5002 --mode proxy --listen "$address" --upstream "$UPSTREAM"
shown=$(sed -E 's#//[^/@]*@#//#' <<<"$UPSTREAM")
echo "A Proxy of $shown is at $address, as $alias. Status at http://127.0.0.1:5002/status, data and logs in ./data."
echo

name=$alias tag=${IMAGE:-}
if [[ $tag == *:* ]]; then
    name=$alias/${tag%:*} tag=${tag##*:}
elif [[ -z $tag ]]; then
    tag=$(curl -sS "http://$address/v2/$alias/tags/list?n=1" | sed -nE 's/.*"tags":\["([^"]+)".*/\1/p')
fi
if [[ -n $tag ]]; then
    for round in once again; do
        echo "Pulled $round:"
        pull "$name" "$tag"
    done
    echo
    echo "In another shell: docker pull $address/$name:$tag"
else
    echo "No tag to pull was found; name an image with IMAGE=NAME:TAG."
fi
echo "Interrupt ends it."
wait "${pids[0]}"
