# `make demo`, `make test` and `make lint` are all one needs: each first makes .venv where it is missing.
PYTHON ?= $(firstword $(foreach v,python3.13 python3.12 python3.11 python3,$(shell command -v $(v) >/dev/null 2>&1 && $(v) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(v))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test test-more lint format clean

demo: $(READY)
	$(BIN)/snn-async compare --config configs/compare_digits.yaml

# Two processes; within them torch gains nothing by more threads on networks this small.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# New random networks in every run, many more than `make test` takes (a failure prints how to repeat it), and
# the slow half of tests/faults: processes killed at many moments.
test-more: $(READY)
	$(BIN)/python -m pytest --hypothesis-profile more tests/test_engines_agree.py
	$(BIN)/python -m pytest -m faults tests/faults

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "snn-async needs Python 3.11 or newer with venv; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[all,dev]'
	@touch $(READY)
