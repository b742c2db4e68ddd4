# Needs Python 3.11+ and nothing else: the first target that needs it makes the environment.
#   make demo PYTHON=python3.12      another interpreter
#   make test VENV=/path/to/venv     another place for the environment
#   make test ARGS="-k camera"       more arguments for pytest
#   make demo ARGS="--help"          more arguments for the demo
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

override BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.reward-physics-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(STAMP) ## make the environment, once

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "cannot make $(VENV): install your system's venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing the toolkit, PyTorch and the tests' tools into $(VENV): a few gigabytes, some minutes, once."
	@echo "pip shows its progress; a stopped installation goes on when you run make again. Remove all of it: rm -r $(VENV)"
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "Installed. To use it from the shell: . $(VENV)/bin/activate"

demo: $(STAMP) ## train on the embedded world, print g before and after
	$(BIN)/python -m trainers.demo $(ARGS)

test: $(STAMP) ## the quick tests, on all cores
	@echo "the quick tests, one process per core: a dot per test, about six minutes on two cores"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

test-slow: $(STAMP) ## the slow tests
	@echo "the slow tests, one after another: some take minutes, all of them over an hour"
	$(BIN)/python -m pytest -m slow --verbose $(ARGS)

lint: $(STAMP) ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_imports.py

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
