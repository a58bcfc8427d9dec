# Builds .venv when it is missing, installs what the target needs, and does neither twice:
# .venv/.installed and .venv/.installed-test are stamps that are renewed when pyproject.toml changes.
SHELL := /bin/bash
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help chain sweep test lint

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  ARGS="..." is passed on by chain, sweep and test; PYTHON=... picks the interpreter (3.10 or newer).'

chain: $(VENV)/.installed ## run the bundled model with fused NF4 weights, print the table, store the run
	@$(BIN)/qt-profile chain --model tiny --kernel fused_nf4 --batch 10 --limit 20 $(ARGS)

sweep: $(VENV)/.installed ## time every kernel on this machine's GPU, or on its CPU where it has none
	@$(BIN)/python -m benchmarks.kernel_sweep --arch auto $(ARGS)

test: $(VENV)/.installed-test ## run the tests with coverage
	@$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

lint: $(VENV)/.installed-test ## check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

$(BIN)/pip:
	@command -v '$(PYTHON)' >/dev/null || { echo "error: no '$(PYTHON)' on PATH; name an interpreter: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@'$(PYTHON)' -c 'import sys; v = sys.version_info; sys.exit((3, 10) > v[:2] and f"error: Python {v[0]}.{v[1]} is older than 3.10; name a newer one: make PYTHON=python3.12")'
	@'$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null || { echo "error: '$(PYTHON)' has no venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	@echo "creating $(VENV) with $$('$(PYTHON)' --version)"
	@'$(PYTHON)' -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	@echo "installing qt-profile into $(VENV) (a few minutes the first time)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/pip
	@echo "installing qt-profile and its test tools into $(VENV) (a few minutes the first time)"
	@$(PIP) --editable '.[test]'
	@touch $(VENV)/.installed $@
