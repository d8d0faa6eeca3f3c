# One command each; `app`, `test` and `check` do the set-up themselves when it is missing or old.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
PYTEST_ARGS ?=

# One thread a process: the tests already run $(WORKERS) processes.
PYTEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup app test check docs notebooks format lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install everything into .venv, every version pinned by requirements.lock

app: $(STAMP) ## Open the workbench in a browser
	$(BIN)/python -m streamlit run app.py

test: $(STAMP) ## Run the tests
	$(PYTEST)

check: $(STAMP) ## Run what CI runs: style, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

docs: $(STAMP) ## Write the command reference and build the documentation into build/site
	$(BIN)/python -m workbench.cli._reference docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

notebooks: $(STAMP) ## Run the notebooks and save their outputs
	$(BIN)/python notebooks/_execute.py

format: $(STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP) ## Write the versions now in .venv to requirements.lock
	$(BIN)/python -m pip freeze --exclude svgt-workbench --exclude pip --exclude setuptools --exclude wheel \
		| sed -E 's/\+[a-z0-9.]+$$//' | grep -E '^[A-Za-z0-9._-]+==' > requirements.lock.new
	mv requirements.lock.new requirements.lock
	touch $(STAMP)

clean: ## Remove caches; .venv and run folders stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	touch $@

# A name on the PATH may be a shim that does not run, so every candidate is tried.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; \
		then echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); fi; \
	done; \
	echo "error: Python 3.11, 3.12 or 3.13 is needed and none was found; name one: make setup PYTHON=/path/to/python" >&2; \
	exit 2
