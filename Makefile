# Every target sets up what it needs: the first one run creates $(VENV) and installs
# the versions of $(CONSTRAINTS) into it; later ones reuse it.
#
#     make test PYTHON=python3.12 VENV=.venv312
#     make test PYTEST_ARGS="-x -k graph"

PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS      ?= demo,quantize,test
# The files in their order: the longest are among the first.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
DEMO_ARGS   ?=

export KERAS_BACKEND        ?= tensorflow
export TF_CPP_MIN_LOG_LEVEL ?= 2

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
BEGUN := $(VENV)/.begun
DOCS  := $(VENV)/.installed-docs

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-backends test-oldest test-all lint docs bench bench-peers bench-tfmot clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

demo: $(STAMP) ## prune a small model, export it, check and time it
	@$(BIN)/keras-greedy demo $(DEMO_ARGS)

test: $(STAMP) ## run the fast tests
	@$(BIN)/python -m pytest tests -m "not slow" $(PYTEST_ARGS)

test-backends: $(STAMP) .venv-jax/.backend .venv-torch/.backend ## run the tests of JAX and torch
	@JAX_PYTHON=.venv-jax/bin/python TORCH_PYTHON=.venv-torch/bin/python \
		$(BIN)/python -m pytest $(PYTEST_ARGS) \
		tests/test_backends.py tests/test_devices.py tests/test_processes.py

# Without oneDNN: that of TensorFlow 2.20 writes where it must not, on some processors.
test-oldest: ## run the fast tests with the oldest versions admitted
	@TF_ENABLE_ONEDNN_OPTS=0 $(MAKE) test VENV=.venv-oldest \
		CONSTRAINTS=constraints-oldest.txt EXTRAS=demo,test

test-all: $(STAMP) ## run all tests, the slow ones too
	@$(BIN)/python -m pytest tests $(PYTEST_ARGS)

lint: $(STAMP) ## check style with ruff and types with mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(DOCS) ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html"

bench: $(STAMP) ## run the benchmarks of benchmarks/RESULTS.md, four hours
	$(BIN)/python benchmarks/imagenet_mobilenet_v2.py
	$(BIN)/python benchmarks/few_images.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/tflite.py
	$(BIN)/python benchmarks/tflite_quantizer.py
	$(BIN)/python benchmarks/tflite_slower.py
	$(BIN)/python benchmarks/precision.py --train 2 1.5
	$(BIN)/python benchmarks/precision.py resnet56
	$(BIN)/python benchmarks/while_training.py
	$(BIN)/python benchmarks/allocation.py mobilenet_v2
	$(BIN)/python benchmarks/allocation.py resnet56
	$(BIN)/python benchmarks/exchanges.py
	$(BIN)/python benchmarks/expanded.py
	$(BIN)/python benchmarks/loss_search.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/retraining.py digits
	$(BIN)/python benchmarks/retraining.py cifar10
	$(BIN)/python benchmarks/cifar10_resnet56.py
	$(BIN)/python benchmarks/theory.py
	$(BIN)/python benchmarks/lottery.py
	$(BIN)/python benchmarks/applications.py
	$(BIN)/python benchmarks/scaling.py

# TF-MOT asks for an older absl-py: an environment of its own.
bench-tfmot: ## prune here and go on with TF-MOT, ten minutes
	@$(MAKE) .venv-tfmot/.installed VENV=.venv-tfmot \
		CONSTRAINTS=constraints-tfmot.txt EXTRAS=demo,tfmot,test
	.venv-tfmot/bin/python benchmarks/tfmot.py

# Torch-Pruning needs PyTorch, and nothing of ours: an environment of its own.
bench-peers: $(STAMP) .venv-peers/.peers ## prune here and by Torch-Pruning, an hour
	$(BIN)/python benchmarks/peers.py

.venv-peers/.peers: benchmarks/peers.txt
	@echo "Installing Torch-Pruning into .venv-peers (once; 1 GB on disk or more)"
	@rm -rf .venv-peers
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
		--progress-bar off -r benchmarks/peers.txt
	@touch $@

clean: ## remove the environments, caches, builds and the demo's output
	rm -rf .venv .venv-jax .venv-oldest .venv-peers .venv-tfmot .venv-torch
	rm -rf build dist site *.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf demo_output colab/*_output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installs extras in the versions of $(CONSTRAINTS), with a line per package.
define install
	@set -o pipefail; \
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		-c $(CONSTRAINTS) -e '.[$(1)]' | sed -un \
		-e 's/^Collecting \([^ ]*\).*/  \1/p' \
		-e 's/^Installing collected.*/  ... installing/p'
endef

# $(BEGUN) stands from the creation of the environment to the end of its first
# installation: an environment that was left half-made is made anew. One that was
# there before is only installed into.
$(STAMP): setup.py pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
		echo "keras_greedy needs Python 3.10 to 3.13, which TensorFlow supports, and"; \
		echo "$(PYTHON) is: $$($(PYTHON) --version 2>&1). Name another, for example:"; \
		echo "    make test PYTHON=python3.12"; \
		exit 1; \
	} >&2
	@if [ -e $(BEGUN) ]; then rm -rf $(VENV); fi
	@if [ ! -e $(VENV) ]; then \
		echo "Creating $(VENV) with $$($(PYTHON) --version)"; \
		mkdir -p $(VENV) && touch $(BEGUN) && $(PYTHON) -m venv $(VENV); \
	fi
	@echo "Installing the dependencies (once; 2.5 GB on disk, takes some minutes)"
	$(call install,$(EXTRAS))
	@rm -f $(BEGUN)
	@touch $(STAMP)

# The environment of a backend has no TensorFlow: what needs it by mistake fails there.
.venv-%/.backend: pyproject.toml constraints-backends.txt
	@echo "Installing $* into .venv-$* (once; 1 GB on disk or more)"
	@rm -rf .venv-$*
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check \
		--progress-bar off -c constraints-backends.txt -e '.[$*]' pytest
	@touch $@

$(DOCS): $(STAMP)
	@echo "Installing the packages that build the documentation (once)"
	$(call install,docs)
	@touch $(DOCS)
