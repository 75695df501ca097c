# Needs python3 >= 3.11, git and make; everything else goes into .venv.
PYTHON ?= python3
PROFILE ?= scenes
JOBS ?= 0
BIN := .venv/bin
PIPELINE := $(if $(filter scenes,$(PROFILE)),dvc.yaml,profiles/$(PROFILE)/dvc.yaml)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup reproduce test lint format doctor lab
.DEFAULT_GOAL := reproduce

setup: .venv/.installed   ## Create .venv with the locked requirements.

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "wsssbench needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

reproduce: setup          ## Run a profile's pipeline: make reproduce PROFILE=msrc17 JOBS=1
	python -m wsssbench.reproduce $(PIPELINE) --jobs $(JOBS)
	@echo "Open reports/$(PROFILE)/index.html"

test: setup               ## Run all tests.
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile

lint: setup               ## Check style and that committed notebooks carry no outputs.
	ruff check .
	ruff format --check .
	nbstripout --verify notebooks/*.ipynb

format: setup             ## Mend what lint finds, as far as a program can.
	ruff check --fix .
	ruff format .
	nbstripout notebooks/*.ipynb

doctor: setup             ## Say what is installed and found, and what to do about the rest.
	python -m wsssbench doctor

lab: setup                ## Open the notebooks.
	jupyter lab notebooks
