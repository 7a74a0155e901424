# Every command finds its interpreter, makes its environment under .venv/ and reuses both.
# PYTHON=/path/to/python picks another interpreter; PYTEST_ARGS="-x -k name" goes to pytest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
export PYTEST_ARGS

# The interpreter and its environment, as words of a shell command.
python = $$(tools/find-python)
venv = .venv/$$("$(python)" -c 'import sys; print(sys.implementation.cache_tag + sys.abiflags)')
ready = python="$(python)"; venv="$(venv)"; tools/make-venv "$$python" "$$venv"

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## serve the Unicode character database with and without permaheap, and compare
	@$(ready) demo -Dwerror=true
	"$$venv/bin/python" examples/unicode_server/demo.py $(ARGS)

.PHONY: samples
samples: ## measure the sample applications in every mode; writes docs/copy-on-write.md
	@$(ready) samples -Dwerror=true
	"$$venv/bin/python" -m examples --docs $(ARGS)

.PHONY: check
check: ## build with -Werror, lint, and test in both modes of the heap
	@$(ready) test,demo,samples,servers,dev -Dwerror=true
	tools/lint "$$venv"
	TEST_JOBS=$$(nproc) tools/test-build "$$python" "$$venv"

.PHONY: lint
lint: ## ruff, mypy --strict, and the stubs against the compiled module
	@$(ready) test,demo,dev -Dwerror=true
	tools/lint "$$venv"

.PHONY: format
format: ## mend what ruff can mend
	@$(ready) test,demo,dev -Dwerror=true
	"$$venv/bin/ruff" check --fix .
	"$$venv/bin/ruff" format .

.PHONY: bench
bench: ## measure against what one would use instead; writes docs/benchmarks.md
	@$(ready) bench -Dwerror=true
	"$$venv/bin/python" -m benchmarks $(ARGS)

.PHONY: matrix
matrix: ## test on every supported CPython, debug builds too (root; ONLY="3.15-dbg local-3.12")
	@tools/matrix $(ONLY)

.PHONY: asan
asan: ## test under the address and undefined-behaviour sanitizers
	@tools/matrix $(or $(ONLY),local-3.13-asan 3.15-asan)

.PHONY: regrtest
regrtest: ## run CPython's own tests with everything immortal (ONLY="3.15-dbg local-3.12")
	@tools/regrtest $(ONLY)

.PHONY: clean
clean: ## remove the environments, the chroots of the matrix, and what tools left behind
	@rm -rf --one-file-system .venv .matrix .hypothesis .mypy_cache .ruff_cache .pytest_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
