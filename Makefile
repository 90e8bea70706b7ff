# Every target sets up what it needs, from nothing.
.DEFAULT_GOAL := help
.PHONY: help venv compiled demo test quick check format proto docs bench sim soak clean

PY := .venv/bin/python
STAMP := .venv/.installed
DEMO := .venv/.demo
COMPILED := build/compiled/.made
OLDEST := build/sqlalchemy-oldest/.made
SOURCES := $(shell find proto txcoord sdk rm_agent -name '*.py' 2>/dev/null)
DEMO_DB := $(or $(DB),$(if $(filter xa mixed,$(MODE)),postgres,sqlite))
SERVERS ?=
# Tests mostly wait: for a process to start, a lease to end. Each worker has servers of its own.
WORKERS ?= 2
export TXCOORD_SERVERS := $(SERVERS)

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

venv: $(STAMP) ## the virtual environment in .venv

$(STAMP): EXTRA := dev
$(DEMO): EXTRA := demo
$(STAMP) $(DEMO): pyproject.toml tools/make_venv.py
	@python3 tools/make_venv.py .venv $(EXTRA)
	@touch $@

compiled: $(COMPILED) ## the wheel as users get it, compiled, in build/compiled

$(COMPILED): $(STAMP) $(SOURCES) tools/hatch_build.py tools/make_compiled.py
	@$(PY) tools/make_compiled.py build/compiled
	@touch $@

# XA needs a database that prepares transactions; on SQLite little is enough, unless everything is there
demo: $(if $(DEMO_DB:sqlite=)$(wildcard $(STAMP)),$(STAMP),$(DEMO)) ## the shop: MODE=at|xa|tcc|mixed DB=sqlite|postgres|mariadb
	@$(PY) -m examples.shop --db $(DEMO_DB) --mode $(or $(MODE),at)

$(OLDEST): $(STAMP) tools/make_oldest.py
	@$(PY) tools/make_oldest.py build/sqlalchemy-oldest
	@touch $@

test: $(STAMP) $(COMPILED) $(OLDEST) ## every test; SERVERS=none: what SQLite can; WORKERS=0: in one process
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile

quick: $(STAMP) ## the inner loop: unit tests and SQLite only
	@TXCOORD_SERVERS=none $(PY) -m pytest -q tests/unit tests/contract

check: $(STAMP) ## format, lint, types, imports, generated code
	@$(PY) tools/check.py

format: $(STAMP) ## put the code into its form
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix-only -q .

proto: $(STAMP) ## generate the wire's Python code
	@$(PY) tools/generate_proto.py

docs: $(STAMP) ## render the reference pages
	@$(PY) tools/render_docs.py

bench: $(STAMP) $(COMPILED) ## the benchmarks: ONLY=coordinator, STRICT=1
	@PYTHONPATH=build/compiled $(PY) -m tests.benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(STRICT),--strict)

sim: $(STAMP) ## the simulation: SEEDS=5000
	@$(PY) -m tests.simulation --seeds $(or $(SEEDS),5000) $(if $(SEED),--seed $(SEED))

soak: $(STAMP) ## the bank whose processes die at random: TRANSFERS=5000
	@TXCOORD_TRANSFERS=$(or $(TRANSFERS),5000) $(PY) -m pytest -q -s tests/chaos/test_bank.py -k no_money

clean: ## remove what was made
	rm -rf .venv build dist .mypy_cache .ruff_cache .import_linter_cache
