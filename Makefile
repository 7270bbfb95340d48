# make up | down | test | check | bench. Needs root, python3 >= 3.11 with venv, make; installs the rest and says what.
.PHONY: setup setup-dev up down test check bench
PY := .venv/bin/python
STORE ?= sqlite
ETCD ?= http://127.0.0.1:2379

setup:
	@python3 -B cluster/setup.py run

setup-dev:
	@python3 -B cluster/setup.py dev

up: setup
	@.venv/bin/minik up --hello --store $(STORE) $(if $(filter etcd,$(STORE)),--etcd-endpoints $(ETCD))

down:
	@if [ -x .venv/bin/minik ]; then .venv/bin/minik down; else echo "nothing to stop: .venv is not there"; fi

test: setup-dev
	$(PY) -m pytest tests

check: setup-dev
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup-dev
	$(PY) -m bench
