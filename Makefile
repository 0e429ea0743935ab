# Every target sets up what it needs, once. Another interpreter: make PYTHON=python3.12 …
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BROWSER := $(VENV)/.ready-browser
NOTEBOOK := example_notebooks/01_abstract_to_tweet.ipynb
# What the JupyterLab extension is built from.
LABEXTENSION := package.json package-lock.json tsconfig.json \
	$(wildcard labextension/src/* labextension/style/* labextension/schema/* nbdream/widgets/static/*)
# JupyterLab refuses to run as root (in a container, say) unless it is told.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Where nothing may keep compiled modules, every worker would compile torch and transformers anew: 20 s each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo lab test quick lint format docs bench stress clean

help: ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: $(READY) ## The virtual environment with everything in it

demo: $(READY) ## Generate data, train a model on it and write the cards: offline, a few minutes
	@$(BIN)/nbdream demo

lab: $(READY) ## Open the example notebook in JupyterLab
	@$(BIN)/jupyter lab $(AS_ROOT) $(NOTEBOOK)

test: $(READY) $(BROWSER) ## Every test
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

quick: $(READY) ## The tests that start no training and no browser
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not browser"

lint: $(READY) ## Style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Bring the code into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## Write the reference from the code
	@$(BIN)/python -m scripts.reference

bench: $(READY) ## Measure what the README promises
	@$(BIN)/python -m benchmarks

stress: $(READY) $(BROWSER) ## What is longer than a test may take: stories in the browser, the engine under load and under kills
	@$(BIN)/python -m pytest -m stress
	@$(BIN)/python -m benchmarks stress

clean: ## Remove what was made, the virtual environment included
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache node_modules labextension/lib nbdream/labextension
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt scripts/setup.sh scripts/labextension.py $(LABEXTENSION)
	@scripts/setup.sh $(PYTHON)
	@touch $@

$(BROWSER): scripts/browser.sh $(READY)
	@scripts/browser.sh
	@touch $@
