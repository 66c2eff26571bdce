#!/usr/bin/env bash
# network.sh COMMAND... runs a command in a network of its own: nothing but loopback, and Reno for congestion control, which
# every kernel has and lets every network have. BBR, the default of some kernels, paces what is sent with timers, over loopback
# too: in a virtual machine that is two thirds of a download's cost, on all sides alike. The results name what was in force.
#
# Without root, and for a registry elsewhere (--url), the command runs in the network there is.
set -euo pipefail

if ((EUID != 0)) || [[ " $* " == *" --url"[\ =]* ]]; then
    exec "$@"
fi
if ! command -v ip >/dev/null; then
    echo "no command ip: measuring in the machine's own network" >&2
    exec "$@"
fi
# shellcheck disable=SC2016 # The inner shell expands it.
exec unshare --net bash -euc '
    ip link set lo up
    echo reno >/proc/sys/net/ipv4/tcp_congestion_control
    exec "$@"' network "$@"
