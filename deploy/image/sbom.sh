#!/usr/bin/env bash
# Prints what is inside the image as CycloneDX: deploy/image/sbom.sh [LIBRARY...]
#
# The crates that the binary is made of, as cargo resolved them (what only builds or tests is left out),
# with the checksums of Cargo.lock, and the packages of this system that the named libraries belong to.
# No time and no number of its own is in it: the same lock file gives the same bytes.
set -euo pipefail

cd "$(dirname "$0")/../.."
triple=$(rustc -vV | sed -n 's/^host: //p')

# What is linked into the binary, as NAME@VERSION; macros and what only optional features would need are not.
linked() {
    cargo tree --quiet --locked -p d8-registry --edges normal,no-proc-macro --target "$triple" --prefix none --format '{p}' |
        awk 'NF { print $1 "@" substr($2, 2) }' | jq -Rn '[inputs | {key: ., value: true}] | from_entries'
}

# Name, version and checksum of each crate of the lock file.
checksums() {
    awk -F'"' '/^name = /{ name = $2 } /^version = /{ version = $2 } /^checksum = /{ print name "@" version "\t" $2 }' Cargo.lock |
        jq -Rn '[inputs | split("\t") | {key: .[0], value: .[1]}] | from_entries'
}

# One line a package, as NAME VERSION ARCHITECTURE DISTRIBUTION; nothing where dpkg does not know.
packages() {
    local library owner
    command -v dpkg-query >/dev/null || return 0
    for library; do
        owner=$(dpkg-query -S "$library" 2>/dev/null || dpkg-query -S "/usr$library" 2>/dev/null || true)
        [[ -z $owner ]] || dpkg-query -W -f '${Package} ${Version} ${Architecture}\n' "${owner%%: /*}"
    done | sort -u | sed "s/\$/ $(. /etc/os-release && echo "$ID")/"
}

cargo metadata --quiet --locked --format-version 1 --filter-platform "$triple" |
    jq --argjson linked "$(linked)" --argjson checksums "$(checksums)" --arg packages "$(packages "$@")" '
    def crate: "\(.name)@\(.version)";
    ([.packages[] | select($linked[crate])] | map({key: .id, value: .}) | from_entries) as $crates
    | (.resolve.nodes | map({key: .id, value: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg | select($crates[.])]})
        | from_entries) as $uses
    | def purl: "pkg:cargo/\(.name)@\(.version)";
      def component:
        {type: "library", "bom-ref": purl, name, version, purl: purl}
        + (if .license then {licenses: [{expression: (.license | gsub(" */ *"; " OR "))}]} else {} end)
        + ($checksums[crate] | if . then {hashes: [{alg: "SHA-256", content: .}]} else {} end);
      (.packages[] | select(.name == "d8-registry") | .id) as $root
    | ($crates | keys) as $all
    | ([$packages | split("\n")[] | select(. != "") | split(" ")
        | "pkg:deb/\(.[3])/\(.[0])@\(.[1] | @uri)?arch=\(.[2])" as $purl
        | {type: "library", "bom-ref": $purl, name: .[0], version: .[1], purl: $purl}]) as $debs
    | {bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
       metadata: {component: ($crates[$root] | component | .type = "application")},
       components: (([$all[] | select(. != $root) | $crates[.] | component] | sort_by(.purl)) + $debs),
       dependencies: ([$all[] | {ref: ($crates[.] | purl), dependsOn: ([$uses[.][] | $crates[.] | purl] | unique | sort)}] | sort_by(.ref))}'
