# d8-registry: `make run` starts it, `make test` tests it, `make check` is what a reviewer runs first.
# Each target installs what it needs, Debian's packages too; nothing has to be there but cargo, a C compiler and, for the
# interop tests that are Go programs, go. Interop tests need root. CARGO_TARGET_DIR is honoured.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# For `make run`: dev shares its build with the tests, release is faster.
PROFILE ?= dev
DENY_VERSION := 0.20.2
DENY := $(CARGO_TARGET_DIR)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
STAGE := .ci/stage
# Rows of the table for `make bench`, or its arguments altogether, names of interop tests for `make interop`, of benches for `make microbench`.
ROW ?=
BENCH_ALL := --results loadtests/RESULTS.md --json $(CARGO_TARGET_DIR)/bench.json
BENCH ?= rows $(if $(ROW),$(ROW:%=--row %),$(BENCH_ALL)) --server $(CARGO_TARGET_DIR)/release/d8-registry
INTEROP ?=
PART ?=
# Tests with real kubelets, and of RUNBOOK's commands, that are for `make e2e` alone.
REAL := real-cluster-long real-upgrade real-licence real-in-place real-by-hand real-runbook runbook-store real-containerd-1 real-containerd-2 \
    real-node-agent real-direct

.PHONY: help run test unit interop check fmt clippy doc deny architecture reference audit bench microbench image e2e torture

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: ## A Proxy on 127.0.0.1:5001 in front of UPSTREAM=URL (IMAGE=NAME:TAG), or of a Local beside it; PROFILE=release for speed
	cargo build --locked --workspace --profile $(PROFILE) --bins
	@echo
	@exec deploy/run.sh $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/d8-registry

test: ## Fast tests, then the conformance program, clients, the chart, the controller and a cluster with real kubelets against the binary
	@$(STAGE) "packages of the interop tests" tests/interop/prepare.sh packages
	@$(STAGE) "unit and integration tests, and programs of the interop tests beside them" \
	    .ci/beside tests/interop/prepare.sh $(MAKE) --no-print-directory unit
	@$(STAGE) "getting the rest of the programs" tests/interop/prepare.sh
	@$(STAGE) "interop tests" $(MAKE) --no-print-directory interop

# Tests wait for peers more than they compute: two for each processor.
unit: ## Only the tests in Rust
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} cargo test --locked --workspace

# The binary is the one that the integration tests start: other flags would build every dependency again.
interop: ## Only the interop tests, foreign programs against the binary; INTEROP="crane skopeo" picks some
	cargo test --locked --workspace --no-run --quiet
	@tests/interop/prepare.sh
	@tests/interop/run.sh $(INTEROP)

check: ## Format, lints, documentation, dependencies, architecture
	@$(STAGE) "format" $(MAKE) --no-print-directory fmt
	@$(STAGE) "clippy" $(MAKE) --no-print-directory clippy
	@$(STAGE) "documentation" $(MAKE) --no-print-directory doc
	@$(STAGE) "dependencies" $(MAKE) --no-print-directory deny
	@$(STAGE) "architecture" $(MAKE) --no-print-directory architecture

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

deny: $(DENY)
	$(DENY) --workspace --locked check bans licenses sources

# A filter that matches nothing would pass: at least one test has to run.
architecture:
	cargo test --locked --workspace --test it -- architecture | tee $(CARGO_TARGET_DIR)/architecture.log
	@grep -q 'test result: ok. [1-9]' $(CARGO_TARGET_DIR)/architecture.log || { echo 'no architecture test ran' >&2; exit 1; }

reference: ## Rewrites the tables of docs/reference that are generated from the code
	REFERENCE=rewrite cargo test --locked --test it -- reference
	@git diff --stat -- docs/reference

audit: $(DENY) ## Known vulnerabilities in dependencies; fetches the advisory database, so it needs the network
	$(DENY) --workspace --locked check advisories

