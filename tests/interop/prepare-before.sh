#!/usr/bin/env bash
# Builds the version before, from which real-upgrade.sh upgrades: its binary, its chart and the scripts of its image, in target/before.
# What can't be had is said in target/before/why; the test is skipped then.
set -euo pipefail

# No release has been published yet, so the version before is a commit: the last one before the static pods that are replaced
# without a silence, node-agent and store.expected. It has the controller, masters that know each other and all modes. A pod of it hands
# nothing over to its successor, which INSTALL says of the first upgrade. The first published release takes its place.
readonly COMMIT=79639e2

cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
before=$target/before
mkdir -p "$before"

can_not() {
    echo "$*" | tee "$before/why" >&2
    exit 0
}

commit=$(git rev-parse --quiet --verify "$COMMIT^{commit}" 2>/dev/null) ||
    can_not "the version before ($COMMIT) is not in this clone: its history is shallow, or it is none"
if [[ -x $before/d8-registry && $(cat "$before/made-from" 2>/dev/null) == "$commit" ]]; then
    exit 0
fi
rm -rf "$before"
mkdir -p "$before/source"
git archive "$commit" | tar -x -C "$before/source"
# Its dependencies are those of the present one, as far as these are built already.
if cmp -s Cargo.lock "$before/source/Cargo.lock" && [[ -d $target/debug/deps ]]; then
    mkdir "$before/target"
    tar -C "$target" -cf - --exclude=incremental --exclude='d8_registry-*' --exclude='libd8_registry-*' --exclude='d8-registry*' \
        --exclude='it-*' --exclude='cluster-*' --exclude='*loadtests*' --exclude='*testkit*' debug | tar -C "$before/target" -xf -
fi
begin=$SECONDS
# With the flags of the tests: others would build every dependency again.
if ! (cd "$before/source" && CARGO_TARGET_DIR=$before/target cargo test --quiet --locked --workspace --no-run --test cluster) 2>"$before/build.log"; then
    cat "$before/build.log" >&2
    can_not "the version before ($COMMIT) does not build"
fi
mv "$before/target/debug/d8-registry" "$before/d8-registry"
rm -rf "$before/target" "$before/build.log"
echo "$commit" >"$before/made-from"
echo "built the version before ($((SECONDS - begin)) s)"
