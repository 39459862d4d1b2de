PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SWEEP := method=none,random,adios,sequential,superpixel_budget seed=0,1,2

.PHONY: demo masks test check bench clean

demo: $(VENV)/ready
	$(BIN)/python benchmark/run.py -m $(SWEEP)

masks: $(VENV)/ready
	$(BIN)/python benchmark/run.py -m experiment=masks
	$(BIN)/python reports/masks.py runs/masks --out runs/masks/report

test: $(VENV)/ready
	$(BIN)/python -m pytest

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/ready
	$(BIN)/python tests/bench/suite.py $(BENCH)

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV)
