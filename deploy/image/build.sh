#!/usr/bin/env bash
# Makes the image of a ready binary, without a base image: deploy/image/build.sh BINARY FOLDER
#
#   FOLDER/oci     the image as an OCI layout, tagged with the version
#
# The same binary on the same system gives the same digest: files are as old as SOURCE_DATE_EPOCH says,
# by default as the commit. More than IMAGE_LIMIT_MIB (44), unpacked, is a failure. Needs buildah and jq.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "$1") folder=$2
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || echo 0)}
limit=$((${IMAGE_LIMIT_MIB:-44} << 20))
version=$("$binary" --version)
version=${version##* }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
# A store of its own: nothing is taken from, or left in, the one of the user.
storage=$(mktemp -d "$folder/storage.XXXXXX")
finish() {
    buildah "${options[@]}" rmi --all --force >/dev/null 2>&1 || true
    rm -rf --one-file-system "$storage"
}
options=(--root "$storage/root" --runroot "$storage/run" --storage-driver vfs)
trap finish EXIT

"$here/rootfs.sh" "$binary" "$folder/context"
unpacked=$(find "$folder/context" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
buildah "${options[@]}" build --isolation chroot --layers=false --timestamp "$epoch" \
    --build-arg BINARY=d8-registry --build-arg VERSION="$version" \
    --file "$here/../Dockerfile" --tag "localhost/d8-registry:$version" "$folder/context" >"$folder/build.log" 2>&1 || {
    cat "$folder/build.log" >&2
    exit 1
}
rm -rf "$folder/oci"
buildah "${options[@]}" push --quiet --format oci "localhost/d8-registry:$version" "oci:$folder/oci:$version"

digest=$(jq -r '.manifests[0].digest' "$folder/oci/index.json")
packed=$(jq '[.layers[].size] | add' "$folder/oci/blobs/${digest/://}")
awk -v version="$version" -v digest="$digest" -v packed="$packed" -v unpacked="$unpacked" 'BEGIN {
    printf "d8-registry:%s %s, %.1f MiB packed, %.1f MiB unpacked\n", version, digest, packed / 1048576, unpacked / 1048576 }'
((unpacked <= limit)) || {
    echo "the image is larger than $((limit >> 20)) MiB" >&2
    exit 1
}
