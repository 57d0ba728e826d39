# Two commands start everything: `make demo` and `make test`. A second call does not reinstall.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 5000
RUNS ?= runs
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraints constraints.txt

.PHONY: help demo check test test-all lint bench ui docs pictures clean
help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/uv
	@echo "installing the packages into .venv (about 6 GB, 1-4 minutes)"
	$(INSTALL) -e .
	@touch $@

.venv/.installed-test: .venv/.installed
	@echo "installing the test tools into .venv"
	$(INSTALL) -e '.[test,docs]'
	@touch $@

demo: .venv/.installed  ## Install, run the digits recipe, print its metrics
	$(BIN)/python pipelines/run.py --pipeline digits

# Two Ray clusters on one host disturb each other, so only tests without one run two at a time.
PYTEST = $(BIN)/python -m pytest --durations=40
TWO_AT_A_TIME = OMP_NUM_THREADS=1 $(PYTEST) -n 2

check: .venv/.installed-test lint  ## While you work: lint and the fast tests (5 minutes)
	$(TWO_AT_A_TIME) -m "not ray and not slow and not faults and not gpu"

test: .venv/.installed-test lint  ## Before you push, and in CI: also slow tests and those on Ray (30 minutes)
	$(TWO_AT_A_TIME) -m "not ray and not faults and not gpu"
	$(PYTEST) -m "ray and not faults and not gpu"

test-all: test  ## Before a release: also tests that kill whole runs (hours)
	$(PYTEST) -m faults

lint: .venv/.installed-test  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/.installed  ## Run the benchmarks
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

ui: .venv/.installed  ## MLflow UI of runs/ on 127.0.0.1:5000 (others: make ui PORT=5001 RUNS=DIR)
	@echo "runs: http://127.0.0.1:$(PORT)/#/experiments (Model training, not GenAI, then an experiment)"
	PYTHONWARNINGS=ignore MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
	  $(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 \
	  --backend-store-uri sqlite:///$(abspath $(RUNS)/mlflow.db)

docs: .venv/.installed-test  ## Build the pages of docs/ into docs/_build, warnings as errors
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build
	@echo "pages: docs/_build/index.html"

pictures: .venv/.installed-test  ## Take docs/*.png of the full digits run and a changed one (5 minutes each, once)
	$(BIN)/python pipelines/run.py --pipeline digits
	$(BIN)/python pipelines/run.py --pipeline digits --set stage2.contrastive.step_size=0.2
	ATJEM_PICTURES=1 $(BIN)/python -m pytest tests/test_pages.py

clean:  ## Remove the virtual environment (runs/ stays)
	rm -rf .venv build *.egg-info
