# Targets make what they need; CONTRIBUTING.md says what each is for.
#   PYTHON       the interpreter that .venv is made with
#   PYTEST_ARGS  further arguments for pytest (tests, matrix)
#   MATRIX       the versions for the matrix
#   BENCH_ARGS   further arguments for the benchmarks; --write puts their table into the docs
#   CASES        the cases of the Autobahn test suite, as "1.* 2.*"; all without
#   PYTHON2      the Python 2.7 for that suite; looked for without

PYTHON ?= python3
PYTEST_ARGS ?=
MATRIX ?= 3.10 3.11 3.12 3.13
BENCH_ARGS ?=
CASES ?=
PYTHON2 ?=

VENV := .venv
RUN := $(VENV)/bin/python
DEV := $(VENV)/.stamp-dev
CLI := $(VENV)/.stamp-cli
PEERS := $(VENV)/.stamp-peers
AUTOBAHN := .autobahn/.stamp
REAL_MODEL := .real-model/.stamp

.PHONY: help style format types tests coverage docs examples check matrix demo build bench autobahn real-model clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

check: style types coverage tests docs examples  ## everything a change must pass

style: $(DEV)  ## linter and formatter, changing nothing
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: $(DEV)  ## repair what linter and formatter can repair
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

types: $(DEV)  ## mypy, strict
	$(RUN) -m mypy

tests: $(DEV)  ## all tests but those of _core and the examples, which have targets of their own
	$(RUN) -m pytest -n auto -m "not examples" --ignore=tests/_core $(PYTEST_ARGS)

coverage: $(DEV)  ## the tests of _core, which must take every branch of it
	$(RUN) -m pytest -n auto --cov=reasoning_sdk --cov-branch --cov-report= tests/_core $(PYTEST_ARGS)
	$(RUN) -m coverage report --include='reasoning_sdk/_core/*' --fail-under=100

docs: $(DEV)  ## the documentation, in docs/_build/html
	$(RUN) -m sphinx -W -n -q --keep-going docs docs/_build/html

examples: $(DEV)  ## run the files of examples/
	$(RUN) -m pytest -n auto -m examples $(PYTEST_ARGS)

matrix:  ## the tests on each Python found
	PYTEST_ARGS='$(PYTEST_ARGS)' .ci/matrix $(MATRIX)

demo: $(CLI)  ## stream a recorded response through the whole client
	@$(RUN) -m reasoning_sdk demo

build: $(DEV)  ## sdist and wheel, each tried in an empty environment
	rm -rf build dist
	$(RUN) -m build
	$(RUN) tests/packaging/check_install.py dist

bench: $(PEERS)  ## what the library costs beside others of its kind
	@$(RUN) -m benchmarks $(BENCH_ARGS)

autobahn: $(DEV) $(AUTOBAHN)  ## the Autobahn test suite for WebSockets
	@set -f; $(RUN) tests/autobahn/run.py .autobahn $(CASES)

real-model: $(DEV) $(REAL_MODEL)  ## the response loop against `transformers serve` with a tiny model
	@$(RUN) -m tests.real_model.run .real-model

clean:  ## remove what the targets made, .venv, .node, .autobahn and .real-model apart
	rm -rf build dist docs/_build .matrix .coverage .coverage.* *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -not -path './.node/*' -not -path './.autobahn/*' -not -path './.real-model/*' -prune -exec rm -rf {} +

# The dev environment is one for the demo too; the demo's own is smaller, and grows into the other.

$(DEV): setup.cfg
	@.ci/venv '$(PYTHON)' $(VENV)
	@echo "installing reasoning_sdk[dev,docs] into $(VENV)"
	@$(RUN) -m pip install -qq --editable '.[dev,docs]'
	@touch $(CLI) $@

$(CLI): setup.cfg
	@.ci/venv '$(PYTHON)' $(VENV)
	@echo "installing reasoning_sdk[cli] into $(VENV)"
	@$(RUN) -m pip install -qq --editable '.[cli]'
	@touch $@

$(PEERS): setup.cfg $(DEV)
	@echo "installing reasoning_sdk[benchmarks] into $(VENV)"
	@$(RUN) -m pip install -qq --editable '.[benchmarks]'
	@touch $@

$(AUTOBAHN): tests/autobahn/install $(DEV)
	@PYTHON2='$(PYTHON2)' tests/autobahn/install $(RUN) .autobahn
	@touch $@

$(REAL_MODEL): tests/real_model/install tests/real_model/make_model.py $(DEV)
	@tests/real_model/install $(RUN) .real-model
	@touch $@