bench: ## Ours beside nginx, distribution and olareg, and how costs grow, into loadtests/RESULTS.md, in 25 to 30 minutes; ROW=NAME is one row, BENCH="NAME ARGUMENTS..." a scenario
	@loadtests/prepare.sh
	cargo build --locked --workspace --release --bins
	loadtests/network.sh $(CARGO_TARGET_DIR)/release/loadtests $(BENCH)

microbench: ## What parts of a request cost by themselves, with Criterion; PART=NAME picks those that have it in their name
	cargo bench --locked --workspace --bench parts -- $(PART)

image: ## The container image, from the release binary, as an OCI layout in target/image/oci; two builds of it have one digest
	cargo build --locked --workspace --release --bins
	@command -v buildah jq strip >/dev/null || tests/interop/prepare.sh
	@deploy/image/build.sh $(CARGO_TARGET_DIR)/release/d8-registry $(CARGO_TARGET_DIR)/image

e2e: ## Long form of the interop tests: every one against the release binary, three times over; then every pair of modes and the other long cases of a switch; then clusters with real kubelets (REAL); then 4 GiB through nginx, if 10 GiB of disk are free, and a bundle of 8 GiB, if 27 are. Hours from a built release
	cargo build --locked --workspace --release --bins
	cargo test --locked --test cluster --no-run
	@tests/interop/prepare.sh
	@$(if $(INTEROP),,tests/interop/prepare-before.sh)
	@# The short cases of a switch run once: their long form follows.
	@failed=0; for round in 1 2 3; do begin=$$(date +%s); \
	    INTEROP_WITHOUT=$$([ $$round = 1 ] || echo cluster) INTEROP_SERVER=$(CARGO_TARGET_DIR)/release/d8-registry \
	    tests/interop/run.sh $(INTEROP) || failed=1; \
	    echo "round $$round: $$((($$(date +%s) - begin) / 60)) min"; done; exit $$failed
	@$(if $(INTEROP),,CLUSTER_CASES=long INTEROP_LIMIT=3600 INTEROP_SERVER=$(CARGO_TARGET_DIR)/release/d8-registry tests/interop/run.sh cluster)
	@$(if $(INTEROP),,INTEROP_LIMIT=1800 INTEROP_SERVER=$(CARGO_TARGET_DIR)/release/d8-registry tests/interop/run.sh $(REAL))
	@$(if $(INTEROP),,INTEROP_SERVER=$(CARGO_TARGET_DIR)/release/d8-registry tests/interop/run.sh nginx-large bundle-large)

torture: ## Long form of the tests: ignored ones too, 4096 cases per property; a push left and a server killed at each durable step; pushes beside collections for SOAK_SECONDS=10800; mutated input for FUZZ_SECONDS=60
	PROPTEST_CASES=4096 SWITCH_CASES=20000 KILL_CYCLES=500 MASTERS_TROUBLES=1000 cargo test --locked --workspace -- --include-ignored
	# Crash points are the whole process's: one test at a time.
	cargo test --locked --workspace --features failpoints --lib crash -- --test-threads=1
	cargo test --locked --workspace --features failpoints --test it -- killed mode_told
	# The running time goes 300 times as fast by a crash point.
	SOAK_SECONDS=$${SOAK_SECONDS:-10800} cargo test --locked --workspace --features failpoints --test it collection_soak -- --nocapture
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test --locked --workspace --test it fuzz -- --nocapture

# Built once, without optimisation beyond the least: it reads one lock file.
$(DENY):
	@echo "building cargo-deny $(DENY_VERSION), some minutes the first time"
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/tools/build \
	    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
	    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
	    cargo install --quiet --locked --no-default-features --version $(DENY_VERSION) \
	    --root $(CARGO_TARGET_DIR)/tools/cargo-deny-$(DENY_VERSION) cargo-deny
	rm -rf $(CARGO_TARGET_DIR)/tools/build
