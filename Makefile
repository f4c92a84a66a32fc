# Every target sets up what it needs; nothing is installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that tests start load compiled files, also where the environment asks for none to be kept.
# Three workers for two cores, as many tests wait for processes that they start.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup tools nodes browser demo test test-all lint bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## make the virtual environment: what runs and the demo need
	@$(MAKE) -s --no-print-directory $(VENV)/.mnist \
		|| echo "Set-up is done, but for the images of the demo: 'make demo' tries again to fetch them."

# Every file that pip installs is known by its hash, but for PyTorch and its CUDA libraries, whose builds
# differ between indexes: torch has its version alone. No package is built with tools fetched on the way.
$(VENV)/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fedmeta needs Python 3.11 or later; set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Installing fedmeta, PyTorch and 111 other packages into $(VENV): 1.5 GB, or several GB more if PyTorch comes with CUDA."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements.lock
	$(PIP) torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m fedmeta.learning.native.build
	@touch $@

tools: $(VENV)/.tools ## add what tests and developers need: Ray, MLflow, TensorBoard, pytest, mypy, ruff

$(VENV)/.tools: requirements-dev.lock $(VENV)/.ready
	@echo "Installing 93 more packages for the tests into $(VENV): 1.0 GB."
	$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements-dev.lock
	@touch $@

nodes: contracts/node_modules/.ready ## install Anvil, Ganache and the Solidity compiler under contracts/

# A machine without Node.js gets it from PyPI, into the virtual environment.
contracts/node_modules/.ready: contracts/package.json contracts/package-lock.json $(VENV)/.ready
	@command -v npm >/dev/null || sh contracts/node.sh $(BIN)/python
	PATH="$$PATH:$(abspath $(BIN))" npm ci --prefix contracts --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

browser: ## see to a Chromium for the tests of pages
	@sh tests/browser.sh

# They lie in the cache folder then, unless FEDMETA_DATA has them.
$(VENV)/.mnist: $(VENV)/.ready
	@echo "Fetching 5,000 MNIST images for the demo: 1.4 MB."
	@$(BIN)/fedmeta data fetch mnist
	@touch $@

demo: $(VENV)/.mnist ## run federated meta-learning on real data; the clients are paid on a chain in the process
	$(BIN)/fedmeta run mnist -s chain.provider=embedded

test: setup tools nodes browser ## the tests, but for the slow ones
	$(PYTEST)

test-all: setup tools nodes browser ## all tests, the slow ones too
	$(PYTEST) -m ''

lint: tools ## style, types and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## speed of every case, each against its rival in one process
	$(BIN)/fedmeta bench all

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) contracts/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
