#!/usr/bin/env bash
# Gets the servers that ours is measured against: Debian's nginx and distribution. What can't be had is named; its rows
# are then reported as not measured.
set -euo pipefail

# command=package
packages=(nginx=nginx-light docker-registry=docker-registry setpriv=util-linux)

missing=()
for pair in "${packages[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
done
((${#missing[@]})) || exit 0
as_root=()
((EUID == 0)) || as_root=(sudo)
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -q >/dev/null || echo "apt-get update failed; trying with the lists there are" >&2
for package in "${missing[@]}"; do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$package" >/dev/null || echo "can't install $package" >&2
done
