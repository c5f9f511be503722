# Everything runs in .venv, which `setup` makes and keeps up to date.
.DEFAULT_GOAL := help
.PHONY: help setup test test-fast demo lint types lock clean
# Meta-World is rendered without a display.
ifeq ($(shell uname),Linux)
export MUJOCO_GL ?= egl
endif
export TOKENIZERS_PARALLELISM ?= false
# Two processes, of one thread each; one that is done takes half of the other's remaining tests.
JOBS ?= 2
PYTEST = .venv/bin/python -m pytest --numprocesses=$(JOBS) --dist=worksteal

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## make .venv, or bring it up to date
	@scripts/setup.sh

test: setup  ## run all tests (TESTS=path to run some, JOBS=n for n processes)
	$(PYTEST) $(TESTS)

test-fast: setup  ## run the unit tests only: no training, no rendering, no other programs
	$(PYTEST) -m "not (e2e or rendering or slow)" $(TESTS)

demo: setup  ## collect, train, evaluate and report on CPU: outputs/demo/report.html (DEMO=--overwrite to start over)
	HF_HUB_OFFLINE=1 .venv/bin/lara demo $(DEMO)

lint: setup  ## check style and formatting
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup  ## check types
	.venv/bin/mypy

lock:  ## resolve pyproject.toml into requirements.lock, with the newest versions (needs uv)
	uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.12 \
	  --all-extras \
	  --no-emit-index-url --no-header --no-annotate -o requirements.lock

clean:  ## remove .venv and caches (outputs/ stays)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './outputs/*' -prune -exec rm -rf {} +
