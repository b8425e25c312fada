# `make` lists the targets. Each one sets up the environment in .venv first where it needs one, and
# again when pyproject.toml or constraints.txt has changed.

PYTHON  ?= python3
WORKERS ?= 2

BIN   := .venv/bin
READY := .venv/.ready
BENCH := .venv/.ready-bench
ECO   := .venv-ecosystem/.ready

# What `make test-matrix` runs on: a file of versions, and a Python, for each end of the range. pip's
# own variables (PIP_FIND_LINKS, PIP_INDEX_URL) say where it finds a torch for the CPU; without one it
# takes gigabytes for GPUs, and of Triton another version than that of constraints.txt.
LOWEST        ?= constraints-lowest.txt
NEWEST        ?= constraints.txt
LOWEST_PYTHON ?= $(PYTHON)
NEWEST_PYTHON ?= $(PYTHON)
MATRIX        := tests/test_parity.py tests/test_interpreter_and_eager.py tests/test_notes.py \
	tests/c tests/runtime

PIP   := $(BIN)/python -m pip --quiet --disable-pip-version-check
ECO_PIP := .venv-ecosystem/bin/python -m pip --quiet --disable-pip-version-check install \
	--constraint constraints-ecosystem.txt
SAY   := @printf '\n== %s\n'

.DEFAULT_GOAL := help
.PHONY: help setup test test-full test-matrix test-ecosystem test-gpu lint format stubs demo bench bench-gpu dist clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## Make the environment in .venv (PYTHON=python3.12 to choose another Python)

test: lint  ## Check style, types and architecture, then run the tests (WORKERS=2)
	$(SAY) "pytest"
	@$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal -m "not exhaustive"

test-full: lint  ## The same, and the tests that take long
	$(SAY) "pytest, all of it"
	@$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal

test-matrix: .venv-lowest/.ready .venv-newest/.ready  ## Test the lowest and newest versions of all
	$(SAY) "the lowest versions"
	@.venv-lowest/bin/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal \
		-m "not exhaustive" $(MATRIX)
	$(SAY) "the newest versions"
	@.venv-newest/bin/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal \
		-m "not exhaustive" $(MATRIX)

test-ecosystem: $(ECO)  ## Train inside Hugging Face, accelerate, Lightning, torchtitan and timm
	$(SAY) "pytest tests/ecosystem"
	@.venv-ecosystem/bin/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal \
		tests/ecosystem
	$(SAY) "pytest tests/ecosystem/test_timm.py"
	@PYTHONPATH=.venv-ecosystem/timm .venv-ecosystem/bin/python -m pytest -q \
		tests/ecosystem/test_timm.py

# These two take the environment that is there, with a torch that was built for the GPU; .venv has
# one for the CPU. It needs what the group dev of pyproject.toml lists for tests.
test-gpu:  ## Test on a GPU, with PYTHON's own torch (PYTHON=path/to/python)
	$(SAY) "pytest"
	@$(PYTHON) -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else \
		"There is no GPU here that the torch of $(PYTHON) can use.")'
	@$(PYTHON) -m pytest -q tests/triton tests/benchmarks/test_gpu.py
	$(SAY) "compute-sanitizer"
	@if command -v compute-sanitizer >/dev/null; then \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 \
			$(PYTHON) -m pytest -q tests/benchmarks/test_gpu.py -k "checks and not graph"; \
	else echo "It is not installed (it comes with CUDA's toolkit), and nothing was looked at."; fi

lint: $(READY)  ## Check style, types and architecture
	$(SAY) "ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(SAY) "mypy"
	@$(BIN)/mypy optdsl
	$(SAY) "import-linter"
	@$(BIN)/lint-imports --no-logo

format: $(READY)  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

stubs: $(READY)  ## Write what is made from specs and grammar: optdsl/optimizers.pyi, parse tables, docs/library.md
	@$(BIN)/python -m optdsl.stubs

demo: $(READY)  ## List the specs, show one, and train a small model with three of them
	$(SAY) "optdsl list"
	@$(BIN)/optdsl list
	$(SAY) "optdsl show adam"
	@$(BIN)/optdsl show adam
	$(SAY) "optdsl train"
	@$(BIN)/optdsl train --steps 150 --optimizers adam,lion,mada --out demo
	@printf '\nThe picture is demo/training.png\n'

bench: $(BENCH)  ## Measure steps against others, side by side (ARGS=--quick for minutes, --gate for limits)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-gpu:  ## Measure steps on a GPU, with PYTHON's own torch (ARGS=--seconds 200 for less)
	@$(PYTHON) -m benchmarks.gpu $(ARGS)

dist: $(READY)  ## Build the sdist and the wheel into dist/
	@$(BIN)/python -m build --no-isolation

clean:  ## Remove the environment and everything else that the targets above wrote
	@rm -rf .venv .venv-ecosystem .venv-lowest .venv-newest bench build demo dist .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no '$(PYTHON)' here. optdsl needs Python 3.11 or newer: make PYTHON=..." >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "optdsl needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
			"Name a newer one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make a virtual environment: its venv or ensurepip module is missing." \
			"On Debian and Ubuntu, install the package python3-venv." >&2; \
		exit 1; }
	@echo "Setting up .venv; PyTorch is large, so the first time can take minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --constraint constraints.txt --upgrade pip
	@$(PIP) install --constraint constraints.txt --build-constraint constraints.txt \
		--group dev --editable '.[train]'
	@touch $(READY)

$(BENCH): $(READY)
	@$(PIP) install --constraint constraints.txt --group bench
	@touch $(BENCH)

# The versions are those of the files only, not of constraints.txt, so that the lowest are the lowest.
.venv-lowest/.ready: pyproject.toml $(LOWEST)
	@$(LOWEST_PYTHON) -m venv --clear .venv-lowest
	@.venv-lowest/bin/python -m pip --quiet --disable-pip-version-check install \
		--upgrade 'pip>=25.1'
	@.venv-lowest/bin/python -m pip --quiet --disable-pip-version-check install \
		--constraint $(LOWEST) --group test --editable .
	@touch $@

.venv-newest/.ready: pyproject.toml $(NEWEST)
	@$(NEWEST_PYTHON) -m venv --clear .venv-newest
	@.venv-newest/bin/python -m pip --quiet --disable-pip-version-check install \
		--upgrade 'pip>=25.1'
	@.venv-newest/bin/python -m pip --quiet --disable-pip-version-check install \
		--constraint $(NEWEST) --upgrade --group test --editable .
	@touch $@

# timm stands apart, with a torchvision without its dependencies: the other trainers import a
# torchvision that they find, and one made for GPUs does not import beside a torch for the CPU.
$(ECO): $(READY) pyproject.toml constraints-ecosystem.txt
	@echo "Setting up .venv-ecosystem; the trainers and what they depend on take 2 GB"
	@$(BIN)/python -m venv .venv-ecosystem
	@$(ECO_PIP) --upgrade pip
	@$(ECO_PIP) --build-constraint constraints.txt --group ecosystem --editable .
	@$(ECO_PIP) --no-deps --upgrade --target .venv-ecosystem/timm --group timm
	@touch $(ECO)
