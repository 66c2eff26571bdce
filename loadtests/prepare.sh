#!/usr/bin/env bash
# Gets the servers that ours is measured against: Debian's nginx and distribution, and registries that are Go modules, each
# pinned by its own go.mod in baselines/ and built into target/tools/bin. What can't be had is named; its rows are then
# reported as not measured.
set -euo pipefail

cd "$(dirname "$0")"
bin=$(realpath -m "${CARGO_TARGET_DIR:-../target}")/tools/bin
mkdir -p "$bin"

# command=package
packages=(nginx=nginx-light docker-registry=docker-registry setpriv=util-linux ip=iproute2)

install_packages() {
    local pair package missing=() as_root=()
    for pair in "${packages[@]}"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || as_root=(sudo)
    echo "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -q >/dev/null || echo "apt-get update failed; trying with the lists there are" >&2
    for package in "${missing[@]}"; do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            -o DPkg::Lock::Timeout=300 "$package" >/dev/null || echo "can't install $package" >&2
    done
}

# build NAME FOLDER PACKAGE builds one registry unless it is there already.
build() {
    local name=$1 folder=baselines/$2 package=$3 stamp begin=$SECONDS
    stamp=$(sha256sum "$folder"/go.{mod,sum} prepare.sh | sha256sum)
    if [[ -x $bin/$name && $(cat "$bin/$name.stamp" 2>/dev/null) == "$stamp" ]]; then
        return
    fi
    if (cd "$folder" && CGO_ENABLED=0 GOFLAGS="${GOFLAGS:--mod=readonly}" \
        go build -buildvcs=false -trimpath -ldflags='-s -w' -o "$bin/$name" "$package") 2>"$bin/$name.why"; then
        echo "$stamp" >"$bin/$name.stamp"
        rm "$bin/$name.why"
        echo "built $name ($((SECONDS - begin)) s)"
    else
        rm -f "$bin/$name" "$bin/$name.stamp"
        echo "can't build $name:" >&2
        cat "$bin/$name.why" >&2
    fi
}

install_packages
if ! command -v go >/dev/null; then
    echo "no go command: olareg and distribution 3 are not measured" >&2
    exit 0
fi
export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
build olareg olareg github.com/olareg/olareg/cmd/olareg
build distribution-3 distribution github.com/distribution/distribution/v3/cmd/registry
