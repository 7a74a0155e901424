# Every command finds its interpreter, makes its environment under .venv/ and reuses both.
# PYTHON=/path/to/python picks another interpreter; PYTEST_ARGS="-x -k name" goes to pytest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
export PYTEST_ARGS

# The interpreter and its environment, as words of a shell command.
python = $$(tools/find-python)
venv = $$(tools/build-dir "$(python)")
ready = python="$(python)"; venv="$(venv)"; tools/make-venv "$$python" "$$venv"

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

# The files of each subject that are fast for what they cover: forty seconds of processor time in all.
QUICK := test_callbacks test_channels test_errors test_faults test_freeze test_handles test_helpers \
    test_messages test_plan test_reading test_source_rules test_stats test_supported test_thaw

.PHONY: quick
quick: ## test in half a minute what most changes touch; run it before each commit
	@$(ready) test,demo,dev -Dwerror=true
	TEST_FILES="$(QUICK)" TEST_JOBS=$$(nproc) HYPOTHESIS_PROFILE=quick \
	    "$$venv/bin/python" tools/run-tests -m "not slow" $(PYTEST_ARGS)

.PHONY: test
test: ## test one subject: T=freeze, a folder of tests/, or T=test_errors, a file
	@$(ready) test,demo,dev -Dwerror=true
	TEST_FILES="$(T)" TEST_JOBS=$$(nproc) "$$venv/bin/python" tools/run-tests $(PYTEST_ARGS)

.PHONY: alone
alone: ## run the tests that change settings of the machine (root; run nothing else at the same time)
	@$(ready) test,demo,dev -Dwerror=true
	"$$venv/bin/python" -m pytest --alone $(PYTEST_ARGS)

.PHONY: lint
lint: ## run ruff, mypy --strict, and stubtest against the compiled module
	@$(ready) test,demo,dev -Dwerror=true
	tools/lint "$$venv"

.PHONY: format
format: ## fix what ruff can fix
	@$(ready) test,demo,dev -Dwerror=true
	"$$venv/bin/ruff" check --fix .
	"$$venv/bin/ruff" format .

.PHONY: bench
bench: ## measure against the alternatives; writes docs/benchmarks.md
	@$(ready) bench -Dwerror=true
	"$$venv/bin/python" -m benchmarks $(ARGS)

.PHONY: matrix
matrix: ## test on every supported CPython, debug builds too (root; ONLY="3.15-dbg local-3.12")
	@tools/matrix $(ONLY)

.PHONY: matrix-full
matrix-full: ## the same, every build in both modes of the heap
	@tools/matrix --full

.PHONY: asan
asan: ## test under the address and undefined-behaviour sanitizers
	@tools/matrix $(or $(ONLY),local-3.13-asan 3.15-asan)

.PHONY: regrtest
regrtest: ## run CPython's own tests with everything immortal (ONLY="3.15-dbg local-3.12")
	@tools/regrtest $(ONLY)

.PHONY: clean
clean: ## remove the environments, the chroots of the matrix, and the caches of tools
	@rm -rf --one-file-system .venv .matrix .hypothesis .mypy_cache .ruff_cache .pytest_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
