# Every target makes the virtual environment it needs. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Names the interpreter: another one makes the environment again.
WANTED = $(shell $(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11); print(sys.version, sys.base_prefix)' 2>/dev/null)
# Two test processes; a machine with more cores may use them: make test JOBS=8
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all lint format docs env python clean

help:
	@echo "make quickstart   train MAML++ on the built-in glyphs, a few minutes on two CPU cores"
	@echo "make test         lint and the tests that take minutes"
	@echo "make test-all     every test, the slow ones too"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the documentation, with all its code run, in docs/_build/html"
	@echo "PYTHON=python3.12 picks the interpreter of the virtual environment $(VENV)"

env: $(VENV)/installed

# Touched only when another interpreter is asked for than made the environment.
$(VENV)/python-version: python
	@test -n "$(WANTED)" || { echo "error: PYTHON=$(PYTHON) is not a Python 3.11 or newer"; exit 1; }
	@test "$$(cat $@ 2>/dev/null)" = "$(WANTED)" || { \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && printf '%s\n' "$(WANTED)" > $@; }

python: ;

$(VENV)/installed: $(VENV)/python-version setup.py mamlpp_jax/_version.py
	@echo "installing into $(VENV), a minute or more ..."
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[test]'
	@touch $@

quickstart: env
	$(BIN)/python -m mamlpp_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow"

test-all: lint
	MAMLPP_TEST_OPTIMIZED=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# What only the documentation needs is installed once, by the first `make docs`.
$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[docs]'
	@touch $@

docs: $(VENV)/docs-installed
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -n -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
