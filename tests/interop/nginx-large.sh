#!/usr/bin/env bash
# A layer of 4 GiB through nginx: cut by a killed nginx at first, then whole, in one PATCH, and out again.
# Neither nginx nor the server needs memory for it, and what the cut left is removed while the server runs.
# Takes minutes and 10 GiB of disk: `make e2e` runs it, run.sh only when it is named.
source "$(dirname "$0")/harness.sh"
source "$(dirname "$0")/nginx.sh"

need nginx openssl crane jq
readonly BYTES=$((4 << 30)) SOME=$((256 << 20)) LIMIT=$((64 << 10))
free=$(df --output=avail --block-size=1G "$WORK" | tail -n 1 | tr -d ' ')
((free >= 10)) || skip "10 GiB of disk have to be free in $WORK, there are $free"

more_store() { printf 'limits: {uploadIdle: 60s}\n'; }
start_server
make_leaves
start_nginx
say "an image with a layer of $BYTES bytes"
make_layout "$WORK/big" "$BYTES"
same "$LAYER_BYTES" "$BYTES" "size of the layer"
DOCKER_CONFIG=$(docker_config "$RW")
export DOCKER_CONFIG

# anonymous PID prints the memory in KiB that a process has for itself, without files.
anonymous() { awk '/^RssAnon:/ { print $2 }' "/proc/$1/status" 2>/dev/null || echo 0; }

# sample PID [PID...] writes what the processes have, one column each, until it is ended.
sample() {
    local pid row
    while :; do
        row=()
        for pid; do row+=("$(anonymous "$pid")"); done
        echo "${row[*]}"
        sleep 0.1
    done
}

# flat WHAT COMMAND... runs it and fails if the server or nginx had more memory than LIMIT (KiB) meanwhile, or
# more in the last quarter than in the one after the first by an eighth of it.
flat() {
    local what=$1 sampler begin workers verdict
    shift
    mapfile -t workers < <(nginx_workers)
    ((${#workers[@]} == 1)) || fail "nginx has ${#workers[@]} workers"
    sample "$SERVER" "${workers[0]}" >"$WORK/samples" &
    sampler=$!
    begin=$(date +%s%N)
    "$@"
    local -r millis=$((($(date +%s%N) - begin) / 1000000))
    kill "$sampler"
    wait "$sampler" || true
    verdict=$(awk -v limit="$LIMIT" '
        { server[NR] = $1; nginx[NR] = $2 }
        function most(of, from, to,   i, found) { for (i = from; i <= to; i++) if (of[i] > found) found = of[i]; return found + 0 }
        function compare(name, of,   early, late) {
            early = most(of, int(NR / 4) + 1, int(NR / 2)); late = most(of, int(NR * 3 / 4) + 1, NR)
            printf "%s %.1f MiB at most, %.1f then %.1f; ", name, most(of, 1, NR) / 1024, early / 1024, late / 1024
            if (most(of, 1, NR) > limit || late - early > limit / 8) bad = 1
        }
        END { compare("server", server); compare("nginx", nginx); printf "%d samples", NR; exit NR < 20 || bad }' "$WORK/samples") ||
        fail "memory while $what: $verdict"
    say "$what: $millis ms, $((BYTES / 1000 / millis)) MB/s; $verdict"
}
patches() {
    jq -cs --arg name "$1" '[.[] | select(.target == "access" and .method == "PATCH" and .repository == $name and .status == 202)]' "$SERVER_LOG"
}

say "an nginx that is killed in the middle"
before=$(metric d8_registry_store_used_bytes)
cut_push "$SOME" crane push "$WORK/big" "$REGISTRY/team/big:$TAG"
cut_at=$SECONDS
near "$(metric d8_registry_store_used_bytes)" $((before + CUT)) "used with what was cut"

say "in, in one PATCH"
flat "4 GiB pushed" crane push "$WORK/big" "$REGISTRY/team/big:$TAG"
same "$(patches team/big | jq -r --argjson size "$BYTES" '[.[] | select(.received >= $size)] | map(.received) | join(" ")')" "$BYTES" \
    "PATCHes that carried it"
same "$(patches team/big | jq -r 'map(.address) | unique | join(" ")')" 127.0.0.1 "address in the access log"

say "and out"
pulled() { PULLED=$(crane blob "$REGISTRY/team/big@$LAYER" | openssl dgst -sha256 -r | cut -d' ' -f1); }
flat "4 GiB pulled" pulled
same "$PULLED" "${LAYER#*:}" "digest of what came out"

say "what the cut left goes by itself"
for ((i = 0; i < 200 && $(uploads | wc -l) > 0; i++)); do sleep 1; done
same "$(uploads | wc -l)" 0 "uploads that are left"
await test "$(reaped)" = 1
say "gone $((SECONDS - cut_at)) s after the cut"
same "$(reaped)" 1 "removed"
near "$(metric d8_registry_store_used_bytes)" $((before + BYTES)) "used when it is gone"
rm -r "$WORK/big"
