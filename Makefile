# The two commands of this repository: `make demo` and `make test`. Each first sets up what it needs (nothing, the second time).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

BINARIES := $(or $(CARGO_TARGET_DIR),target)/release
LAUNCH := $(BINARIES)/orchestrator launch
DEMO := configs/quickstart.toml
# Where that file puts the run and the data.
RUN := runs/quickstart
DATA := data/quickstart

.PHONY: help packages test-packages setup servers peers peers-loading build demo demo-clean test

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

packages:
	@.ci/packages.sh

test-packages: packages
	@.ci/packages.sh test

# The link gives cargo (.cargo/config.toml) a path to libtorch without Python's version in it.
.venv/installed: requirements.txt | packages
	python3 -m venv .venv
	.venv/bin/pip install --disable-pip-version-check --progress-bar off --requirement requirements.txt
	(cd .venv && ln -sfn lib/python3*/site-packages/torch torch)
	touch $@

setup: packages .venv/installed ## System packages and .venv with libtorch, where missing

.venv/peers: requirements-peers.txt .venv/installed
	.venv/bin/pip install --disable-pip-version-check --progress-bar off --requirement requirements-peers.txt
	touch $@

# A server that speaks Azure's protocol, for the tests of az:// places.
.venv/azurite: | .venv/installed test-packages
	npm install --silent --no-audit --no-fund --prefix .venv/azurite azurite@3.37.0
	touch $@

# A second server that speaks S3, by other people.
.venv/s3s: | .venv/installed
	cargo install --quiet --locked --version 0.14.1 --features binary --root .venv/s3s s3s-fs

servers: setup .venv/azurite .venv/s3s

peers: setup .venv/peers ## The Python packages that tests and benchmarks compare with

.venv-loading/installed: requirements-loading.txt .venv/peers
	python3 -m venv .venv-loading
	realpath .venv/lib/python3*/site-packages > $$(echo .venv-loading/lib/python3*/site-packages)/torch.pth
	.venv-loading/bin/pip install --disable-pip-version-check --progress-bar off --requirement requirements-loading.txt
	touch $@

peers-loading: .venv-loading/installed ## The Python packages that loading is compared with

build: setup ## Both binaries, in target/release
	cargo build --release --locked

demo: build ## From nothing to a trained model, its scores and pictures; goes on where it was interrupted
	@launch() { printf '\n== %s\n' "$$1"; $(LAUNCH) --job "$$@"; }
	for job in scenes autoencoder encode; do launch $$job --config $(DEMO); done
	if [ -e $(RUN)/run.toml ]; then
	    printf '\n%s is there: going on with it (make demo-clean starts over)\n' $(RUN)
	    launch train --resume $(RUN)
	else
	    launch train --config $(DEMO)
	fi
	for job in evaluate probe concepts compose edit; do launch $$job --resume $(RUN); done
	$(BINARIES)/orchestrator report $(RUN)
	printf '\nPictures:\n'
	printf '  %s\n' $(RUN)/pictures/*.png
	printf 'Everything after the build took %d min %d s\n' $$((SECONDS / 60)) $$((SECONDS % 60))

demo-clean: ## Forget the demo's run and data
	rm -rf $(RUN) $(DATA)

test: test-packages peers servers ## Format, lints and all tests; ends with the counts and the skipped tests
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- --deny warnings
	cargo build --release --locked
	cargo test --release --locked --workspace --no-fail-fast 2>&1 | python3 .ci/summary.py
