# Each target sets up what it needs in .venv on its first call and installs nothing on the next.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: search test clean

search: .venv/installed
	$(BIN)/lpanas search quickstart

test: .venv/installed-dev
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

clean:
	rm -rf .venv build *.egg-info
