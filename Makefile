# Each target sets up what it needs; `make demo` and `make test` work on a machine with only Python ≥ 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The competitor lives in an environment of its own; both sides use the torch of constraints.txt.
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
NNUNET := nnunetv2==2.8.1
DATA ?= ../shared/data
PARTS ?=

.PHONY: setup demo test lint types format bench ratios build clean

setup: $(STAMP)  ## virtual environment with selfseg and its development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)  ## generate a small data set and run everything on it
	$(BIN)/selfseg demo --folder demo

test: $(STAMP)  ## unit, golden and integration tests
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not bench and not gpu"

lint: $(STAMP)  ## style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP)  ## rewrite in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)  ## mypy strict over both trees and the tests
	$(BIN)/mypy selfseg planners tests

bench: $(BENCH_STAMP)  ## against nnU-Net, side by side (PARTS="plan export" for some of them)
	PYTHONPATH=tests/benchmarks $(BENCH_VENV)/bin/python -m versus $(PARTS) --data $(DATA)

$(BENCH_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable . "$(NNUNET)"
	touch $(BENCH_STAMP)

ratios: $(STAMP)  ## selfseg against plain ways of doing the same, and what ideas gain; about three hours
	$(BIN)/python -m pytest -m bench -s tests/benchmarks

build: $(STAMP)  ## wheel and sdist (a stale build/ would leak deleted modules)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## everything that can be made again
	rm -rf build dist demo bench $(BENCH_VENV) selfseg_workspace .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info $(VENV)
