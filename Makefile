# Every target sets up what it needs. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# These may be set: `make test PYTHON=python3.13 VENV=.venv-3.13`.
# Without PYTHON the first suitable one on the PATH is taken.
PYTHON ?=
VENV ?= .venv
# Processes that test: as many as small machines have cores, since each imports and compiles. A file's tests stay
# together, because they share compiled functions; the files in the order of tests/conftest.py.
TEST_JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin
READY := $(VENV)/.ready

SOURCES := clipbert_jax data_pipelines experiments benchmarks tests
BENCH_OPTIONS ?=

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Create .venv with the pinned packages (every target does this itself)

$(READY): setup.cfg pyproject.toml constraints.txt
	@tools/make-venv "$(VENV)" $(PYTHON)
	@touch $@

.PHONY: demo
demo: $(READY) ## Train on generated videos, evaluate, write runs/demo/report.html (about 6 minutes)
	@$(BIN)/python -m experiments.demo.run

.PHONY: picture
picture: $(READY) ## Take the README's picture of a search with the demo's model
	@$(BIN)/python -m experiments.demo.picture

ARGS ?=

.PHONY: findings
findings: $(READY) ## Test the paper's claims by experiment (about 40 minutes): make findings ARGS=--quick
	@$(BIN)/python -m experiments.findings.run $(ARGS)

.PHONY: pointing
pointing: $(READY) ## Check whether attention of the demo's model falls on what a word names
	@$(BIN)/python -m experiments.pointing.run runs/demo $(ARGS)

.PHONY: test
test: $(READY) ## Run the tests, but not the slow ones
	@echo "==> Tests (without the slow ones): some 3,000, 6 to 12 minutes on 2 cores; more is said every 2 minutes"
	@$(PYTEST) -m "not slow"

.PHONY: test-all
test-all: $(READY) ## Run all tests
	@echo "==> All tests"
	@$(PYTEST)

FUZZ_OPTIONS ?=

.PHONY: fuzz
fuzz: $(READY) ## Decode 10,000 broken files: make fuzz FUZZ_OPTIONS="--number 500 --seed 1"
	@$(BIN)/python -m tests.fuzz.campaign $(FUZZ_OPTIONS)

# Apache Beam needs older libraries than constraints.txt has: an environment of its own.
.PHONY: test-beam
test-beam: ## Test building a corpus on Apache Beam's local runner, in .venv-beam
	@test -e .venv-beam/.ready || { $(or $(PYTHON),python3) -m venv .venv-beam && \
	    .venv-beam/bin/pip install --quiet -e '.[beam,lmdb]' pytest beartype && touch .venv-beam/.ready; }
	@.venv-beam/bin/python -m pytest -q tests/data_pipelines/corpus/test_beam.py

.PHONY: lint
lint: $(READY) ## Check style and formatting (ruff)
	@echo "==> Lint"
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)

.PHONY: typecheck
typecheck: $(READY) ## Check the types (pyright)
	@echo "==> Types"
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

.PHONY: format
format: $(READY) ## Format the sources
	@$(BIN)/ruff check --fix --quiet $(SOURCES) || true
	@$(BIN)/ruff format $(SOURCES)

.PHONY: check
check: lint typecheck test ## Run everything that CI checks

# The interpreter that has PyTorch, for the peer: `make peer` makes one.
PEER_PYTHON ?= $(if $(wildcard .venv-peer/bin/python),.venv-peer/bin/python,$(BIN)/python)

.PHONY: bench
bench: $(READY) ## Time the model on this CPU, against PyTorch if present: make bench BENCH_OPTIONS="--set demo"
	@$(BIN)/python -m benchmarks.bench --rounds 2 --peer-python $(PEER_PYTHON) $(BENCH_OPTIONS)

.PHONY: peer
peer: ## Create .venv-peer with PyTorch, for the ratios of `make bench` (plain torch brings CUDA: 5 GB)
	@$(or $(PYTHON),python3) -m venv .venv-peer
	@.venv-peer/bin/pip install --quiet -c constraints.txt "$(TORCH)" jax flax optax jaxtyping orbax-checkpoint

TORCH ?= torch

# The interpreter that has JAX for the GPU is the one to measure; a .venv for CPUs would be of no use here.
.PHONY: bench-gpu
bench-gpu: ## Time the paper's tasks on a GPU, with the installed JAX and PyTorch
	@python=$(or $(PYTHON),python3); \
	"$$python" -c "import jax, flax, optax, orbax.checkpoint, jaxtyping" 2>/dev/null || { \
	    echo "$$python lacks JAX or what the model needs: activate an environment of your own, then" \
	        "pip install -c constraints.txt -e '.[cuda]', and try again" >&2; exit 2; }; \
	"$$python" -m benchmarks.bench --set accelerator $(BENCH_OPTIONS)

.PHONY: bench-host
bench-host: $(READY) ## Time the host: dispatch, first steps, decoding beside training
	@$(BIN)/python -m benchmarks.bench_host $(BENCH_OPTIONS)

.PHONY: compile-check
compile-check: $(READY) ## Compile for absent H100s and TPU pods (an hour): ARGS="--only h100"
	@$(BIN)/python -m benchmarks.compile_check $(ARGS)

.PHONY: soak
soak: $(READY) ## Kill, stop and resume small trainings for most of an hour
	@$(BIN)/python -m tests.soak.kills $(ARGS)
	@$(BIN)/python -m tests.soak.kills_together
	@$(BIN)/python -m tests.soak.stops
	@$(BIN)/python -m tests.soak.long_run

.PHONY: bench-data
bench-data: $(READY) ## Time the reading of clips against other ways
	@$(BIN)/python -m benchmarks.bench_data $(BENCH_OPTIONS)

.PHONY: bench-search
bench-search: $(READY) ## Time indexing and searching 200 videos
	@$(BIN)/python -m benchmarks.bench_search $(BENCH_OPTIONS)

.PHONY: lock
lock: ## Update constraints.txt for all supported Pythons
	@tools/lock $(PYTHON)

.PHONY: clean
clean: ## Remove the environment, caches and the demo's data and results
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist *.egg-info data/demo runs/demo
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
