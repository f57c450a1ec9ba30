# make run, make test: both set up first. Everything lives in .venv.
# make quick, make browser: a part of the tests (tests/README.md).
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test quick browser cluster setup check format docs bench screenshots clean
STYLES := $(wildcard playground/rendering/styles/*.css playground/web/static/*.css)
# Two files at a time, in the order of tests/conftest.py: xdist's own begins with the file of most tests.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
MARKDOWN := *.md .github bench docs examples presets studies suites tests training

run: setup
	$(if $(SHARE),PLAYGROUND_SHARE=$(SHARE)) $(BIN)/python app.py

test: setup
	$(BIN)/python -m pytest $(TWO)

quick: setup
	$(BIN)/python -m pytest $(TWO) -m "not thorough" tests/unit

browser: setup
	$(BIN)/python -m pytest $(TWO) tests/browser

# Two Ray nodes on this machine. Ray takes 79 MB to download, so make test skips these unless it is installed.
cluster: setup
	$(BIN)/python -m pip install --quiet --editable ".[cluster]"
	$(BIN)/python -m pytest tests/cluster

setup: $(VENV)/.done

# llama-cpp-python comes as source: about 9 minutes on 2 cores, shown line by line; pip keeps the wheel for next time.
$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing llama-cpp-python. Where it has to be compiled this takes some minutes; log: $(VENV)/build.log"
	@$(BIN)/python -m pip install --verbose "llama-cpp-python>=0.3.36,<0.4" 2>&1 | tee $(VENV)/build.log \
		| awk '/^ *\[ *[0-9]+(\/[0-9]+|%)\] / { printf "\r  compiled %s ", $$1; fflush() } END { print "" }' \
		|| { tail -n 40 $(VENV)/build.log; exit 1; }
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/deptry .
	$(BIN)/python -m docs.generate --check
	$(BIN)/mdformat --check $(MARKDOWN)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mdformat $(MARKDOWN)
	$(BIN)/css-beautify --indent-size 2 --end-with-newline --space-around-combinator --replace $(STYLES)

# The command line's reference, the table of settings and the example settings are written from the code.
docs: setup
	$(BIN)/python -m docs.generate

bench: setup
	bash bench/tools.sh
	$(BIN)/python -m bench

screenshots: setup
	$(BIN)/python -m docs.screenshots

clean:
	rm -rf $(VENV) build dist
