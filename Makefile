# The two commands of this repository: `make demo` and `make test`. Each first sets up what it needs (nothing, the second time).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

BINARIES := $(or $(CARGO_TARGET_DIR),target)/release
LAUNCH := $(BINARIES)/orchestrator launch
DEMO := configs/quickstart.toml

.PHONY: help packages setup peers build demo demo-clean test

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

packages:
	@.ci/packages.sh

# The link gives cargo (.cargo/config.toml) a path to libtorch without Python's version in it.
.venv/installed: requirements.txt | packages
	python3 -m venv .venv
	.venv/bin/pip install --disable-pip-version-check --progress-bar off --requirement requirements.txt
	(cd .venv && ln -sfn lib/python3*/site-packages/torch torch)
	touch $@

setup: packages .venv/installed ## System packages and .venv with libtorch, where missing

peers: setup ## The Python packages that some tests and benchmarks compare with
	.venv/bin/pip install --disable-pip-version-check --progress-bar off --requirement requirements-peers.txt

build: setup ## Both binaries, in target/release
	cargo build --release --locked

test: setup ## Format, lints and all tests; ends with the counts and the skipped tests
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- --deny warnings
	cargo build --release --locked
	cargo test --release --locked --workspace --no-fail-fast 2>&1 | python3 .ci/summary.py
