# Everything runs in a local environment, .venv, that is made when it is first needed.

PYTHON    ?= python3
VENV      ?= .venv
PIP_FLAGS ?=
BENCH_ARGS ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# make bench: the evaluation sets where they are present, or the folders in DATA
ifeq ($(origin DATA), undefined)
DATA  := $(wildcard ../shared/data/eval/kodak ../shared/data/eval/clic)
CIFAR := $(wildcard ../shared/data/cifar10/test_*.png)
endif

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench bench-data clean

help:  ## Show this text
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables:"
	@echo "  PYTHON=python3.12        the Python (3.10 or newer) that .venv is made with"
	@echo "  PIP_FLAGS=...            more options for pip install"
	@echo "  DATA='FOLDER FOLDER'     folders of images for bench"
	@echo "  BENCH_ARGS='--limit 4'   more options for bench; python -m bench.bench --help lists them"

venv: $(STAMP)  ## Make .venv with ardmzip and all it needs (the other targets do so by themselves)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "ardmzip needs Python 3.10 or newer; choose one with make PYTHON=python3.x" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev,bench,train]'
	@touch $@

demo: $(STAMP)  ## Compress and restore a sample photograph, and print the sizes beside other codecs
	$(BIN)/python -m demo.demo

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest tests -n auto --dist loadfile

lint: $(STAMP)  ## Check the code with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: bench-data $(STAMP)  ## Measure sizes and seconds against PNG, WebP, JPEG-LS and JPEG XL (see bench/README.md)
	$(BIN)/python -m bench.bench $(DATA) $(addprefix --cifar ,$(CIFAR)) --steps-curve $(BENCH_ARGS)

bench-data:
	@[ -n "$(strip $(DATA)$(CIFAR))" ] || \
	    { echo "there are no images to measure on; name a folder: make bench DATA='FOLDER'" >&2; exit 2; }

clean:  ## Remove .venv, caches and the demo's files
	rm -rf $(VENV) demo/out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
