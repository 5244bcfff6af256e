# Each target sets up what it needs in .venv on its first call and installs nothing on the next.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
CONSUMERS := $(patsubst tests/consumers/%.txt,.venv/consumers/%/installed,$(wildcard tests/consumers/*.txt))

.PHONY: search test clean

search: .venv/installed
	$(BIN)/lpanas search quickstart

test: .venv/installed-dev $(CONSUMERS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summary=none
	$(BIN)/pytest -n 2 --dist loadfile

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'lpanas needs Python 3.11 or newer' >&2; exit 2; }
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --quiet --user virtualenv && $(PYTHON) -m virtualenv --quiet .venv; }

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) torch --editable .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) torch --editable '.[dev]'
	@mkdir -p .venv/types && ln -sfn ../.. .venv/types/lpanas  # the layout that the type checker cannot read from an editable install
	@touch $@ .venv/installed

# A program that reads what lpanas exports, in a folder for its own PYTHONPATH: such programs pin what others need newer.
.venv/consumers/%/installed: tests/consumers/%.txt | .venv/bin/python
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) --requirement $<
	@touch $@

clean:
	rm -rf .venv build *.egg-info
