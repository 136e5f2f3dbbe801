# `make help` is the complete list. Every target builds what it needs in .venv.
.DEFAULT_GOAL := help
PY := .venv/bin/python
.PHONY: help env test check lint types demo bench proofs lock build clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

env: ## make .venv with the locked dependencies
	@tools/venv.sh requirements-dev.lock

test: env ## the whole test suite (fast: under 5 minutes)
	$(PY) -m pytest -n 2 $(ARGS)

check: lint types ## lint and types

lint: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: env
	.venv/bin/pyright --pythonpath $(PY)

demo: env ## a gateway, broken providers and live traffic in your terminal; no keys needed
	@.venv/bin/waypost demo $(ARGS)

bench: env ## CPU, latency and memory beside nginx and the direct path, in one run
	@$(PY) bench/run.py $(ARGS)

proofs: env ## the long proofs: kill -9 rounds, simulated incidents, every failure script
	$(PY) tests/chaos/kill9.py --rounds 60
	$(PY) tests/chaos/kill9_serve.py --rounds 20
	$(PY) -m waypost.sim.world

lock: ## write the lock files anew from pyproject.toml and requirements-dev.in (needs pip-tools)
	pip-compile -q --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links -o requirements.lock pyproject.toml
	pip-compile -q --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links -o requirements-dev.lock pyproject.toml requirements-dev.in

build: env ## the wheel, in dist/
	$(PY) -m pip wheel -q --no-deps --no-build-isolation -w dist .

clean: ## remove what the targets made
	rm -rf .venv dist build .pytest_cache .ruff_cache .hypothesis .bench
