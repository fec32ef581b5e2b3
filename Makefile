# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# They share one environment, .venv, which is made again only when pyproject.toml or constraints.txt change.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first Python that is new enough and can make environments; set PYTHON=... to choose another.
# The versions in constraints.txt were resolved for 3.11, so it is tried first.
ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
endif

# Tests share the cores by processes, so one thread each; Ray's tests start one Ray of their own and come last,
# with what measures time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help quickstart test bench chaos lint format env clean

help:
	@echo "make quickstart  make the environment, run the main job on the embedded data set, print the leaderboard"
	@echo "make test        make the environment, run all tests"
	@echo "make bench       measure the speed claims (ARGS=\"slicing --time-limit 20\" for one, or shorter)"
	@echo "make chaos       kill workers and drivers at random and compare tables (ARGS=\"--kills 30 --seed 0\")"
	@echo "make lint        ruff and pyright; make format rewrites"
	@echo "make clean       remove the environment and the caches; results stay"

quickstart: $(STAMP)
	$(BIN)/slicebench run quickstart $(ARGS)

test: $(STAMP)
	$(PYTEST) -n 2 --dist loadfile -m "not ray and not alone" $(ARGS)
	$(PYTEST) -m "ray or alone" $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m tests.speed $(ARGS)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed; found none (set PYTHON=...)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find bench baselines tests -name __pycache__ -type d -prune -exec rm -rf {} +
