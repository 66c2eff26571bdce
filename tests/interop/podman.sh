#!/usr/bin/env bash
# podman with storage of its own: takes an image from a layout, pushes it, forgets it, pulls it.
source "$(dirname "$0")/harness.sh"

need podman
start_server

certs=$(certs_dir)
mkdir -p "$WORK/etc"
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$WORK/etc/policy.json"
printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n' >"$WORK/etc/containers.conf"
cat >"$WORK/etc/storage.conf" <<TOML
[storage]
driver = "vfs"
graphroot = "$WORK/root"
runroot = "$WORK/runroot"
TOML
touch "$WORK/etc/registries.conf"
export CONTAINERS_CONF=$WORK/etc/containers.conf CONTAINERS_REGISTRIES_CONF=$WORK/etc/registries.conf
export CONTAINERS_STORAGE_CONF=$WORK/etc/storage.conf

p() { podman --tmpdir "$WORK/libpod" "$@"; }
policy=(--signature-policy "$WORK/etc/policy.json")

# A layout is named for its path, which must be in lower case.
image=$(cd "$INTEROP_IMAGES" && p pull -q "${policy[@]}" "oci:image:$TAG")
p push --cert-dir "$certs" --creds "$RW" "${policy[@]}" "$image" "docker://$REGISTRY/team/app:$TAG"
p push --cert-dir "$certs" --creds "$RW" "${policy[@]}" --format v2s2 "$image" "docker://$REGISTRY/team/app:docker"

say "a reader pulls, by tag and by digest"
p rmi --all --force
pulled=$(p pull -q --cert-dir "$certs" --creds "$RO" "${policy[@]}" "$REGISTRY/team/app:$TAG")
same "$pulled" "$image" "id of the pulled image"
digest=$(p image inspect --format '{{.Digest}}' "$pulled")
p rmi --all --force
p pull -q --cert-dir "$certs" --creds "$RO" "${policy[@]}" "$REGISTRY/team/app@$digest"
p pull -q --cert-dir "$certs" --creds "$RO" "${policy[@]}" "$REGISTRY/team/app:docker"

say "podman login"
p login --authfile "$WORK/auth.json" --cert-dir "$certs" -u ro -p "$(password ro)" "$REGISTRY"
refused p login --authfile "$WORK/auth.json" --cert-dir "$certs" -u ro -p wrong "$REGISTRY"

say "a reader does not push"
refused p push --cert-dir "$certs" --creds "$RO" "${policy[@]}" "$image" "docker://$REGISTRY/team/app:v2"
same "$(api "$RO" HEAD /v2/team/app/manifests/v2)" 404 "HEAD of what a reader pushed"
