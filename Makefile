# make train         train a network with what this command installs into .venv
# make test          everything that has to pass: lint, types and the test suite
# make test-long     the long forms of tests, which make test leaves out
# make torture       kills, full disks, tampered folders: what they lose (KILLS=200 of each by default)
# make test-gpu      what only a CUDA device can show: the tests that need one, and measurements
#
# PYTHON=python3.13  the interpreter that .venv is made of
# PIP_ARGS="..."     further arguments for pip, such as an index of CPU builds of torch
# KILLS=200          how many kills, and as many inputs of each other kind, in `make torture`
# ARGS="..."         arguments for `fastiseat train` in `make train`, for pytest in the tests

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
# The user's own packages must not shadow those of the venv.
unexport PYTHONPATH PYTHONHOME

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCHATTACKS := $(shell sed -n 's/^torchattacks==//p' constraints.txt)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_FILES := pyproject.toml setup.py cuda_toolkit.py constraints.txt CMakeLists.txt \
  $(wildcard kernels/csrc/*.h kernels/csrc/cpu/* kernels/csrc/cuda/*)

.PHONY: help train test test-long torture test-gpu suite lint types format wheel clean system

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10
	@echo; sed -n 's/^# \([A-Z_]*=.*\)/\1/p' Makefile

train: $(VENV)/.installed ## install into .venv and train (ARGS="--dataset cifar10 --amp")
	$(BIN)/fastiseat train $(ARGS)

test: system lint types suite ## everything that has to pass

test-long: $(VENV)/.tools ## the long forms of tests, which make test leaves out
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadgroup -m long $(ARGS)

KILLS ?= 200
torture: $(VENV)/.tools ## kill, fill, starve and tamper with what reads and writes files (KILLS=200)
	cd tests && "$(abspath $(BIN))/python" -m torture --tries $(KILLS) $(ARGS)

test-gpu: $(VENV)/.tools ## what needs a CUDA device: its tests, then measurements into bench/results
	PYTHON=$(BIN)/python ARGS='$(ARGS)' .ci/gpu

# A worker a core, each with one thread: small tensors gain nothing from threads, and workers would fight over cores.
suite: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not long" $(ARGS)

lint: $(VENV)/.tools ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow an editable install's mapping of folders to packages, so it gets the layout of the wheel.
types: $(VENV)/.tools ## static types
	@rm -rf build/types && mkdir -p build/types/fastiseat
	@for path in fastiseat/* kernels pipelines bench; do ln -s "../../../$$path" build/types/fastiseat/; done
	cd build/types && "$(abspath $(BIN))/mypy" --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p fastiseat

format: $(VENV)/.tools ## rewrite the sources in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.tools ## build dist/*.whl and dist/*.tar.gz
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m build

clean: ## remove what was built, but not .venv's packages
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache kernels/core/*.so
	rm -f $(VENV)/.installed $(VENV)/.tools

# Asking early spares a long download that could not be used.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "there is no $(PYTHON): install Python 3.11 or later, or name one: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is not Python 3.11 or later; name one: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install $$package"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Builds of torch for CUDA demand a Triton and CUDA libraries of their own: a pin of ours would contradict them.
define LEFT_TO_TORCH
import re, sys
from importlib.metadata import requires
own = {re.split("[^a-z0-9-]", need)[0] for need in requires("torch") if "extra ==" not in need} - {"setuptools"}
sys.stdout.writelines(line for line in sys.stdin if line.split("==")[0] not in own)
endef
export LEFT_TO_TORCH

# The pinned torch goes first: left to the package's own demand, pip might fetch a larger build of it. torchattacks
# goes alone: it demands a requests of 2020 and torchvision, neither of which it imports.
$(VENV)/.tools: EXTRA := [dev]
$(VENV)/.tools: | system
$(VENV)/.installed $(VENV)/.tools: $(VENV)/.made $(BUILD_FILES)
	$(PIP) install $(PIP_ARGS) torch==$(TORCH)
	@$(BIN)/python -c "$$LEFT_TO_TORCH" <constraints.txt >$(VENV)/constraints.txt
	$(PIP) install $(PIP_ARGS) -c $(VENV)/constraints.txt -e '.$(EXTRA)'
	$(if $(EXTRA),$(PIP) install $(PIP_ARGS) --no-deps torchattacks==$(TORCHATTACKS))
	@touch $(VENV)/.installed $@

# What pip cannot install, and only when it is missing; FFCV is compiled against OpenCV and libjpeg-turbo.
system:
	@missing=(); \
	command -v "$${CXX:-c++}" >/dev/null || missing+=(g++); \
	[ -e $(VENV)/.made ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	pkg-config --exists opencv4 libturbojpeg 2>/dev/null || missing+=(libopencv-dev libturbojpeg0-dev pkg-config); \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo "the tests need what these packages of Debian hold: $${missing[*]}"; exit 1; fi; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}"; \
	rm -f $(VENV)/.tools  # what was installed without a compiler is built again with it
