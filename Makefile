# Everything the project does starts here; every target does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What an install compiles, so that a change makes it compile again.
COMPILED := $(wildcard operators/*.pyx operators/*.pxd streams/*.pyx)
export PYTHONWARNINGS ?= ignore::ResourceWarning

.PHONY: help demo install test test-quick audit chaos fuzz lint format bench clean

help:
	@echo "make demo       install what the demonstration needs and run it (no torch, no Java, about two minutes)"
	@echo "make test       install everything and run the tests (Java 17 and Maven for those on Apache Kafka)"
	@echo "make chaos      every fault that we can inject, on Apache Kafka (root for those of the network; about two hours)"
	@echo "make fuzz       every parser under a fuzzer, ten minutes (FUZZ_S=600)"
	@echo "make lint       formatter, linter, types, layers"
	@echo "make audit      known vulnerabilities of the pinned packages; needs the advisory service"
	@echo "make bench      throughput beside a naive Faust agent and the ceilings, on Apache Kafka"
	@echo "make install    .venv with everything the tests and benches need"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt $(COMPILED) | $(BIN)/python
	$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

# Ends where the maker of a pinned package has withdrawn that version, or where two packages do not go together.
$(VENV)/.dev: pyproject.toml constraints.txt $(COMPILED) | $(BIN)/python
	@rm -f $(VENV)/install.log
	$(PIP_INSTALL) --log $(VENV)/install.log --editable '.[dev]'
	! grep 'is a yanked version' $(VENV)/install.log
	$(BIN)/python -m pip check
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/headwater demo

install: $(VENV)/.dev

test: $(VENV)/.dev
	$(BIN)/pytest

test-quick: $(VENV)/.dev
	$(BIN)/pytest -m 'not kafka and not slow'

chaos: $(VENV)/.dev
	$(BIN)/pytest -s -m 'slow or not slow' tests/chaos
	$(BIN)/python -m tests.chaos.simulator --seeds 10000

FUZZ_S ?= 600
fuzz: $(VENV)/.dev
	$(PIP_INSTALL) --editable '.[fuzz]'
	mkdir -p $(VENV)/fuzz
	$(BIN)/python -m tests.fuzz $(VENV)/fuzz -max_total_time=$(FUZZ_S) -max_len=4096 -artifact_prefix=$(VENV)/fuzz-

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# In CI only with HEADWATER_CI_AUDIT=1: it asks an advisory service on the network, from an environment of its own.
audit: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/headwater bench pipeline

clean:
	rm -f operators/*.so operators/*.c streams/*.so streams/*.c
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
