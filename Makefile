# Every target does its own set-up. PYTHON names the interpreter that makes the environment.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Bytecode is made where a module is first imported, and must be kept then.
unexport PYTHONDONTWRITEBYTECODE

# The real data of the slow tests, where a machine has it (docs/development.md). Only set when it is there.
ifndef BERTWRIGHT_DATA
ifneq ($(wildcard ../shared/data),)
export BERTWRIGHT_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: setup demo test check check-types check-style format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bertwright needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[test,check]'
	@touch $(STAMP)

demo: setup
	PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist worksteal

check: check-types check-style

check-types: setup
	$(BIN)/mypy

check-style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
