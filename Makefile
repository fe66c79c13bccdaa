# Everything below makes .venv by itself when it is missing, and is safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test slow lint docs clean

demo: $(VENV)/.installed  ## pretrain on synthetic birds, before and after in one table, in minutes
	$(BIN)/ppssl demo --out runs/demo

test: $(VENV)/.installed  ## the default tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.installed  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --timeout 900

lint: $(VENV)/.installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/codespell

docs: $(VENV)/.installed  ## docs/_build/html, offline; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist runs docs/_build docs/generated docs/reference
