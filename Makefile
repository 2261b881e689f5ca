# Two commands do everything on a machine with Python 3.11 or newer: `make dev` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
TARGET := h2
TIME := 300

.PHONY: dev test check bench fuzz install man clean

# Set up, and run a server to play with until Ctrl-C.
dev: install
	exec $(BIN)/kes server --dev

# Everything that CI runs, in the order of how soon it fails. A file stays with one worker: its server is started once.
test: install check
	$(BIN)/python -m tests.openbao.build
	$(BIN)/python -m tests.boot.image
	$(BIN)/pytest -n $(WORKERS) --dist loadfile

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# How it compares with nginx under the SDK's load, on standard output; needs Go and nginx. Takes 8 minutes.
bench: install
	@$(BIN)/python bench/load.py

# A fuzzer, for TIME seconds: make fuzz TARGET=h1 TIME=60
fuzz: $(VENV)/.fuzz
	mkdir -p build/fuzz/$(TARGET)
	$(BIN)/python -m tests.fuzz $(TARGET) -max_total_time=$(TIME) build/fuzz/$(TARGET) tests/fuzz/corpus/$(TARGET)

install: $(VENV)/.installed

# Editable in the compatible way: the newer one hides the twistd plugin.
$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("kes needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[fuzz]'
	touch $@

# The manual pages, into build/man.
man: install
	$(BIN)/python -m kes.cli.man build/man

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
