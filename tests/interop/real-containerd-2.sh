#!/usr/bin/env bash
# containerd 2.x, built from its Go module, on a real node through the switches and back.
# shellcheck disable=SC2034 # for what is sourced
CONTAINERD=2
# shellcheck source=tests/interop/real-containerd.sh
source "$(dirname "$0")/real-containerd.sh"
