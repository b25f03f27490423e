# The commands of a checkout. Everything lives in .venv, made here with `python3 -m venv`; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PATH_TO_SURVEY ?=
SOURCES := contracts shared_state workers orchestrator tests deploy

# Tests that need the shared test data find it beside the checkout, where it is.
ifneq ($(wildcard ../shared/data),)
export ORCHESTRATOR_TEST_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-rabbitmq deploy-by-hand secrets check dev bench mutants faults replay soak bench-curves \
  bench-house bench-idle bench-flames bench-docs clean requirements schemas

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

demo: $(READY) ## survey a source tree with the whole system embedded (PATH_TO_SURVEY=DIR for another one)
	$(BIN)/orchestrator demo $(if $(PATH_TO_SURVEY),"$(PATH_TO_SURVEY)")

dev: $(READY) ## everything in one process tree, until Ctrl-C
	$(BIN)/orchestrator dev

# Two at a time, each with servers of its own; what measures how whole houses of processes behave is alone.
test: $(READY) ## the whole test suite, on real servers
	$(BIN)/python -m pytest --ignore tests/acceptance -n 2 --dist loadfile; failed=$$?; \
	$(BIN)/python -m pytest tests/acceptance && exit $$failed

test-rabbitmq: $(READY) ## the acceptance tests on RabbitMQ (apt install rabbitmq-server) instead of Redis
	ORCHESTRATOR_TEST_BROKER=amqp $(BIN)/python -m pytest tests/acceptance tests/integration/test_rabbitmq.py

deploy-by-hand: $(READY) ## docker-compose.yml without a container engine: every part runs, scales, dies and comes back
	$(BIN)/python -m tests.deploy

secrets: ## strong random secrets for docker-compose.yml, into deploy/secrets; what is there is kept
	$(PYTHON) deploy/make_secrets.py

check: $(READY) ## format, lint, types, import directions, schemas
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -o addopts=-q tests/unit/test_architecture.py tests/unit/test_schemas.py tests/unit/test_codes.py

bench: $(READY) ## the workloads W1 to W4 beside Celery and Celery + Postgres by hand, into build/bench.json
	$(BIN)/python -m tests.benchmarks

bench-curves: $(READY) ## steps/s against workers, load, plan size and history, into build/curves.json
	$(BIN)/python -m tests.benchmarks.curves

bench-house: $(READY) ## what starting, importing, HTTP and watching cost, into build/house.json
	$(BIN)/python -m tests.benchmarks.house

bench-idle: $(READY) ## what an idle dev server costs, by process, into build/idle.json; fails above 6 % of a core
	$(BIN)/python -m tests.benchmarks.idle

bench-flames: $(READY) ## flame graphs of a worker in W1 and W2, into docs/images (needs py-spy)
	$(BIN)/python -m tests.benchmarks.flames

bench-docs: $(READY) ## what the three have measured into docs/performance.md
	$(BIN)/python -m tests.benchmarks.publish

fuzz: $(READY) ## schemathesis over the HTTP API, at least 10,000 cases, into build/fuzz.json
	$(BIN)/python -m tests.fuzz

mutants: $(READY) ## take every guard away, one at a time: some test must notice; into build/mutants.json
	$(BIN)/python -m tests.mutation

faults: $(READY) ## break everything under load, count what is lost, with guards off as well; into build/faults.json and docs/reliability.md
	$(BIN)/python -m tests.faults --ablation too --document docs/reliability.md

replay: $(READY) ## all recorded traffic of model providers through the model layer, then with faults; into build/replay.json
	$(BIN)/python -m tests.replay

HOURS ?= 1
soak: $(READY) ## random faults at half load for HOURS=n: memory, table bloat, nothing lost
	$(BIN)/python -m tests.faults.soak --hours $(HOURS)

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

schemas: $(READY) ## write contracts/schemas from the models, and the codes in docs/dead-letters.md
	$(BIN)/python -m tests.write_schemas
	$(BIN)/python -m tests.write_code_table

requirements: ## compile the pinned requirements anew (needs uv)
	UV_CUSTOM_COMPILE_COMMAND="make requirements" uv pip compile --no-config --quiet --universal --generate-hashes \
	  --python-version 3.11 --no-emit-index-url --no-emit-find-links --extra dev \
	  pyproject.toml requirements/build.in --output-file requirements/dev.txt
	UV_CUSTOM_COMPILE_COMMAND="make requirements" uv pip compile --no-config --quiet --universal --generate-hashes \
	  --python-version 3.11 --no-emit-index-url --no-emit-find-links --extra objects --extra openai --extra anthropic --extra telemetry --constraint requirements/dev.txt \
	  pyproject.toml requirements/build.in --output-file requirements/base.txt

# The stamp is the last thing written: an interrupted installation is begun again.
$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed, $(PYTHON) is '$$($(PYTHON) --version 2>&1)'; try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: $(PYTHON) has no venv module; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@
