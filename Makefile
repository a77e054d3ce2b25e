# Each target does all of its own set-up: a fresh machine needs Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow coverage mutants lint docs notebook audit bench install clean

train: install           ## train on the embedded digits
	$(BIN)/densely train digits

# A worker a core, four at most, each with one thread: two programs whose threads share cores wait for one another.
test: .venv/dev          ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test-slow: .venv/dev     ## real training on CIFAR-10 and everything else that takes long
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -q -m slow

coverage: .venv/dev      ## the files of which the fast tests run less than 90 % of the lines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --cov=densely --cov-report=
	@$(BIN)/coverage report --sort=cover | awk '$$NF + 0 < 90 || $$1 == "TOTAL"'

mutants: .venv/dev       ## the core changed in one place at a time: do the tests notice? make mutants ONLY="splits claim"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt mutmut==3.8.1
	$(BIN)/python tests/mutants.py $(ONLY)

lint: .venv/dev          ## style, types, and the docs site without a warning
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) docs

docs: .venv/dev          ## the docs site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site: site/index.html"

notebook: .venv/dev      ## run the walk-through again, and write it with its outputs
	$(BIN)/python tests/kernel.py notebooks/densenet.ipynb

audit: .venv/dev         ## known weaknesses of the pinned versions, from the PyPI advisory database
	$(BIN)/python -m pip install -q --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip -r constraints.txt

bench: .venv/dev         ## whole training steps against two peers, about 3 minutes
	$(BIN)/python benchmarks/train_step.py --rounds 3 --steps 3 --contenders densely "textbook PyTorch" "Keras on torch"

install: .venv/installed ## .venv with densely in it

# Stamps, so that a second call starts at once, and an interrupted first one starts again.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Densely needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:                   ## remove the environment and all caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
