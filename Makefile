# Two commands: `make demo` and `make test`. Everything they need is built here, from locks, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# A shell that exports PYTHONDONTWRITEBYTECODE makes every Airflow start three times slower.
unexport PYTHONDONTWRITEBYTECODE
# A caller's own Python paths or Airflow must not leak in.
unexport PYTHONPATH VIRTUAL_ENV PYTHONHOME
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := copy

HOST_PYTHON := $(shell for p in python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1 \
	&& "$$p" -c 'import sys; print(sys.executable)' && break; done)
UV := .tools/bin/uv
PYTHON := .venv/bin/python
ML_PYTHON := .venv-ml/bin/python
FAKESNOW_PYTHON := .venv-fakesnow/bin/python
PEERS_PYTHON := .venv-peers/bin/python
MANIFEST := include/dbt/target/manifest.json
DBT_SOURCES := $(shell find include/dbt -name target -prune -o -name logs -prune -o -type f \
	\( -name '*.sql' -o -name '*.yml' \) -print)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup demo up down test bench bench-model bench-serving screenshots lint format lock clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(UV): requirements/uv.txt
	@test -n "$(HOST_PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed and none was found on PATH." >&2; exit 2; }
	@echo "==> installing uv (once)"
	@"$(HOST_PYTHON)" -m venv --clear .tools || { echo "make: this Python has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/uv.txt
	@touch $(UV)

.venv/.airflow: requirements/airflow.txt | $(UV)
	@echo "==> building Airflow's environment (.venv): Airflow, Cosmos, dbt, the providers, the emulator"
	@test -x $(PYTHON) || $(UV) venv --quiet --python "$(HOST_PYTHON)" .venv
	@$(UV) pip install --quiet --python $(PYTHON) --compile-bytecode --require-hashes -r requirements/airflow.txt
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.airflow
	@echo "==> adding what tests and linters need"
	@$(UV) pip install --quiet --python $(PYTHON) --compile-bytecode --require-hashes -r requirements/dev.txt
	@touch $@

.venv-ml/.ml: requirements/ml.txt | $(UV)
	@echo "==> building the ML environment (.venv-ml): TensorFlow, Keras, RecList, the SageMaker SDK"
	@test -x $(ML_PYTHON) || $(UV) venv --quiet --python "$(HOST_PYTHON)" .venv-ml
	@$(UV) pip install --quiet --python $(ML_PYTHON) --compile-bytecode --no-deps --require-hashes -r requirements/ml.txt
	@touch $@

.venv-fakesnow/.fakesnow: requirements/fakesnow.txt | $(UV)
	@echo "==> building the tests' Snowflake (.venv-fakesnow)"
	@test -x $(FAKESNOW_PYTHON) || $(UV) venv --quiet --python "$(HOST_PYTHON)" .venv-fakesnow
	@$(UV) pip install --quiet --python $(FAKESNOW_PYTHON) --compile-bytecode --require-hashes -r requirements/fakesnow.txt
	@touch $@

.venv-peers/.peers: requirements/peers.txt | $(UV)
	@echo "==> building the peers' environment (.venv-peers): PyTorch, RecTools"
	@test -x $(PEERS_PYTHON) || $(UV) venv --quiet --python "$(HOST_PYTHON)" .venv-peers
	@$(UV) pip install --quiet --python $(PEERS_PYTHON) --compile-bytecode --require-hashes -r requirements/peers.txt
	@touch $@

$(MANIFEST): $(DBT_SOURCES) .venv/.airflow
	@echo "==> parsing the dbt project"
	@$(PYTHON) -m include.local.dbt_manifest

setup: .venv/.airflow .venv-ml/.ml $(MANIFEST) ## Build both environments and the dbt manifest

demo: setup ## The whole pipeline on a laptop, ending with recommendations (DATA=folder for your own data)
	@$(PYTHON) -m include.local.demo $(if $(DATA),--data "$(DATA)")

up: setup ## Keep Airflow (with its web UI) and the local emulator running
	@$(PYTHON) -m include.local.stack up

down: ## Stop exactly what `make up` started
	@test ! -x $(PYTHON) || $(PYTHON) -m include.local.stack down

# In this order, which --no-loadscope-reorder keeps, the longest files are not left to one core at the end.
test: setup .venv/.dev .venv-fakesnow/.fakesnow ## All tests
	@$(ML_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/ml/test_[ct]*.py tests/ml/test_[!ct]*.py tests/gate/behaviour
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/ml --ignore tests/gate/behaviour

bench: setup ## Speed of the data land at 36 million events beside a hand-written script (SHARE=0.1 for less)
	@$(PYTHON) -m bench.data_land $(if $(SHARE),--share $(SHARE)) $(if $(RUNS),--runs $(RUNS))
	@$(PYTHON) -m bench.airflow_overhead

bench-serving: setup ## Latency of the endpoint's model server under load, beside two other ways (about ten minutes)
	@$(PYTHON) -m bench.serving $(if $(BUILD),--build "$(BUILD)")

# Without its environment the harness leaves those rows out, and says so.
bench-model: setup ## Our model beside its peers, DATA=events (docs/evaluation.md has the rest)
	@test -n "$(DATA)" || { echo "make: name the events, DATA=browsing.csv.gz; docs/evaluation.md has the rest." >&2; exit 2; }
	@$(MAKE) --no-print-directory .venv-peers/.peers || echo "make: going on without .venv-peers" >&2
	@$(PYTHON) -m bench.next_item split "$(DATA)" "$(OUT)/snapshot" $(SPLIT)
	@$(PYTHON) -m bench.next_item run "$(OUT)/snapshot" --work "$(OUT)" $(RUN)
bench-model: OUT ?= build/bench-model

screenshots: setup .venv/.dev ## Pictures of the pages for the README (after `make up` and `make demo`; needs Chromium)
	@$(PYTHON) -m tests.end_to_end.screenshots

lint: setup .venv/.dev ## ruff, mypy, cfn-lint and sqlfluff (both dialects)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/cfn-lint include/cloud/aws.yaml
	@cd include/dbt && ../../.venv/bin/sqlfluff lint models tests --dialect duckdb
	@cd include/dbt && ../../.venv/bin/sqlfluff lint models tests --dialect snowflake

format: .venv/.dev ## Format the code
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
lock: | $(UV) ## Resolve every environment anew
	@$(COMPILE) requirements/airflow.in -o requirements/airflow.txt
	@$(COMPILE) -c requirements/airflow.txt requirements/dev.in -o requirements/dev.txt
	@$(COMPILE) --override requirements/ml.overrides requirements/ml.in -o requirements/ml.txt
	@$(COMPILE) requirements/fakesnow.in -o requirements/fakesnow.txt
	@$(COMPILE) requirements/peers.in -o requirements/peers.txt
	@$(ML_PYTHON) -m include.local.image_catalogue

clean: down ## Remove environments and everything built
	@rm -rf .venv .venv-ml .venv-fakesnow .venv-peers .tools build include/dbt/target include/dbt/logs
