# `make demo` and `make test` need Python 3.12 or later, and nothing else: each first
# makes a virtual environment in $(VENV) and installs what it needs there.
#
#   make test PYTHON=python3.13                 make $(VENV) with this Python
#   make test VENV=.venv-3.13                   ... in this folder
#   make test PIP_EXTRA_INDEX_URL=https://...   any setting of pip works as usual

.DEFAULT_GOAL := help

VENV ?= .venv
# The Python that makes $(VENV); empty: the first suitable one
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Each holds the time of an installation: without extras, and with those for tests
PACKAGE := $(VENV)/.installed
TESTS := $(VENV)/.installed-tests

# ------------------------------------------------------------------------------------
# What to run

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

# Passive: threads that wait for each other would not yield on a busy machine
.PHONY: demo
demo: $(PACKAGE) ## Train on synthetic floods for some minutes, map one, and draw it
	OMP_WAIT_POLICY=passive $(BIN)/python -m torchgeo_m2cd.demo

.PHONY: test
test: lint types unit docs ## Run all checks

.PHONY: lint
lint: $(TESTS) ## Check style and formatting
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

.PHONY: types
types: $(TESTS) ## Check types
	$(BIN)/python -m mypy --strict

# One thread per process: with more than there are cores, they wait for each other
.PHONY: unit
unit: $(TESTS) ## Run the tests, which must reach every line and branch
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --numprocesses auto

# What takes long is marked `slow`: trainings, and what starts processes of its own
.PHONY: quick
quick: $(TESTS) ## Run the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses auto

# uv chooses the lowest versions; without CUDA: UV_TORCH_BACKEND=cpu make lowest
.PHONY: lowest
lowest: $(BIN)/python ## Run the tests with the lowest versions of pyproject.toml
	$(PIP_INSTALL) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python \
	    --resolution lowest-direct --editable '.[tests]'
	$(BIN)/uv pip list --python $(VENV)-lowest/bin/python
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest --numprocesses auto

.PHONY: dist
dist: $(BIN)/python ## Build what is released, and check it
	rm -rf dist
	$(PIP_INSTALL) build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

.PHONY: docs
docs: $(TESTS) ## Build the documentation; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo 'The documentation is in docs/_build/html/index.html'

.PHONY: format
format: $(TESTS) ## Mend style and formatting
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

# ------------------------------------------------------------------------------------
# Installation

.PHONY: install
install: $(TESTS) ## Make the virtual environment, with all that tests and docs need

$(PACKAGE): pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes some minutes'
	@$(PIP_INSTALL) --editable .
	@touch $@

$(TESTS): pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes some minutes'
	@$(PIP_INSTALL) --editable '.[tests]'
	@touch $(PACKAGE) $@

$(BIN)/python: | python
	@for python in $(CANDIDATES); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
	        echo "Making $(VENV) with $$("$$python" --version)"; \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done

# A suitable Python is there, or the message says what is missing
.PHONY: python
python:
	@if [ -z '$(PYTHON)' ] && [ -x $(BIN)/python ]; then exit 0; fi; \
	for python in $(CANDIDATES); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then exit 0; fi; \
	done; \
	{ \
	    echo 'torchgeo-m2cd needs Python 3.12 or later, with its venv and ensurepip modules.'; \
	    echo 'Tried:'; \
	    for python in $(CANDIDATES); do \
	        printf '  %-12s %s\n' "$$python" "$$("$$python" --version 2>/dev/null || echo 'does not run')"; \
	    done; \
	    echo 'Install one (on Debian and Ubuntu with python3-venv), or name one:'; \
	    echo '  make $(or $(firstword $(MAKECMDGOALS)),test) PYTHON=path/to/python3.12'; \
	} >&2; \
	exit 1

.PHONY: clean
clean: ## Remove what was built; the virtual environment stays
	rm -rf build dist docs/_build ./*.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find torchgeo_m2cd tests benchmarks docs -name __pycache__ -type d -exec rm -rf {} +
