# Foretune. Two commands matter: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
DATA ?= examples/fashion-mnist-sample.zip
JOBS ?= 2
ROUNDS ?= 50
SEED ?= 1
export PYTHONUNBUFFERED := 1

.PHONY: help setup setup-dev demo serve stack secrets check test chaos lock clean

help:           ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Foretune needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: requirements.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV): torch is a download of several gigabytes, which takes a few minutes the first time."
	$(PIP) --require-hashes -r requirements.lock -r requirements-build.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements-build.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements-dev.lock -r requirements-build.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.service

setup: $(VENV)/.service       ## make the virtual environment that serves

setup-dev: $(VENV)/.dev       ## make the one that also checks and tests

demo: setup     ## rank the packaged zoo on real images (DATA=photos.zip for your own)
	$(BIN)/foretune demo --data $(DATA)

serve: setup    ## start the service
	$(BIN)/foretune serve

stack: setup-dev    ## PostgreSQL, Redis, an S3 server, 2 API processes and 2 workers, with the settings of docker-compose.yml
	tests/install_services.sh
	$(BIN)/python -m tests.stack

secrets:        ## make the passwords and keys of docker-compose.yml, in secrets/, where they are missing
	@./make-secrets.sh

check: setup-dev    ## style, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

test: setup-dev     ## the whole test suite
	tests/install_services.sh
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

chaos: setup-dev    ## faults, one after the other, on the stack while it is used (ROUNDS=50 SEED=1)
	tests/install_services.sh
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)

lock:           ## resolve the requirements anew
	uv pip compile pyproject.toml --extra worker $(UV) -o requirements.lock
	uv pip compile pyproject.toml -c requirements.lock $(UV) -o requirements-api.lock
	uv pip compile pyproject.toml --extra worker --extra dev -c requirements.lock $(UV) -o requirements-dev.lock
	printf 'hatchling\neditables\n' | uv pip compile - -c requirements-dev.lock $(UV) -o requirements-build.lock

UV := --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet

clean:          ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
