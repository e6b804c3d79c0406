# Each target does the set-up it needs; nothing but python3 (3.11 or newer, with venv) and make must be there before.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# One thread per process: many workers share the machine, and sums keep one order.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-waiting test-computing test-quick fuzz simulate check crd bench clean
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## create .venv and install Holdfast and its tools into it

demo: setup ## train through a kill, a drain and a join; compare with the undisturbed run
	$(BIN)/python examples/demo.py

test: setup ## run the whole test suite, on two cores
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-waiting test-computing

# What takes longest comes first; a process that is free takes the next file.
test-waiting: setup # real processes, which wait for each other: beside them the processor has time
	$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder \
	    $(addprefix tests/,kube chaos integration unit)

test-computing: setup # what only computes gives way to what waits for other processes
	nice -n 15 $(BIN)/pytest --numprocesses=2 --dist=loadfile tests/simulation tests/property

test-quick: setup ## run unit and property tests, under two minutes
	$(BIN)/pytest -m "not slow and not chaos" $(wildcard tests/unit tests/property)

fuzz: setup ## draw new examples for every property, where `make test` has the same ones each time
	$(BIN)/pytest --numprocesses=2 --hypothesis-profile=drawn tests/property tests/unit \
	    $(wildcard tests/integration/test_fuzz_*.py)

simulate: setup ## play SEEDS=1000 faulty schedules of the control plane on a virtual clock
	$(BIN)/python -m holdfast.simulator --seeds $(or $(SEEDS),1000)

check: setup ## lint, format, types, layer contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

crd: setup ## write the CRD from the operator's model
	$(BIN)/python -m holdfast_operator.api > charts/holdfast/files/elasticjobs.holdfast.dev.yaml

bench: setup ## run every benchmark that can run here; numbers go to bench-results/
	@mkdir -p bench-results
	@set -e; for file in $(wildcard benchmarks/[a-z]*.py); do \
	    name=$$(basename "$$file" .py); \
	    echo "== $$name"; \
	    $(BIN)/python "$$file" --json "bench-results/$$name.json" || [ $$? -eq 77 ]; \
	done

clean: ## remove the environment, caches and results
	rm -rf $(VENV) build dist bench-results .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Holdfast needs Python 3.11 or newer and $(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot create virtual environments; install its venv package (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing into $(VENV); the first time this downloads PyTorch, which takes a few minutes"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
