# Foretune. Two commands matter: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
DATA ?= examples/fashion-mnist-sample.zip
export PYTHONUNBUFFERED := 1

.PHONY: help setup setup-dev demo serve check test lock clean

help:           ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Foretune needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV): torch is a download of several gigabytes, which takes a few minutes the first time."
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.service

setup: $(VENV)/.service       ## make the virtual environment that serves

setup-dev: $(VENV)/.dev       ## make the one that also checks and tests

demo: setup     ## rank the packaged zoo on real images (DATA=photos.zip for your own)
	$(BIN)/foretune demo --data $(DATA)

serve: setup    ## start the service
	$(BIN)/foretune serve

check: setup-dev    ## style, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup-dev     ## the whole test suite
	tests/install_services.sh
	$(BIN)/python -m pytest $(ARGS)

lock:           ## resolve the requirements anew
	uv pip compile pyproject.toml --extra build $(UV) -o requirements.lock
	uv pip compile pyproject.toml --extra build --extra dev -c requirements.lock $(UV) -o requirements-dev.lock

UV := --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet

clean:          ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
