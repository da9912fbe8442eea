# edgesmith. `make help` says what there is; every target does its own set-up.
TARGET ?= cpu
RECIPE ?= recipes/fashion_resnet20.yaml
DEVICE ?=
OUT    ?= artifacts
SET    ?=
BASELINE ?= main

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Where torch comes from. Its plain name brings gigabytes of CUDA packages on most machines, so without a GPU
# the index of CPU builds is taken where it can be reached; set TORCH_INDEX= (empty) for the plain name.
CPU_INDEX   := https://download.pytorch.org/whl/cpu
REACHABLE   = from urllib.request import urlopen; urlopen("$(CPU_INDEX)/torch/", timeout=5); print("$(CPU_INDEX)")
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null || $(PYTHON) -c '$(REACHABLE)' 2>/dev/null)
TORCH       := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)

# TensorRT: the full one where there is a GPU, ahead-of-time engines for RTX GPUs where there is none.
EXTRA_gpu := $(shell command -v nvidia-smi >/dev/null && echo tensorrt || echo rtx)
EXTRA     := $(EXTRA_$(TARGET))

.DEFAULT_GOAL := help
.PHONY: help install deploy check plan test sshd nightly armboard lint type bench checkpoint docker clean
.DELETE_ON_ERROR:

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  variables    TARGET=cpu|mobile|gpu|jetson RECIPE=… DEVICE=local|none|ssh://user@host|NAME OUT=… SET='key=value …'"
	@echo "               BASELINE=… TORCH_INDEX=…"

install: $(VENV)/.ready ## the virtual environment, pinned versions, the package editable

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.ready-%: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@

READY = $(VENV)/.ready $(if $(EXTRA),$(VENV)/.ready-$(EXTRA))
quoted = '$(subst ','\'',$(1))'
FLAGS = --target $(call quoted,$(TARGET)) $(if $(DEVICE),--device $(call quoted,$(DEVICE))) \
	$(foreach s,$(SET),--set $(call quoted,$(s)))

deploy: $(READY) ## run a recipe for a target: OUT/<recipe>/<target>/
	@$(BIN)/edgesmith deploy $(call quoted,$(RECIPE)) $(FLAGS) --out $(call quoted,$(OUT))

check: $(READY) ## judge what deploy wrote against BASELINE (edgesmith baseline save): docs/ci.md
	@$(BIN)/edgesmith check $(call quoted,$(OUT)/$(basename $(notdir $(RECIPE)))/$(TARGET)) \
	  --baseline $(call quoted,$(BASELINE)) $(if $(DEVICE),--device $(call quoted,$(DEVICE)))

plan: $(READY) ## what deploy would run, and why
	@$(BIN)/edgesmith plan $(call quoted,$(RECIPE)) $(FLAGS)

test: $(VENV)/.ready sshd ## the tests
	$(BIN)/pytest

sshd: ## Debian's openssh-server, which tests of devices over ssh start on a port of their own; needs root
	@tests/install-sshd

nightly: $(VENV)/.ready ## 2000 random networks, pruned, proved, trained and exported (an hour or two)
	$(BIN)/pytest --hypothesis-profile=nightly tests/test_pipeline_pruning_random_nets.py

armboard: $(VENV)/.ready ## every mobile artifact of the store on an emulated ARM64 board (root; docs/arm-board.md)
	PYTHONPATH=. $(BIN)/python benchmarks/arm_board.py --recipe '$(RECIPE)'

lint: $(VENV)/.ready ## style, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(VENV)/.ready ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.ready ## the worked example on every target that runs here, from an empty store
	$(BIN)/python benchmarks/deploy.py --json benchmarks/results/deploy.json

checkpoint: $(VENV)/.ready ## train the built-in checkpoint anew (about half an hour on 2 cores with AMX)
	$(BIN)/edgesmith finetune recipes/train_fashion_resnet20.yaml --out $(OUT)/fashion_resnet20

docker: ## the image that runs `make deploy`
	docker build --tag edgesmith .

clean: ## everything that was made here
	rm -rf $(VENV) .edgesmith $(OUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
