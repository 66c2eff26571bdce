#!/usr/bin/env bash
# containerd 1.6 of Debian, on a real node through the switches and back.
# shellcheck disable=SC2034 # for what is sourced
CONTAINERD=1
# shellcheck source=tests/interop/real-containerd.sh
source "$(dirname "$0")/real-containerd.sh"
