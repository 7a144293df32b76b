# `make demo` and `make test` do all set-up themselves, in ./.venv.
PYTHON ?= python3
VENV := .venv
PACKAGES := hardware sim planners backend experiments
BIN := $(VENV)/bin
# A machine without an NVIDIA GPU takes the one torch release that is tested on CPUs;
# elsewhere the range in pyproject.toml decides.
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo "torch>=2.11,<2.14" || echo "torch==2.13.0")

MINIMUM_TESTS := tests/sim/engine/test_engine.py tests/sim/schedules/test_schedules.py \
	tests/sim/models tests/planners/spaces/test_space.py tests/planners/search/test_exhaustive.py \
	tests/hardware/test_presets.py tests/hardware/test_collectives.py tests/hardware/test_kernel_fit.py \
	tests/experiments/output/test_journal.py tests/experiments/output/test_output.py \
	tests/experiments/output/test_figures.py tests/experiments/commands/test_plan_command.py

.PHONY: demo test quick test-all fuzz coverage mutants minimum wheel hash-seeds licences check format typing docs site clean

demo: $(VENV)/ready
	$(BIN)/parplan demo -o out/demo

# Modules run side by side, each in one process; `make test JOBS=1` runs one after the other.
JOBS ?= 2
test: check
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadscope

# The tests of what changed since BASE, as far as they fit in QUICK_S seconds (tests/tools/quick_tests.py).
BASE ?= HEAD
QUICK_S ?= 80
quick: $(VENV)/ready typing
	$(BIN)/ruff check .
	$(BIN)/python -m tests.tools.quick_tests --base $(BASE) --seconds $(QUICK_S)

# The quick tests and the long ones.
test-all: check
	$(BIN)/python -m pytest -q -m "long or not long" --timeout 3600

# Over 40,000 inputs that are nearly right.
fuzz: $(VENV)/ready typing
	$(BIN)/python -m pytest -q -s -m long --timeout 3600 tests/system/test_fuzz.py

# Branch coverage of the simulator's core by the tests that are about it.
coverage: $(VENV)/ready typing
	$(BIN)/python -m tests.tools.core_coverage

# Changes of the simulator's core and of the planners, and how many of them the tests notice.
mutants: $(VENV)/ready typing
	$(BIN)/python -m tests.tools.core_mutants

# The tests that need no torch, with the oldest releases that are allowed.
minimum: typing
	$(PYTHON) -m venv .venv-minimum
	.venv-minimum/bin/python -m pip install --quiet -r tests/tools/minimum.txt hypothesis pytest pytest-timeout pyyaml
	.venv-minimum/bin/python -m pip install --quiet --no-deps -e .
	.venv-minimum/bin/python -m pytest -q $(MINIMUM_TESTS)

# The wheel alone, in a new environment without torch, used in another folder.
wheel: $(VENV)/ready
	$(BIN)/python -m tests.tools.installed_wheel

# The same bytes under several values of PYTHONHASHSEED.
hash-seeds: $(VENV)/ready typing
	$(BIN)/python -m tests.tools.hash_seeds

licences: $(VENV)/ready
	$(BIN)/python -m tests.tools.licences

check: $(VENV)/ready typing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes what the commands print now into the pages that show it; look at the difference.
docs: $(VENV)/ready
	PARPLAN_WRITE_DOCS=1 $(BIN)/python -m pytest -q tests/docs/test_docs.py tests/docs/test_notebook.py tests/docs/test_contributing.py
	$(BIN)/parplan plan llama3-70b --cluster 64xh100 --seq-len 8192 --global-batch 128 -o out/picture
	cp out/picture/landscape.png docs/plan.png
	git diff --stat docs

# The documentation as a site in build/site, with the API reference; warnings are errors.
site: $(VENV)/ready typing
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "site: build/site/index.html"

typing:
	@[ ! -L build/typing/parplan ] || rm build/typing/parplan
	@mkdir -p build/typing/parplan
	@for name in $(PACKAGES) ; do ln -sfn ../../../$$name build/typing/parplan/$$name ; done
	@for file in parplan/* ; do ln -sfn ../../../$$file build/typing/parplan/ ; done

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "parplan needs Python 3.11 or newer: make PYTHON=python3.x ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[torch,dev,fast]"
	@touch $@

clean:
	rm -rf $(VENV) build out
