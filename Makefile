# gradhelm: `make demo` shows it, `make test` proves it, `make help` lists the rest.
#
# Variables, on the command line or in the environment:
#   PYTHON    the Python 3.11+ to use            (default: the newest one found up to 3.13)
#   VENV      where its packages are put         (default: .venv)
#   ORACLES   the same, for `make oracles`       (default: .venv-oracles)
#   TORCH     which torch is installed           (default: torch, the release in the constraints)
#   PIP_ARGS  more words for pip, such as an index that has CPU builds of torch
#   CHROMIUM  the browser for the page's tests   (default: the first one found)
#   ARGS      more words for what is run: make demo ARGS="--port 9000", make pytest ARGS="-k wire"

VENV ?= .venv
ORACLES ?= .venv-oracles
TORCH ?= torch
ARGS ?=
BIN := $(VENV)/bin
export PYTHON VENV TORCH PIP_ARGS CHROMIUM

# What is installed changes only with these; the code itself is installed in place.
LOCKS := pyproject.toml constraints-dev.txt scripts/setup.sh $(wildcard *build*.py) \
         $(wildcard dashboard/*.py dashboard/package*.json dashboard/*/package*.json package*.json)

.DEFAULT_GOAL := help
.PHONY: help demo test check install fmt lint types pytest oracles docs screenshots bench chaos fuzz audit smoke clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{ printf "make %-9s %s\n", $$1, $$2 }'

demo: $(VENV)/installed ## start the server, the page and a real training run to steer
	@echo "[3/3] starting the demo (Ctrl-C ends it)"
	@exec $(BIN)/gradhelm demo $(ARGS)

test: ## everything that CI runs: lint, types and all tests
	@CHROMIUM=$$(scripts/setup.sh chromium) && $(MAKE) --no-print-directory lint types pytest oracles CHROMIUM="$$CHROMIUM"

check: test ## the same as test

install: $(VENV)/ready ## make the environment with all tools, and run nothing

fmt: $(VENV)/ready ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/ready ## ruff, the formatting included, and bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive client_hook server dashboard migrations

types: $(VENV)/ready ## mypy, strict
	$(BIN)/mypy

pytest: $(VENV)/ready ## pytest alone; ARGS="-k name" or ARGS="-m 'not browser'" for less
	$(BIN)/pytest $(ARGS)

oracles: $(ORACLES)/ready ## the strategies and integrations beside the packages they are held to
	$(ORACLES)/bin/pytest tests/oracles $(ARGS)

docs: $(VENV)/ready ## renew what the documents quote from the code
	$(BIN)/python scripts/docs.py

screenshots: $(VENV)/ready ## take the pictures of the page in docs/screenshots anew (four minutes)
	@CHROMIUM=$$(scripts/setup.sh chromium) && CHROMIUM="$$CHROMIUM" $(BIN)/python tests/browser/screenshots.py

bench: $(VENV)/ready ## measure this machine, beside other loggers (35 minutes; ARGS="--large": hours)
	@CHROMIUM=$$(scripts/setup.sh chromium) && CHROMIUM="$$CHROMIUM" $(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/ready ## kill, stop and starve it for a quarter of an hour; prints what came of it
	CHAOS=long $(BIN)/pytest tests/chaos -k "not defect and not either_side"
	cd tests && $(abspath $(BIN))/python -m chaos.defects
	cd tests && $(abspath $(BIN))/python -m chaos.stopped
	cd tests && $(abspath $(BIN))/python -m chaos.kills --cycles 1000 --changes 500

fuzz: $(VENV)/ready ## half an hour of fuzzing, and REST held to its description at length
	cd tests && $(abspath $(BIN))/python -m security.fuzz $(ARGS)
	cd tests && PYTHONPATH=server $(abspath $(BIN))/python -m security.rest --examples 100

audit: $(VENV)/ready ## what is installed: whole, pinned, licensed, no known vulnerabilities (asks OSV.dev)
	$(BIN)/python scripts/audit.py $(ARGS)

smoke: $(VENV)/ready ## build the wheel and try it in fresh environments
	$(BIN)/pytest -m packaging tests/test_packaging.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) $(ORACLES) .bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find client_hook server dashboard migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what it takes to run, to test, and to compare.
$(VENV)/installed: $(LOCKS)
	@scripts/setup.sh venv
	@scripts/setup.sh run
	@touch $@

$(VENV)/ready: $(VENV)/installed
	@scripts/setup.sh dev
	@touch $@

$(ORACLES)/ready: $(LOCKS)
	@VENV=$(ORACLES) scripts/setup.sh oracles
	@touch $@
