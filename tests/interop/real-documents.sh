# shellcheck shell=bash
# Commands as a document has them, for the cluster of real-nodes.sh. Sourced after it. A test runs them as they stand, and at its
# end every command of the document has been run by it, or documents.txt says which test runs it, or why none can.

# The folder that commands are typed in: an administrator's, beside the chart. Files that they write are there.
DESK=$WORK/desk

# open_document NAME: commands are those of docs/NAME.md from now on.
open_document() {
    DOCUMENT=docs/$1.md
    mkdir -p "$DESK/bin"
    ln -sfn "$PWD/deploy" "$DESK/deploy"
    printf '#!/bin/sh\nexec kube kubectl "$@"\n' >"$DESK/bin/kubectl"
    chmod +x "$DESK/bin/kubectl"
    ln -sfn "$INTEROP_SERVER" "$DESK/bin/d8-registry"
    touch "$WORK/ran"
}

# written SECTION PIECE [FROM=>TO...] prints a command as it stands, but for a reader's own names, and notes that it is run.
written() { python3 "$INTEROP_SCRIPTS/../tools/real/documents.py" take "$DOCUMENT" "$1" "$2" "$WORK/ran" "${@:3}"; }

# block SECTION PIECE [FROM=>TO...] prints a block of YAML in the same way.
block() { python3 "$INTEROP_SCRIPTS/../tools/real/documents.py" block "$DOCUMENT" "$@"; }

# as_written [on NODE] SECTION PIECE [FROM=>TO...] runs one command. Variables that it needs are exported by the test.
as_written() {
    local place=(env) text
    if [[ $1 == on ]]; then
        place=(on "$2")
        shift 2
    fi
    text=$(written "$@") || fail "$DOCUMENT has no such command: $*"
    typed "$text" "${place[@]}"
}

# typed TEXT PLACE... types it there; what it says on its standard error is told where it fails.
typed() {
    echo "\$ $1" >&2
    "${@:2}" bash -euo pipefail -c "cd '$DESK'; PATH='$DESK/bin':\$PATH
$1" || fail "$DOCUMENT: status $?: $1"
}

# every_command_ran [SECTION...]: the end of the test of a document, or of these sections of it.
every_command_ran() {
    python3 "$INTEROP_SCRIPTS/../tools/real/documents.py" judge "$DOCUMENT" "$WORK/ran" "$INTEROP_SCRIPTS/documents.txt" "$INTEROP_SCRIPTS" "$@" ||
        fail "$DOCUMENT has commands that nothing runs"
}
