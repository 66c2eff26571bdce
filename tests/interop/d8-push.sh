#!/usr/bin/env bash
# The wire sequence of `d8 mirror push`, by the library that d8 has inside; see tests/tools/d8wire.
source "$(dirname "$0")/harness.sh"

need d8wire
start_server

d8wire -registry "$REGISTRY" -ca "$CA" -rw "$RW" -ro "$RO"
