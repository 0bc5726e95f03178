# `make demo` shows the product, `make test`, `make lint` and `make bench` check it, against a real cluster where
# `make cluster` has made one. Each sets up what it needs: a virtual environment in .venv, made anew when what it is
# made from changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The interpreter for .venv: 3.11 or newer.
PYTHON ?= python3
# Further arguments for pytest: make test ARGS="-k names -x"
ARGS ?=

BIN := .venv/bin
INPUTS := $(shell cat pyproject.toml hatch_build.py 2>/dev/null | sha256sum | cut -c1-16)
INSTALLED := .venv/.installed-$(INPUTS)
INSTALLED_DEV := .venv/.installed-dev-$(INPUTS)
NATIVE := $(wildcard layer/native/*)

.PHONY: help demo test lint bench cluster cluster-down layer venv clean

help:
	@echo 'make demo    shows mirror at work: no cluster, no root, nothing to configure'
	@echo 'make test    runs the tests; ARGS="-k name" chooses'
	@echo 'make lint    runs every static check'
	@echo 'make bench   prints what things cost'
	@echo 'make cluster brings up a Kubernetes cluster for the tests; make cluster-down removes it'
	@echo 'make clean   removes what the others made'

demo: $(INSTALLED) layer
	@$(BIN)/python -m mirror.cli.tour

test: $(INSTALLED_DEV) layer
	@tests/install-packages
	@$(BIN)/python -m pytest $(ARGS)

bench: $(INSTALLED_DEV) layer
	@$(BIN)/python -m tests.bench $(ARGS)

# --- a cluster for the tests: by kind where a Docker engine runs, else from Debian's packages, as root -------------

cluster: $(INSTALLED_DEV)
	@$(BIN)/python -m tests.cluster up

cluster-down: $(INSTALLED_DEV)
	@$(BIN)/python -m tests.cluster down

# --- the environment ---------------------------------------------------------------------------------------------

venv: $(INSTALLED_DEV)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "mirror needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# The compiler for the layer is a Python package: it is installed once, in .venv, not again for each build.
define install
	@echo "installing into .venv (the first time takes a minute)"
	@$(BIN)/python -c 'import tomllib; build = tomllib.load(open("pyproject.toml", "rb"))["build-system"]; \
		print(*build["requires"], "editables", sep="\n")' > .venv/build-requires.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement .venv/build-requires.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.$(1)'
	@rm -f .venv/.installed-*
endef

$(INSTALLED): | .venv/bin/python
	@if [[ ! -e $(INSTALLED_DEV) ]]; then $(MAKE) --no-print-directory .install; fi

.PHONY: .install
.install:
	$(call install,)
	@touch $(INSTALLED)

$(INSTALLED_DEV): | .venv/bin/python
	$(call install,[dev])
	@touch $(INSTALLED) $(INSTALLED_DEV)

# --- the layer ---------------------------------------------------------------------------------------------------

layer: .venv/.layer

.venv/.layer: $(NATIVE) hatch_build.py | $(INSTALLED)
	@$(BIN)/python hatch_build.py --native
	@touch $@

# --- static checks -----------------------------------------------------------------------------------------------

SHELL_SCRIPTS := $(wildcard .ci/*) tests/install-packages
C_TARGETS := x86_64-linux-gnu.2.17 aarch64-linux-gnu.2.17 x86_64-linux-musl aarch64-linux-musl
C_WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes -Wmissing-variable-declarations -Wold-style-definition -Wvla -Wundef -Wcast-align \
	-Wcast-qual -Wwrite-strings -Wformat=2 -Wnull-dereference -Wimplicit-fallthrough -Wswitch-enum \
	-Wthread-safety -Wcomma -Wdouble-promotion -Wunreachable-code-aggressive

.PHONY: lint-python lint-c lint-shell
lint: lint-python lint-c lint-shell

lint-python: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

lint-c: $(INSTALLED_DEV)
	$(BIN)/clang-format --dry-run -Werror layer/native/*.[ch] tests/cluster/images/*.c
	@object=$$(mktemp -d); trap 'rm -rf "$$object"' EXIT; \
	for target in $(C_TARGETS); do \
		echo "C warnings for $$target"; \
		$(BIN)/python -m ziglang cc -target "$$target" -shared -fPIC -O2 -std=gnu11 -D_GNU_SOURCE -Werror $(C_WARNINGS) \
			-o "$$object/layer.so" layer/native/*.c; \
	done

lint-shell: $(INSTALLED_DEV)
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis layer/mirror/layer/lib
	find . -name __pycache__ -prune -exec rm -rf {} +
