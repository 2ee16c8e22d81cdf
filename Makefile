# make run: the demo.  make test: style, types, tests.  make docs: the API reference, in build/docs.
# Each makes its own .venv on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test docs clean

run: .venv/run.stamp
	$(BIN)/jaxdissect demo

test: .venv/test.stamp
	$(BIN)/python tests/helpers/install_browser.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

docs: .venv/docs.stamp
	$(BIN)/python docs/reference.py build/docs

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "jaxdissect needs Python 3.11 or newer: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test.stamp: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

.venv/docs.stamp: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
