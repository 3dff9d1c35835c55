# prunebench: every verb sets itself up first; `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
OLDEST = $(shell sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)

# what `make sweep` passes on, where given: MODEL (one, or several with commas) METHODS TASKS BUDGETS LIMIT OUT SEED, and anything else as ARGS
SWEEP_ARGS = $(if $(MODEL),model=$(MODEL)) $(if $(METHODS),methods=$(METHODS)) $(if $(TASKS),tasks=$(TASKS)) \
	$(if $(BUDGETS),budgets=$(BUDGETS)) $(if $(LIMIT),limit=$(LIMIT)) $(if $(OUT),out=$(OUT)) $(if $(SEED),seed=$(SEED)) $(ARGS)

# a plain `make sweep` asks the first questions alone and times few pairs, so that it ends in minutes
FIRST = $(if $(strip $(GRID)$(SWEEP_ARGS)),,limit=100 cost.pairs=7)

.DEFAULT_GOAL := help
.PHONY: help install sweep list report show verify docs test test-slow test-oldest check format bench clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[eval,nouns,smolvlm,wrappers,quantized,ray,docs,dev]'
	touch $@

sweep: $(STAMP) ## sweep a grid and print its leaderboard: MODEL= METHODS= TASKS= BUDGETS= LIMIT= OUT= SEED= GRID=file.yaml
	$(BIN)/prunebench sweep $(GRID) $(SWEEP_ARGS) $(FIRST)

list: $(STAMP) ## list models, methods and tasks
	@for what in models methods tasks; do $(BIN)/prunebench list $$what; done

report: $(STAMP) ## fold a study's cells into tables and figures again: STUDY=results/...
	$(BIN)/prunebench report $(STUDY)

show: $(STAMP) ## draw the kept tokens over an image: ARGS='method=fastv,random budget=0.5 out=kept.png'
	$(BIN)/prunebench show $(ARGS)

verify: $(STAMP) ## compare the methods with vectors from official code
	$(BIN)/prunebench verify tests/golden

docs: $(STAMP) ## write what is made from the code, and build the site into build/site
	$(BIN)/python tools/pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: $(STAMP) ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses $(JOBS) --dist loadfile

test-slow: $(STAMP) ## run the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

test-oldest: $(STAMP) ## run the test suite on the oldest supported transformers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target build/oldest 'transformers==$(OLDEST).*'
	PYTHONPATH=$(CURDIR)/build/oldest OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' --numprocesses $(JOBS) --dist loadfile

check: $(STAMP) ## ruff, the house rules and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/house.py
	$(BIN)/mypy

format: $(STAMP) ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## time the engine, the selection and the sweep
	$(BIN)/python -m pytest tests/bench_*.py --benchmark-only

clean: ## remove the environment and all caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
