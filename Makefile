# The single entry: every command sets up what it needs in .venv, from constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= out/demo
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-language test test-all lint docs bench language-models clean

help: ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## Make .venv with the pinned libraries

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
		{ echo "kdstats needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## Boston Housing from prediction to report, in out/demo
	$(BIN)/kdstats demo --out $(OUT)

demo-language: $(READY) ## Five ways to label, on a real language model: fetch, sample, train, measure, in out/language
	$(BIN)/kdstats language fetch
	$(BIN)/python examples/language_strategies.py --quick --out out/language

test: $(READY) ## Every wing's tests, all extras installed; the slow ones are in test-all
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(READY) ## The same with the slow tests, and kernels once more without compilation
	$(BIN)/python -m pytest -n $(WORKERS)
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n $(WORKERS) tests/unit/components tests/reference tests/invariants/test_components.py

lint: $(READY) ## Style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## HTML documentation in docs/_build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(READY) ## Ratios measured side by side
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

language-models: $(READY) ## A small real language model, an embedder and questions, into .venv
	$(BIN)/kdstats language fetch

clean: ## Remove .venv and generated files
	rm -rf $(VENV) out docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
