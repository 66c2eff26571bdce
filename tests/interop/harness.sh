# shellcheck shell=bash
# Common to all interop tests: a server of its own, users, certificates, and ways to say "must be
# refused" and "can't be had here". Sourced by each test; run.sh starts the tests, each in
# namespaces of its own, so that mounts and processes end with it.
#
# From run.sh: INTEROP_NAME (name), WORK (empty folder of this test), INTEROP_SERVER (the binary),
# INTEROP_TOOLS (built Go tools), INTEROP_IMAGES (OCI layouts), INTEROP_PKI (certificates),
# INTEROP_LOGS (folder for the server's log), INTEROP_BEFORE (what prepare-before.sh makes).

set -euo pipefail

# Used by the tests:
# shellcheck disable=SC2034
readonly CA=$INTEROP_PKI/ca.crt TAG=v1
export SSL_CERT_FILE=$CA
export HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/run TMPDIR=$WORK/tmp
mkdir -p "$HOME" "$XDG_RUNTIME_DIR" "$TMPDIR"
PATH=$INTEROP_TOOLS:$PATH:/usr/sbin:/sbin

# Passwords of the four roles; their hashes are in write_users.
password() { echo "$1-password"; }
# shellcheck disable=SC2034
RW=rw:$(password rw) RO=ro:$(password ro)

# Processes of the test beside the server; they are ended before it.
DAEMONS=()

say() { echo "--- $*"; }

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

# skip REASON ends the test as one that can't be had here.
skip() {
    echo "$*" >"$WORK/skip"
    exit 77
}

# need COMMAND... skips the test where a command is missing.
need() {
    local command
    for command; do
        command -v "$command" >/dev/null ||
            skip "can't get $command: $(tail -n 2 "$INTEROP_TOOLS/$command.why" 2>/dev/null | tr -s '\t\n' ' ' || true)"
    done
}

# refused COMMAND... succeeds if the command fails, and for want of rights.
refused() {
    local output
    if output=$("$@" 2>&1); then
        fail "was let through: $*"
    fi
    # containerd 1.6 sometimes loses the status of a refused push over its own pipe (containerd issue 7972).
    local reasons='denied|unauthorized|forbidden|\b40[13]\b|authentication required|authorization failed|invalid username'
    [[ $1 != c ]] || reasons+='|io: read/write on closed pipe'
    if ! grep -qiE "$reasons" <<<"$output"; then
        fail "failed for another reason: $*: $output"
    fi
    say "refused as it should be: $*"
}

same() {
    [[ $1 == "$2" ]] || fail "$3: got '$1', want '$2'"
}

digest_of() { cat "$INTEROP_IMAGES/$1/digest"; }

write_users() {
    if [[ $1 == files ]]; then
        local role
        for role in ro rw mirror-puller mirror-pusher; do
            mkdir -p "$WORK/users/registry-user-$role"
            printf %s "$role" >"$WORK/users/registry-user-$role/name"
            password "$role" | tr -d '\n' >"$WORK/users/registry-user-$role/password"
        done
        echo "  usersDir: $WORK/users"
        return
    fi
    cat <<'YAML'
  users:
    - {name: ro, role: ro, passwordHash: "$2a$10$gF0bkvgtdx7jsP.T8vi7puRf0YqbPJEc65qogd83SQyFLX5hB/G5i"}
    - {name: rw, role: rw, passwordHash: "$2b$10$CoGDY7s5AZohGLhWY0B9Key/ImhLNooE5x1GwaxhDgJqmPdXJIZ0q"}
YAML
}

# More lines below `tls` and `store` of the configuration, and how the data folder is made; a test
# may define them anew.
more_tls() { :; }
more_store() { :; }
make_store() {
    rm -rf "$WORK/store"
    mkdir "$WORK/store"
}

write_config() {
    cat <<YAML
mode: Local
listen: 127.0.0.1:$PORT
adminListen: 127.0.0.1:$ADMIN_PORT
tls:
  certFile: $INTEROP_PKI/tls.crt
  keyFile: $INTEROP_PKI/tls.key
$(more_tls)
store:
  dir: $WORK/store
  reserveBytes: 0
$(more_store)
auth:
  token:
    signingKeyFile: $INTEROP_PKI/token.key
    signingCertFile: $INTEROP_PKI/token.crt
$(write_users "$1")
manifests:
  missingReferences: $2
log:
  format: json
  access: all
YAML
}

