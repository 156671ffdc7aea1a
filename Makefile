.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do "$$p" -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,13))' 2>/dev/null && { "$$p" -c 'import sys; print(sys.executable)'; break; }; done)
UV := .uv/bin/uv
BIN := .venv/bin
WORKERS ?= 3
MEMBERS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
EDITABLE := $(foreach m,$(MEMBERS),-e $(dir $(m)))

help: ## Show this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## Create .venv with the locked dependencies and the workspace

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Moorage needs Python 3.11 or 3.12; none of python3.12, python3.11, python3 is one. Install it or run: make PYTHON=/path/to/python3.12 setup"; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

.venv/.ready: requirements.lock pyproject.toml $(MEMBERS) | .uv/bin/uv
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$(PYTHON)" .venv
	@echo "installing locked dependencies (about 2 GB unpacked the first time)"
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(EDITABLE)
	@touch $@

lock: .uv/bin/uv ## Resolve dependencies anew into requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --no-emit-package moorage-common --no-emit-package moorage-runtime --no-emit-package moorage-sdk --no-emit-package moorage-local \
	  --no-emit-package moorage-registry --no-emit-package moorage-router --no-emit-package moorage-scheduler --no-emit-package moorage-feature-proxy \
	  --group dev --group build pyproject.toml -o requirements.lock

up: setup ## Run the whole platform on this machine with a demo tenant (Ctrl-C ends it)
	$(BIN)/moorage up

test: setup ## Run the tests of every library and service (about 8 minutes on 2 cores)
	$(BIN)/pytest -m "not cluster" -n $(WORKERS) --dist loadfile

e2e: setup ## Start the whole platform, use it, kill and move parts of it (about 19 minutes)
	$(BIN)/pytest services/scheduler/tests -m cluster
	$(BIN)/pytest tests/e2e

conformance: setup ## Have every V2 client ask the whole platform; writes docs/conformance.md (about 3 minutes)
	MOORAGE_WRITE_DOCS=1 $(BIN)/pytest tests/conformance

contracts: setup ## Ask every operation of every service as every kind of caller, from the OpenAPI documents
	$(BIN)/pytest tests/contracts

check: setup ## Lint, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## Measure what docs/benchmarks.md claims (two hours; makes environments for the peers)
	$(BIN)/python bench/router.py
	$(BIN)/python bench/connections.py
	$(BIN)/python bench/key_check.py
	$(BIN)/python bench/revocation.py
	$(BIN)/python bench/rollout_overhead.py
	$(BIN)/python bench/judge.py
	$(BIN)/python bench/fuzz_codec.py
	$(BIN)/python bench/dataplane.py
	$(BIN)/python bench/gpu_fairness.py
	$(BIN)/python bench/quota.py
	$(BIN)/python bench/cold_start.py
	$(BIN)/python bench/defragmentation.py
	$(BIN)/python bench/kills.py
	$(BIN)/python bench/rollback.py
	$(BIN)/python bench/controller_kills.py
	$(BIN)/python bench/pipeline.py
	$(BIN)/python bench/pools.py

docs: setup ## Regenerate settings, refusals and the REST reference
	$(BIN)/python docs/generate

format: setup ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: help setup lock up test check format e2e contracts conformance bench docs
