#!/usr/bin/env bash
# The controller against a real API server: etcd, real servers on addresses of masters, clients that pull all the time. Nodes,
# bashible and Deckhouse are played by the test (tests/cluster).
#
# CLUSTER_CASES picks cases by a part of their name, `long` those that only `make e2e` runs; without it those of `make test`.
# The log, target/interop/cluster.log, says of each pair of modes how often nodes pulled and how often they failed.
# shellcheck source=harness.sh
. "$INTEROP_SCRIPTS/harness.sh"

need kube etcd openssl curl

# A network of its own: every 127.x is there, and the ports of masters are free.
if [[ -z ${OWN_NETWORK:-} ]]; then
    OWN_NETWORK=1 exec unshare --net "$0"
fi
ip link set lo up

cd "$INTEROP_SCRIPTS/../.."
# Where cargo put it: beside the server that is tested, made of the same sources.
cases=$(find "${CARGO_TARGET_DIR:-target}/debug/deps" -maxdepth 1 -name 'cluster-*' -type f -executable -printf '%T@ %p\n' |
    sort -rn | head -n 1 | cut -d' ' -f2)
[[ -n $cases ]] || skip "the test is not built: cargo test --test cluster --no-run"
# shellcheck disable=SC2086 # several words are several cases
KUBE=$INTEROP_TOOLS/kube "$cases" ${CLUSTER_CASES:-} || fail "see the cases above"
