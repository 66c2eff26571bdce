#!/usr/bin/env bash
# Writes what goes into the image: deploy/image/rootfs.sh BINARY FOLDER
#
#   FOLDER/d8-registry    the binary, stripped
#   FOLDER/rootfs/        everything else: the shared libraries that it was linked with on this machine,
#                         users, name resolution, certificate authorities, the list of what is inside
#
# The same input gives the same bytes; the times of the files are set where the image is built. Needs
# cargo and jq for the list, and binutils.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "$1") folder=$2
umask 022

rm -rf "$folder"
mkdir -p "$folder/rootfs"/{etc/ssl/certs,usr/bin,usr/share/sbom}
folder=$(cd "$folder" && pwd) root=$folder/rootfs

# Names of functions stay out: a backtrace has their addresses, the binary with names is the build's.
strip --strip-all -o "$folder/d8-registry" "$binary"
chmod 755 "$folder/d8-registry"

# Every line of ldd with a path: the libraries and the program that loads them. Static binaries have none.
libraries=()
if needed=$(ldd "$binary" 2>/dev/null); then
    ! grep -q 'not found' <<<"$needed" || {
        echo "libraries are missing: $needed" >&2
        exit 1
    }
    mapfile -t libraries < <(grep -o '/[^ ]*' <<<"$needed" | sort -u)
fi
for library in ${libraries[@]+"${libraries[@]}"}; do
    install -D -m 755 "$library" "$root$library"
    # Where the loader looks without a cache and a configuration.
    case $library in
        /lib/* | /lib64/* | /usr/lib/*) ;;
        *)
            echo "$library is where the loader of the image does not look" >&2
            exit 1
            ;;
    esac
done
# Since 2.34 glibc asks /etc/hosts and DNS by itself; older ones load a library for each at run time,
# which ldd does not show.
if ((${#libraries[@]})); then
    glibc=$(getconf GNU_LIBC_VERSION | tr -dc '0-9.')
    [[ $(printf '%s\n' 2.34 "$glibc" | sort -V | head -n 1) == 2.34 ]] || {
        echo "glibc $glibc resolves names by libraries that would be missing in the image; 2.34 does not" >&2
        exit 1
    }
fi

cat >"$root/etc/passwd" <<'FILE'
root:x:0:0:root:/nonexistent:/sbin/nologin
deckhouse:x:64535:64535:deckhouse:/nonexistent:/sbin/nologin
FILE
cat >"$root/etc/group" <<'FILE'
root:x:0:
deckhouse:x:64535:
FILE
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
authorities=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}
grep -q 'BEGIN CERTIFICATE' "$authorities" || {
    echo "no certificate authorities in $authorities: install ca-certificates, or name a file in CA_BUNDLE" >&2
    exit 1
}
install -m 644 "$authorities" "$root/etc/ssl/certs/ca-certificates.crt"

"$here/sbom.sh" ${libraries[@]+"${libraries[@]}"} >"$root/usr/share/sbom/d8-registry.cdx.json"
