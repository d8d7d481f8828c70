# `make demo` and `make test` are all that a newcomer needs; both set the environment up first.
VENV ?= .venv
PYTHON ?= python3
# Two test processes of one thread each: torch's threads get in each other's way.
WORKERS ?= 2

bin := $(VENV)/bin
stamp := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' Makefile

setup: $(stamp) ## make the virtual environment (again when pyproject.toml or constraints.txt changed)

$(stamp): pyproject.toml constraints.txt scripts/install.sh
	PYTHON=$(PYTHON) scripts/install.sh $(VENV)
	@touch $@

demo: $(stamp) ## poison, personalize and report on the built-in model, into demo-output/
	$(bin)/safezone demo --out demo-output

lint: $(stamp) ## style, format and types
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy

test: lint ## lint, then all tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(bin)/python -m pytest -n $(WORKERS) --dist worksteal

format: $(stamp) ## put sources into the format that lint asks for
	$(bin)/ruff format
	$(bin)/ruff check --fix

clean: ## remove what tools and the demo left behind, but not the environment
	rm -rf demo-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
