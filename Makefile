# make demo and make test are all a newcomer needs; each creates .venv when it is missing.
PYTHON ?= python3.11
TORCH_INDEX_URL ?=
BIN := $(CURDIR)/.venv/bin
# A fixed place for DeepSpeed's compiled collective; ninja and the compiler are found through PATH.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.venv/torch_extensions
export PATH := $(BIN):$(PATH)
export PYTHON TORCH_INDEX_URL

.PHONY: help setup demo test check prove format bench docs clean

help:
	@echo "make demo     run the main job: cooperative SFT and RL of a small model on 2 CPU cores"
	@echo "make test     run the tests"
	@echo "make check    what CI runs: format, lint, types, tests"
	@echo "make prove    whole training runs: bridge x 3 seeds, rl, shuffled rewards (about 18 minutes)"
	@echo "make bench    rollout and weight-sync speed; writes bench/results.json"
	@echo "make docs     renew docs/config.md from the config's docstrings"
	@echo "make format   format the code"
	@echo "make setup    create or renew .venv from the pinned lock"
	@echo "make clean    remove .venv and caches"

setup:
	@.ci/setup

demo: setup
	@coop-rl train configs/local/demo.yaml --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S) $(ARGS)

test: setup
	pytest

check: setup
	ruff format --check coop_rl tests bench
	ruff check coop_rl tests bench
	mypy
	COOP_RL_CI=1 pytest

prove: setup
	pytest -m slow

format: setup
	ruff format coop_rl tests bench
	ruff check --fix coop_rl tests bench

bench: setup
	@python bench/demo_engine.py

docs: setup
	@python -m coop_rl.config.reference docs/config.md

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
