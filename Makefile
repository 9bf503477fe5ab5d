# Every target works alone on a fresh machine (Debian 12 or newer, or Ubuntu; Python 3.11; root or sudo), and again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
SIZE ?= 2GiB
PYTEST := .venv/bin/python -m pytest
WITH_ENGINE := tools/setup --engine; eval "$$(tools/engine env)"
export PYTHON
# Where it is set, pytest rewrites its asserts anew each time: a third of `make check`.
unexport PYTHONDONTWRITEBYTECODE

SOAK_MINUTES ?= 30
export SOAK_MINUTES

.PHONY: help demo test soak check lint docs bench setup engine-down clean

help:  ## This list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo:  ## Train, build, retrain, build, edit, build: the main job on the digits example.
	@$(WITH_ENGINE); .venv/bin/python tools/demo.py

test:  ## Every test, those on a real BuildKit and registry included.
	@$(WITH_ENGINE); $(PYTEST) -n 2 --dist loadscope --no-loadscope-reorder $(ARGS)

soak: setup  ## State machine, crash matrix and fuzzers with random seeds: make soak SOAK_MINUTES=30.
	@.venv/bin/python tools/soak.py $(ARGS)

check: lint  ## Lint, types and the unit tests, on two cores; under 90 s.
	@$(PYTEST) -q -n 2 -m "not engine and not torch and not browser" tests/unit tests/golden tests/typing $(ARGS)

lint: setup
	@.venv/bin/ruff check . && .venv/bin/ruff format --check -q . && .venv/bin/mypy

docs: setup  ## The documentation site, strictly, into docs/_build/html.
	@.venv/bin/python -m sphinx -E -a -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

bench:  ## Beside what people use today: make bench SIZE=2GiB.
	@$(WITH_ENGINE); .venv/bin/python benchmarks/bench.py --size $(SIZE) $(ARGS)

setup:
	@tools/setup

engine-down:  ## End the private Docker and registry.
	@tools/engine down

clean: engine-down  ## Delete what was set up.
	@tools/engine down --purge; rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
