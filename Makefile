# Each target makes the virtual environment that it needs; the second time that costs nothing.
#
#   make demo        fetch the embedded model and show what steering does
#   make test        the tests that every change has to pass
#   make coverage    those tests that can be traced, with the coverage of the packages
#   make test-full   every test, the slow ones included
#   make lint        format, lint, types and the direction of imports, as they are checked on every change

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# The embedded model, quick when it is there; by Python, so that a broken command line fails its own tests.
FETCH := $(BIN)/python -c 'from aisp.models import fetch; fetch()'
# Two processes of one thread each are quicker than one of two: most of the models are tiny.
PARALLEL ?= -n 2 --dist loadfile
COVERAGE := --cov=aisp --cov=aisp_langchain --cov=aisp_llamaindex --cov-report=term
RUN_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-full lint format clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(RUN_STAMP)
	$(BIN)/aisp model fetch
	$(BIN)/aisp demo

test: $(DEV_STAMP)
	$(FETCH)
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not full"

test-full: $(DEV_STAMP)
	$(FETCH)
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL)

# Apart from `test`: tests that interrupt the engine at every line trace it themselves.
coverage: $(DEV_STAMP)
	$(FETCH)
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not full" --ignore tests/engines/transformers/test_faults.py $(COVERAGE)

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} is too old; set PYTHON to 3.11 or later, as in: make test PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# The developer's environment holds all that the demonstration's does.
$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[dev]'
	touch $(DEV_STAMP) $(RUN_STAMP)

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[demo]'
	touch $(RUN_STAMP)
