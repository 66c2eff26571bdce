# shellcheck shell=bash
# A whole cluster for an interop test: API server, controllers, scheduler, and nodes with containerd, kubelet and kube-proxy.
# Sourced after harness.sh and kubernetes.sh.
#
# Each node is a network namespace at the end of a cable and a mount namespace: the paths on it are those of a real node, and
# this machine has none of their files. What the kubelet sets for the whole machine (vm.overcommit_memory, kernel.panic) it
# finds set, in files of the test's own. Beside these namespaces there are cgroups, which end_cluster removes.

# Every machine of the cluster is in this network: node N at 10.99.N.2, the control plane and what is outside at 10.99.0.1.
readonly OUTSIDE=10.99.0.1 CGROUPS=/sys/fs/cgroup OUR_CGROUPS=d8-registry-interop.$INTEROP_NAME.
# Which containerd runs on nodes: 1 is Debian's, 2 is built from its Go module, and lies where Debian's would.
readonly CONTAINERD=${CONTAINERD:-1}
# Its table of registries.
REGISTRY_TABLE='plugins."io.containerd.grpc.v1.cri".registry'
((CONTAINERD == 1)) || REGISTRY_TABLE='plugins."io.containerd.cri.v1.images".registry'
declare -A NODE_OF=() ADDRESS_OF=() KUBELET_OF=() SLEEPER_OF=() NAMESPACES_OF=()

# What a kubelet sets for the whole machine.
readonly TUNABLES=(vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1)

# own_machine runs the test in a network of its own, as process 1 of its namespace: nothing of this machine's is touched.
own_machine() {
    if [[ -z ${OWN_NETWORK:-} ]]; then
        OWN_NETWORK=1 exec unshare --net "$0"
    fi
    need kube etcd containerd ctr runc iptables conntrack busybox ip nsenter openssl jq skopeo
    ((CONTAINERD == 1)) || need containerd2 containerd2-shim ctr2
    [[ -x /usr/lib/cni/ptp ]] || skip "can't get containernetworking-plugins"
    # At its end everything else in this process namespace is ended.
    (($$ == 1)) || fail "has to be process 1 of a namespace of its own"
    ip link set lo up
    ip address add "$OUTSIDE/32" dev lo
    echo 1 >/proc/sys/net/ipv4/ip_forward
    remove_cgroups
    local tunable
    for tunable in "${TUNABLES[@]}"; do
        echo "${tunable#*=}" >"$WORK/${tunable//\//-}"
        mount --bind "$WORK/${tunable//\//-}" "/proc/sys/${tunable%=*}"
    done
    CLUSTER=$WORK/cluster
    mkdir "$CLUSTER"
    trap end_cluster EXIT
}

# What a test leaves of cgroups: its own, and those of one that was killed. One with processes stays.
remove_cgroups() {
    local folder
    while IFS= read -r folder; do rmdir "$folder" 2>/dev/null || true; done < <(find "$CGROUPS" -depth -type d -path "*/$OUR_CGROUPS*")
}

