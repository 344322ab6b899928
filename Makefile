# Everything runs in .venv, which is made anew only when requirements.lock changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
export HF_HUB_OFFLINE = 1

.PHONY: demo test coverage faults fuzz bench docs lint clean

demo: $(READY)
	$(BIN)/promptvit demo --out runs/demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-report=html:runs/coverage

faults: $(READY)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m faults.campaign --kills $(or $(KILLS),240)

fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/campaign.py --cases $(or $(CASES),100000)

bench: $(READY)
	$(BIN)/python benchmarks/report.py

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "promptvit needs Python 3.11 or newer; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	rm -f $(VENV)/.ready-*
	touch $@

clean:
	rm -rf $(VENV) runs site
