#!/usr/bin/env bash
# Gets the programs that test the server: Debian's packages for what is missing, and the Go tools
# of tests/tools, each pinned by its own go.mod, built into target/tools/bin.
#
# A program that can't be had is named and left out; run.sh then skips its test.
#
#   tests/interop/prepare.sh            all of it; what is there already is left
#   tests/interop/prepare.sh packages   Debian's packages alone. The rest can be ended at any moment, and be gone on with later.
set -euo pipefail

cd "$(dirname "$0")/../.."
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/bin
mkdir -p "$bin"

# command=package
packages=(openssl=openssl curl=curl jq=jq unshare=util-linux skopeo=skopeo podman=podman
    dockerd=docker.io docker=docker.io containerd=containerd
    docker-registry=docker-registry htpasswd=apache2-utils nginx=nginx-light squid=squid
    buildah=buildah runc=runc dnsmasq=dnsmasq-base ip=iproute2 strip=binutils mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs
    setpriv=util-linux python3=python3 promtool=prometheus etcd=etcd-server kubectl=kubernetes-client
    systemctl=systemd iptables=iptables conntrack=conntrack busybox=busybox-static /usr/lib/cni/ptp=containernetworking-plugins
    rsync=rsync restic=restic)

install_packages() {
    local pair missing=() as_root=()
    for pair in "${packages[@]}"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
    done
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || as_root=(sudo)
    echo "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -q >/dev/null || echo "apt-get update failed; trying with the lists there are" >&2
    # One by one: what one of them lacks must not keep the others away.
    local package
    for package in "${missing[@]}"; do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
            -o DPkg::Lock::Timeout=300 "$package" >/dev/null || echo "can't install $package" >&2
    done
}

# A Python package that checks documents against schemas and brings those of Kubernetes, in an environment of its own.
make_venv() {
    local venv=${bin%/bin}/venv wanted=tests/tools/helm/requirements.txt
    if cmp -s "$wanted" "$venv/made-from"; then
        return
    fi
    rm -rf "$venv"
    if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"; then
        cp "$wanted" "$venv/made-from"
    else
        rm -rf "$venv"
        echo "can't make the Python environment: the chart is not tested" >&2
    fi
}

# CustomResourceDefinitions out of the modules that crds.txt names; the sums are Go's own.
get_crds() {
    local crds=${bin%/bin}/crds list=tests/tools/helm/crds.txt module version sum folder files file answer
    if cmp -s "$list" "$crds/made-from"; then
        return
    fi
    rm -rf "$crds"
    mkdir -p "$crds"
    while read -r module version sum folder files; do
        [[ $module != "#" ]] || continue
        answer=$(cd "$crds" && GOFLAGS=-mod=mod go mod download -json "$module@$version") || true
        if [[ $(jq -r .Sum <<<"$answer") != "$sum" ]]; then
            echo "can't get the CRDs of $module: $answer" >&2
            rm -rf "$crds"
            return
        fi
        for file in $files; do
            cp "$(jq -r .Dir <<<"$answer")/$folder/$file" "$crds"
        done
    done <"$list"
    chmod -R u+w "$crds"
    cp "$list" "$crds/made-from"
}

# build NAME MODULE-FOLDER PACKAGE [FLAG...] builds one Go tool unless it is there already.
build() {
    local name=$1 folder=tests/tools/$2 package=$3 stamp
    shift 3
    stamp=$(find "$folder" tests/interop/prepare.sh -type f -exec sha256sum {} + | sort | sha256sum)
    if [[ -x $bin/$name && $(cat "$bin/$name.stamp" 2>/dev/null) == "$stamp" ]]; then
        return
    fi
    local begin=$SECONDS
    if (cd "$folder" && CGO_ENABLED=0 GOFLAGS="${GOFLAGS:--mod=readonly}" \
        go build -buildvcs=false -trimpath -ldflags='-s -w' "$@" -o "$bin/$name" "$package") 2>"$bin/$name.why"; then
        echo "$stamp" >"$bin/$name.stamp"
        rm "$bin/$name.why"
        echo "built $name ($((SECONDS - begin)) s)"
    else
        rm -f "$bin/$name" "$bin/$name.stamp"
        echo "can't build $name:" >&2
        cat "$bin/$name.why" >&2
    fi
}

# The conformance program's go.mod names a commit; the go command turns it into a pseudo-version.
build_conformance() {
    local copy=${bin%/bin}/conformance.mod
    cp tests/tools/conformance/go.mod "$copy"
    GOFLAGS=-mod=mod build conformance conformance github.com/opencontainers/distribution-spec/conformance \
        -modfile="$copy"
}

install_packages
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    packages=(no-such-command=python3-venv)
    install_packages
fi
if [[ ${1-} == packages ]]; then
    exit
fi
make_venv
if ! command -v go >/dev/null; then
    echo "no go command: the interop tests made of Go modules are left out" >&2
    exit 0
fi
export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
build testimages testimages .
build verdict verdict .
build d8wire d8wire .
build specprobe specprobe .
build yq yq github.com/mikefarah/yq/v4
build crane crane github.com/google/go-containerregistry/cmd/crane
build_conformance
build helm helm helm.sh/helm/v4/cmd/helm
get_crds
# The API server and what runs nodes; it says which version it is. 5 minutes on two cores from nothing, so it is built apart from
# what changes often.
version=$(cd tests/tools/kube && GOFLAGS=-mod=readonly go list -m -f '{{.Version}}' k8s.io/kubernetes 2>/dev/null || true)
stamped=-X=k8s.io/component-base/version.gitVersion=$version
build kube kube . -ldflags="-s -w $stamped -X=k8s.io/component-base/version.gitMajor=1 -X=k8s.io/component-base/version.gitMinor=34"
# With pods, without snapshots by block devices.
tags=no_btrfs,no_zfs,no_devmapper,no_tracing
build containerd2 containerd github.com/containerd/containerd/v2/cmd/containerd -tags "$tags"
build containerd2-shim containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 -tags "$tags"
build ctr2 containerd github.com/containerd/containerd/v2/cmd/ctr -tags "$tags"