# end_cluster ends all processes of this namespace and looks whether anything is left.
end_cluster() {
    local status=$? process try
    trap - EXIT
    set +e
    keep_logs
    cd /
    # Process 1 adopts what its children leave; the shell tells of each that it was killed.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        for process in /proc/[0-9]*; do
            process=${process#/proc/}
            ((process == 1)) || kill -KILL "$process"
        done
        wait
        remove_cgroups
        [[ -n $(find "$CGROUPS" -maxdepth 2 -type d -name "$OUR_CGROUPS*") ]] || break
        sleep 0.3
    done 2>/dev/null
    if [[ -n $(find "$CGROUPS" -maxdepth 2 -type d -name "$OUR_CGROUPS*") ]]; then
        echo "cgroups are left: $(find "$CGROUPS" -type d -path "*/$OUR_CGROUPS*" | head -n 3)" >&2
        ((status != 0)) || status=1
    fi
    exit "$status"
}

# keep_logs keeps what was said by the cluster's parts, and by its pods.
keep_logs() {
    local log name
    timeout 10 kube kubectl get events -A --sort-by=.metadata.creationTimestamp >"$INTEROP_LOGS/$INTEROP_NAME.events.log" 2>&1
    for log in "$CLUSTER"/*.log "${KUBE_DIR-/none}"/*.log; do
        [[ ! -f $log ]] || tail -c 3000000 "$log" >"$INTEROP_LOGS/$INTEROP_NAME.$(basename "$log")"
    done
    for log in "$CLUSTER"/*/disk/pods/*/*/*.log; do
        [[ -f $log ]] || continue
        name=${log#"$CLUSTER"/}
        tail -c 1000000 "$log" >"$INTEROP_LOGS/$INTEROP_NAME.pod.$(tr / . <<<"${name/disk\/pods\//}")"
    done
}

# k ORDER... asks the API server as its administrator.
k() { kube kubectl --request-timeout=20s "$@"; }

# certificate FOLDER NAME SUBJECT issues a client certificate of the cluster's authority, with a kubeconfig.
certificate() {
    local folder=$1 name=$2
    openssl ecparam -genkey -name prime256v1 -noout -out "$folder/$name.key"
    openssl req -new -key "$folder/$name.key" -subj "$3" -out "$folder/$name.csr"
    openssl x509 -req -in "$folder/$name.csr" -CA "$KUBE_DIR/pki/ca.crt" -CAkey "$KUBE_DIR/pki/ca.key" -CAcreateserial -days 2 \
        -extfile <(echo extendedKeyUsage=clientAuth) -out "$folder/$name.crt" 2>/dev/null
    cat >"$folder/$name.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$OUTSIDE:$(<"$KUBE_DIR/port")", certificate-authority: $KUBE_DIR/pki/ca.crt}}]
users: [{name: $name, user: {client-certificate: $folder/$name.crt, client-key: $folder/$name.key}}]
contexts: [{name: test, context: {cluster: test, user: $name}}]
current-context: test
YAML
}

# part NAME [on NODE] COMMAND... starts a part of the cluster; its number is in PART.
part() {
    local name=$1
    shift
    # No function: the number would be that of a shell.
    # shellcheck disable=SC2086 # several flags
    [[ $1 != on ]] || set -- nsenter ${NAMESPACES_OF[$2]} --target "${SLEEPER_OF[$2]}" "${@:3}"
    "$@" >>"$CLUSTER/$name.log" 2>&1 </dev/null &
    PART=$!
}

start_control_plane() {
    export KUBE_ADDRESS=$OUTSIDE
    start_kubernetes
    certificate "$CLUSTER" controllers /CN=system:kube-controller-manager
    certificate "$CLUSTER" scheduler /CN=system:kube-scheduler
    certificate "$CLUSTER" kube-proxy /CN=system:kube-proxy
    part controllers kube kube-controller-manager --kubeconfig="$CLUSTER/controllers.kubeconfig" \
        --authentication-kubeconfig="$CLUSTER/controllers.kubeconfig" --authorization-kubeconfig="$CLUSTER/controllers.kubeconfig" \
        --service-account-private-key-file="$KUBE_DIR/pki/sa.key" --root-ca-file="$KUBE_DIR/pki/ca.crt" \
        --use-service-account-credentials --leader-elect=false --bind-address=127.0.0.1 --cert-dir="$CLUSTER" \
        --node-monitor-grace-period=20s
    part scheduler kube kube-scheduler --kubeconfig="$CLUSTER/scheduler.kubeconfig" \
        --authentication-kubeconfig="$CLUSTER/scheduler.kubeconfig" --authorization-kubeconfig="$CLUSTER/scheduler.kubeconfig" \
        --leader-elect=false --bind-address=127.0.0.1 --cert-dir="$CLUSTER"
    # The API server asks kubelets with its own certificate.
    k create clusterrolebinding api-server-to-kubelets --clusterrole=system:kubelet-api-admin --user=kube-apiserver
}

# on NODE COMMAND... runs a command on a node.
on() {
    local node=$1
    shift
    # shellcheck disable=SC2086 # several flags
    nsenter ${NAMESPACES_OF[$node]} --target "${SLEEPER_OF[$node]}" "$@"
}

# write_on NODE PATH writes a file there, from standard input.
write_on() { on "$1" tee "$2" >/dev/null; }

