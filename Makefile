# Needs only Python 3.11 or newer; everything else is installed into .venv on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-dev

.PHONY: help setup demo test check bench docs clean
.DEFAULT_GOAL := help

help: ## list these targets
	@grep -E '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{printf "make %-7s %s\n", $$1, $$2}'

setup: $(RUNTIME) ## install expunge into .venv

demo: $(RUNTIME) ## train, unlearn and audit the embedded model; prints where the report is
	@$(BIN)/expunge demo

test: $(DEVELOPMENT) ## run the tests
	@$(BIN)/python -m pytest

check: $(DEVELOPMENT) ## lint, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(RUNTIME) ## time the main paths
	@$(BIN)/python -m benchmarks

docs: $(RUNTIME) ## write docs/papers.md from the catalog
	@$(BIN)/python scripts/papers.py docs/papers.md

clean: ## remove .venv and what tools left behind; runs/ stays
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# A stamp is written only after pip succeeded, so a failed installation is tried again. pip is silent
# unless it fails; its warnings about package folders it skips are of no use to anybody here.
PIP = log=$$(mktemp); if $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(1) \
	2>"$$log"; then rm -f "$$log"; else status=$$?; grep -v "^WARNING: Location .* is ignored" "$$log" >&2; \
	rm -f "$$log"; exit $$status; fi

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed (make PYTHON=...)." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing expunge into $(VENV)..."
	@$(call PIP,-e .)
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing expunge and its development tools into $(VENV)..."
	@$(call PIP,-e '.[dev]')
	@touch $@ $(RUNTIME)
