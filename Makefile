# `make demo` and `make test` need only Python 3.12 or later: each creates a virtual
# environment in $(VENV) and installs its requirements there.
#
#   make test PYTHON=python3.13                 create $(VENV) with this Python
#   make test VENV=.venv-3.13                   ... in this folder
#   make test PIP_EXTRA_INDEX_URL=https://...   pip reads its settings as usual

.DEFAULT_GOAL := help

VENV ?= .venv
# The Python that creates $(VENV); empty for the first suitable one
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python)
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Time stamps of installations: without extras, and with those for tests
PACKAGE := $(VENV)/.installed
TESTS := $(VENV)/.installed-tests

# ------------------------------------------------------------------------------------
# Targets

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

# passive: waiting threads sleep instead of spinning, which helps on a busy machine
.PHONY: demo
demo: $(PACKAGE) ## Train on synthetic floods for a few minutes, then map one and draw it
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

# One thread per process: more threads than cores would slow each other down
.PHONY: unit
unit: $(TESTS) ## Run the tests; they must cover every line and branch
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --numprocesses auto

# Tests that train for long or start processes are marked `slow`
.PHONY: quick
quick: $(TESTS) ## Run the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses auto

# uv resolves the lowest versions; without CUDA: UV_TORCH_BACKEND=cpu make lowest
.PHONY: lowest
lowest: $(BIN)/python ## Run the tests with the lowest versions that pyproject.toml allows
	$(PIP_INSTALL) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python \
	    --resolution lowest-direct --editable '.[tests]'
	$(BIN)/uv pip list --python $(VENV)-lowest/bin/python
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest --numprocesses auto

# Needs the network, so it is no part of `make test`. --strict: a package that cannot be
# looked up is an error. PyPI does not know local versions, such as 2.14.0+cpu
.PHONY: audit
audit: $(PACKAGE) ## Look for known vulnerabilities of the installed packages
	$(PIP_INSTALL) pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+.*//' > $(VENV)/audited.txt
	$(BIN)/python -m pip_audit --requirement $(VENV)/audited.txt --no-deps --disable-pip \
	    --strict --progress-spinner off

.PHONY: dist
dist: $(BIN)/python ## Build the distributions and check them
	rm -rf dist
	$(PIP_INSTALL) build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

.PHONY: docs
docs: $(TESTS) ## Build the documentation, run its tutorials, check its links; warnings are errors
	$(BIN)/python docs/run_tutorials.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo 'The documentation is in docs/_build/html/index.html'

.PHONY: format
format: $(TESTS) ## Fix style and formatting
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

# ------------------------------------------------------------------------------------
# Installation

.PHONY: install
install: $(TESTS) ## Create the virtual environment with the requirements of tests and docs

$(PACKAGE): pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes a few minutes'
	@$(PIP_INSTALL) --editable .
	@touch $@

$(TESTS): pyproject.toml | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes a few minutes'
	@$(PIP_INSTALL) --editable '.[tests]'
	@touch $(PACKAGE) $@

$(BIN)/python: | python
	@for python in $(CANDIDATES); do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$("$$python" --version)"; \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done

# Check that a suitable Python is installed
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
clean: ## Remove build outputs and caches; keep the virtual environment
	rm -rf build dist docs/_build ./*.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find torchgeo_m2cd tests benchmarks docs -name __pycache__ -type d -exec rm -rf {} +