# make_cgroups PATH makes it in every hierarchy.
make_cgroups() {
    local hierarchy folder step file
    for hierarchy in "$CGROUPS" "$CGROUPS"/*; do
        [[ -f $hierarchy/cgroup.procs ]] || continue
        folder=$hierarchy
        for step in ${1//\// }; do
            # Of the second version.
            [[ ! -f $folder/cgroup.subtree_control ]] ||
                for file in $(<"$folder/cgroup.controllers"); do echo "+$file" >"$folder/cgroup.subtree_control" || true; done 2>/dev/null
            mkdir -p "$folder/$step"
            for file in cpuset.cpus cpuset.mems; do
                [[ ! -f $folder/$file || -f $folder/cgroup.subtree_control || -s $folder/$step/$file ]] || cat "$folder/$file" >"$folder/$step/$file"
            done
            folder+=/$step
        done
    done
}

# machine NAME NUMBER [systemd] makes a node's namespaces: its address, its folders. They are there until the end of the test. With
# systemd its processes are its own, and the first one becomes systemd (boot).
machine() {
    local name=$1 number=$2 disk=$CLUSTER/$1/disk shadow=$CLUSTER/$1/shadow
    mkdir -p "$disk"/{etc/upper,etc/work,opt,run,containerd,kubelet,pods,manifests} "$shadow"
    ADDRESS_OF[$name]=10.99.$number.2
    if [[ ${3:-} == systemd ]]; then
        NAMESPACES_OF[$name]="--net --mount --pid --uts"
        mkfifo "$CLUSTER/$name/boot"
        # shellcheck disable=SC2016 # its own words
        unshare --net --mount --pid --uts --fork --mount-proc bash -c 'read -r _ <"$0" && exec "$@"' "$CLUSTER/$name/boot" \
            env -i container=interop PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=containerd.service \
            --log-target=null --show-status=no >"$CLUSTER/$name-systemd.log" 2>&1 &
        await first_of "$name" $!
    else
        NAMESPACES_OF[$name]="--net --mount"
        unshare --net --mount sleep infinity &
        SLEEPER_OF[$name]=$!
        # The namespaces are others than ours as soon as unshare has become sleep.
        await grep -q sleep "/proc/${SLEEPER_OF[$name]}/comm"
    fi
    echo "${SLEEPER_OF[$name]}" >"$CLUSTER/$name/sleeper"
    ip link add "node$number" type veth peer name eth0 netns "${SLEEPER_OF[$name]}"
    ip address add "10.99.$number.1/24" dev "node$number"
    ip link set "node$number" up
    ip route add "10.244.$number.0/24" via "${ADDRESS_OF[$name]}"
    on "$name" bash -euc "
        ip link set lo up
        ip address add ${ADDRESS_OF[$name]}/24 dev eth0
        ip link set eth0 up
        ip route add default via 10.99.$number.1
        echo 1 >/proc/sys/net/ipv4/ip_forward
        # Upper layers of containers can't lie on an overlay: their folders are mounted beside it.
        mount -t overlay overlay -o lowerdir=/etc,upperdir=$disk/etc/upper,workdir=$disk/etc/work /etc
        mount -t tmpfs tmpfs $shadow
        cp -a /var/lib/dpkg $shadow/ 2>/dev/null || true
        mount -t tmpfs tmpfs /var/lib
        mkdir /var/lib/{containerd,kubelet}
        mount --bind $disk/containerd /var/lib/containerd
        mount --bind $disk/kubelet /var/lib/kubelet
        mount --bind $disk/opt /opt
        mount --bind $disk/run /run
        mkdir -p /etc/kubernetes/manifests /etc/containerd/registry.d /etc/containerd/conf.d /etc/cni/net.d
        if (($CONTAINERD == 2)); then
            for program in containerd=containerd2 containerd-shim-runc-v2=containerd2-shim ctr=ctr2; do
                mount --bind $INTEROP_TOOLS/\${program#*=} /usr/bin/\${program%=*}
            done
        fi
        # A /proc of its own shows the machine's.
        [[ '${3:-}' == systemd ]] || exit 0
        for tunable in ${TUNABLES[*]}; do mount --bind $WORK/\${tunable//\//-} /proc/sys/\${tunable%=*}; done
    "
    write_on "$name" /etc/cni/net.d/10-pods.conflist <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "10.244.$number.0/24"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    make_cgroups "$OUR_CGROUPS$name"
}

# first_of NAME PROCESS: the first process of the node's namespace is known, and its program is bash.
first_of() {
    local child
    child=$(xargs <"/proc/$2/task/$2/children")
    [[ -n $child ]] && grep -q bash "/proc/$child/comm" && SLEEPER_OF[$1]=$child
}

# boot NAME lets systemd be the node's first process; it has containerd's own unit alone, which starts it whenever it has ended.
boot() {
    local hierarchy unit=/run/systemd/system/containerd.service.d
    on "$1" mkdir -p "$unit"
    write_on "$1" "$unit/alone.conf" <<UNIT
[Unit]
DefaultDependencies=no
[Service]
StandardOutput=append:$CLUSTER/$1-containerd.log
StandardError=inherit
UNIT
    # Not where pods are: a cgroup of the second version with others below it takes no process.
    make_cgroups "$OUR_CGROUPS$1.systemd"
    for hierarchy in "$CGROUPS" "$CGROUPS"/*; do
        [[ ! -f $hierarchy/cgroup.procs ]] || echo "${SLEEPER_OF[$1]}" >"$hierarchy/$OUR_CGROUPS$1.systemd/cgroup.procs"
    done
    echo go >"$CLUSTER/$1/boot"
}

# write_containerd NAME [LINES] writes containerd's configuration on a node; LINES are what it says of registries.
write_containerd() {
    local registry=${2-'config_path = "/etc/containerd/registry.d"'}
    if ((CONTAINERD == 2)); then
        write_on "$1" /etc/containerd/config.toml <<TOML
version = 3
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "$SNAPSHOTTER"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "$PAUSE"
  [$REGISTRY_TABLE]
    $registry
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "$SNAPSHOTTER"
  differ = "walking"
TOML
        return
    fi
    write_on "$1" /etc/containerd/config.toml <<TOML
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$SNAPSHOTTER"
  [$REGISTRY_TABLE]
    $registry
TOML
}

start_containerd_of() {
    if [[ ${NAMESPACES_OF[$1]} == *--pid* ]]; then
        boot "$1"
    else
        part "$1-containerd" on "$1" containerd --config /etc/containerd/config.toml
        NODE_OF[$1]=$PART
    fi
    await on "$1" ctr version
}

start_kubelet_of() {
    part "$1-kubelet" on "$1" kube kubelet --config="$CLUSTER/$1/kubelet.yaml" --kubeconfig="$CLUSTER/$1/kubelet.kubeconfig" \
        --hostname-override="$1" --node-ip="${ADDRESS_OF[$1]}" --node-labels="${2:-}" --v=2
    KUBELET_OF[$1]=$PART
}

# make_node NAME NUMBER [systemd] makes a node that is not in the cluster yet: containerd runs, and whatever is to be on it can be put there.
make_node() {
    local name=$1
    machine "$@"
    certificate "$CLUSTER/$name" kubelet "/O=system:nodes/CN=system:node:$name"
    cat >"$CLUSTER/$name/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: ${ADDRESS_OF[$name]}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$OUR_CGROUPS$name
failSwapOn: false
failCgroupV1: false
staticPodPath: /etc/kubernetes/manifests
podLogsDir: $CLUSTER/$name/disk/pods
clusterDomain: cluster.local
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $KUBE_DIR/pki/ca.crt}}
authorization: {mode: Webhook}
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
nodeStatusUpdateFrequency: 3s
syncFrequency: 3s
serializeImagePulls: false
YAML
    write_containerd "$name"
    start_containerd_of "$name"
    on "$name" ctr -n k8s.io images import --base-name "${PAUSE%:*}" "$CLUSTER/pause.tar" >/dev/null
}

# join NAME [master|worker] starts the kubelet, and waits until the node is Ready. Without it the node is outside of any NodeGroup.
join() {
    local name=$1 group=${2:-}
    start_kubelet_of "$name" "${group:+node.deckhouse.io/group=$group}"
    part "$name-kube-proxy" on "$name" kube kube-proxy --kubeconfig="$CLUSTER/kube-proxy.kubeconfig" --hostname-override="$name" \
        --proxy-mode=iptables --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
        --bind-address="${ADDRESS_OF[$name]}" --healthz-bind-address=127.0.0.1 --metrics-bind-address=127.0.0.1
    [[ $group != master ]] || {
        await k get node "$name"
        k label node "$name" node-role.kubernetes.io/control-plane= >/dev/null
    }
    await_for 60 is_ready "$name"
}

is_ready() { [[ $(k get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]; }

# await_for SECONDS COMMAND... repeats the command until it succeeds.
await_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || fail "not in time: $*"
        sleep 0.2
    done
}

# busybox_layout FOLDER REF ENTRYPOINT... makes an image of one program, as an OCI layout; REF is its tag. What lies in FOLDER/more
# is in it too.
busybox_layout() {
    local folder=$1 ref=$2 root=$1/root layer config manifest
    shift 2
    mkdir -p "$folder/blobs/sha256" "$root/bin" "$root/etc"
    cp "$(command -v busybox)" "$root/bin/busybox"
    # Another content for each image: every version is pulled.
    echo "$folder $ref" >"$root/etc/version"
    [[ ! -d $folder/more ]] || mv "$folder"/more/* "$root"
    # shellcheck disable=SC2046 # names of directories without spaces
    tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$root" -cf "$folder/layer" $(ls "$root")
    rm -r "$root"
    layer=$(blob "$folder" application/vnd.oci.image.layer.v1.tar layer)
    jq -cn --arg digest "$(jq -r .digest <<<"$layer")" \
        '{architecture: "amd64", os: "linux", config: {Entrypoint: $ARGS.positional}, rootfs: {type: "layers", diff_ids: [$digest]}}' \
        --args "$@" >"$folder/config"
    config=$(blob "$folder" application/vnd.oci.image.config.v1+json config)
    jq -cn --argjson config "$config" --argjson layer "$layer" '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: $config, layers: [$layer]}' >"$folder/manifest"
    manifest=$(blob "$folder" application/vnd.oci.image.manifest.v1+json manifest)
    jq -cn --argjson manifest "$manifest" --arg ref "$ref" \
        '{schemaVersion: 2, manifests: [$manifest + {annotations: {"org.opencontainers.image.ref.name": $ref}}]}' >"$folder/index.json"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$folder/oci-layout"
}

# blob FOLDER TYPE FILE moves a file of the layout to its place, and prints its descriptor.
blob() {
    local hex
    hex=$(sha256sum "$1/$3" | cut -d' ' -f1)
    jq -cn --arg type "$2" --arg digest "sha256:$hex" --argjson size "$(stat -c %s "$1/$3")" '{mediaType: $type, digest: $digest, size: $size}'
    mv "$1/$3" "$1/blobs/sha256/$hex"
}

# first_images makes what nodes begin with: the image of sandboxes, and that of the registry, from the binary under test.
first_images() {
    readonly PAUSE=pause.test/pause:1
    busybox_layout "$CLUSTER/pause" 1 /bin/busybox sleep 1000000
    tar -C "$CLUSTER/pause" -cf "$CLUSTER/pause.tar" blobs index.json oci-layout
    SNAPSHOTTER=overlayfs
    mkdir -p "$CLUSTER/try"/{upper,work,at}
    if mount -t overlay overlay -o "lowerdir=/etc,upperdir=$CLUSTER/try/upper,workdir=$CLUSTER/try/work" "$CLUSTER/try/at" 2>/dev/null; then
        umount "$CLUSTER/try/at"
    else
        SNAPSHOTTER=native
    fi
    build_image "$INTEROP_SCRIPTS/../.." "$INTEROP_SERVER" registry
    OURS_DIGEST=$(jq -r '.manifests[0].digest' "$CLUSTER/registry/oci/index.json")
    OURS_VERSION=$(jq -r '.manifests[0].annotations["org.opencontainers.image.ref.name"]' "$CLUSTER/registry/oci/index.json")
    OURS=$SERVED/d8-registry:$OURS_VERSION
    tar -C "$CLUSTER/registry/oci" -cf "$CLUSTER/registry.tar" blobs index.json oci-layout
}

# build_image SOURCES BINARY NAME makes the image of a binary by the script of its sources, as an OCI layout in $CLUSTER/NAME/oci.
build_image() {
    local builder limit=44
    builder=$(getent passwd "${SUDO_USER:-$(id -un)}" | cut -d: -f6)
    [[ $2 == */release/* ]] || limit=80
    CARGO_HOME=${CARGO_HOME:-$builder/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$builder/.rustup} CARGO_NET_OFFLINE=true \
        IMAGE_LIMIT_MIB=$limit "$1/deploy/image/build.sh" "$2" "$CLUSTER/$3"
}

# import_ours NODE brings the registry's image onto a node before there is a registry.
import_ours() { import_image "$1" "$CLUSTER/registry.tar"; }
# import_image NODE FILE: the same with another image of it.
import_image() { on "$1" ctr -n k8s.io images import --base-name "$SERVED/d8-registry" "$2" >/dev/null; }
