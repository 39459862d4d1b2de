PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SWEEP := method=none,random,adios,sequential,superpixel_budget seed=0,1,2

.PHONY: demo masks test test-browser test-slurm proofs check bench clean

demo: $(VENV)/ready
	$(BIN)/python benchmark/run.py -m $(SWEEP)

masks: $(VENV)/ready
	$(BIN)/python benchmark/run.py -m experiment=masks
	$(BIN)/python reports/masks.py runs/masks --out runs/masks/report

test: $(VENV)/ready
	$(BIN)/python -m pytest

# The HTML report in a real browser, and tables through LaTeX; packages of Debian: chromium
# chromium-driver poppler-utils texlive-latex-base texlive-latex-recommended
test-browser: $(VENV)/ready
	$(BIN)/python -m pytest -n 0 -m browser tests/reports

# On clusters that the tests start and stop; packages of Debian: slurm-wlm munge
test-slurm: $(VENV)/ready
	$(BIN)/python -m pytest -n 0 -m slurm tests/slurm

# Kills at random moments and before each write, random command lines, what runs show while they train
proofs: $(VENV)/ready
	MASKBENCH_FUZZ=300 $(BIN)/python -m pytest -n 2 -m "" tests/test_survival.py tests/test_interrupted.py tests/test_fuzz.py \
		tests/benchmark/test_trackers.py tests/benchmark/test_gallery.py

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