# The one place that knows how the server is started.
run_server() { exec "$INTEROP_SERVER" serve --config "$WORK/config.yaml"; }

# shellcheck disable=SC2120 # every test but two is content with the defaults
# start_server [config|files] [refuse|allow] starts the server with an empty store, with users
# from its configuration or from files, and waits until it is ready. Sets REGISTRY and SERVER_LOG.
start_server() {
    local users=${1:-config} references=${2:-refuse} try
    SERVER_LOG=$INTEROP_LOGS/$INTEROP_NAME.server.log
    for try in 1 2 3 4 5; do
        # Below the range that the kernel gives to outgoing connections.
        PORT=$((20000 + RANDOM % 6000 * 2)) ADMIN_PORT=$((PORT + 1))
        write_config "$users" "$references" >"$WORK/config.yaml"
        make_store
        run_server >>"$SERVER_LOG" 2>&1 &
        SERVER=$!
        if await_server; then
            REGISTRY=127.0.0.1:$PORT
            trap stop_all EXIT
            return
        fi
        say "no server at port $PORT (try $try)"
        kill -KILL "$SERVER" 2>/dev/null || true
        wait "$SERVER" || true
    done
    fail "the server does not start: $(tail -n 5 "$SERVER_LOG")"
}

# start_again starts a server on what the one before left, with the same configuration.
start_again() {
    run_server >>"$SERVER_LOG" 2>&1 &
    SERVER=$!
    trap stop_all EXIT
    await_server || fail "the server does not start again: $(tail -n 5 "$SERVER_LOG")"
}

await_server() {
    local i
    for ((i = 0; i < 300; i++)); do
        kill -0 "$SERVER" 2>/dev/null || return 1
        if curl -fsS --max-time 2 -o /dev/null "http://127.0.0.1:$ADMIN_PORT/readyz" 2>/dev/null; then
            return 0
        fi
        sleep 0.1
    done
    return 1
}

# stop_server ends the server as Kubernetes does; it has to leave with status 0 and no litter.
stop_server() {
    trap - EXIT
    local ended=0
    kill -TERM "$SERVER" 2>/dev/null || true
    wait "$SERVER" || ended=$?
    ((ended == 0)) || fail "the server ended with status $ended on SIGTERM"
    check_store
}

# stop_all ends what the test started, keeping the status that the test ends with.
stop_all() {
    local status=$? daemon
    trap - EXIT
    for daemon in ${DAEMONS[@]+"${DAEMONS[@]}"}; do
        # One that a failed test left stopped would never hear it.
        kill -CONT "$daemon" 2>/dev/null || true
        kill -TERM "$daemon" 2>/dev/null || true
        wait "$daemon" || true
    done
    if ((status != 0)); then
        kill -TERM "$SERVER" 2>/dev/null || true
        exit "$status"
    fi
    stop_server
}

# check_store looks for what a finished client must not leave: temporary files.
check_store() {
    local left
    left=$(find "$WORK/store/tmp" -type f 2>/dev/null | head -n 3)
    [[ -z $left ]] || fail "temporary files are left: $left"
}

# api USER:PASSWORD METHOD PATH prints the status of one request.
api() {
    local method=(-X "$2")
    [[ $2 != HEAD ]] || method=(--head)
    curl -sS --max-time 30 --cacert "$CA" -u "$1" "${method[@]}" -o /dev/null -w '%{http_code}' "https://$REGISTRY$3"
}

# metric NAME prints a metric's value.
metric() { curl -sS --max-time 30 "http://127.0.0.1:$ADMIN_PORT/metrics" | awk -v name="$1" '$1 == name { print $2 }'; }

# docker_config USER:PASSWORD prints a folder with a config.json that signs in to REGISTRY.
docker_config() {
    local folder=$WORK/docker-${1%%:*}
    mkdir -p "$folder"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "$REGISTRY" "$(printf %s "$1" | base64 -w0)" >"$folder/config.json"
    echo "$folder"
}

# certs_dir prints a folder in the form that skopeo and podman read certificates from.
certs_dir() {
    mkdir -p "$WORK/certs"
    cp "$CA" "$WORK/certs/ca.crt"
    echo "$WORK/certs"
}

# await COMMAND... repeats the command for up to 30 s until it succeeds.
await() {
    local i
    for ((i = 0; i < 300; i++)); do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    fail "not within 30 s: $*"
}
