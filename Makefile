# For developers, and for a first look. It needs Python 3.11 or later with its venv and headers, and
# a C compiler; everything else it puts into .venv and build/.
#
#   make demo      the tour: a local S3 server, a cache, a training job
#   make test      lint, types, C tests and Python tests; what CI runs
#   make build     after a change to csrc or a .pyx: compiles what changed
#   make bench     the quick benchmark beside other clients and caches, which go into .venv-peers
#   make peers     .venv-peers alone
#   make asan      the unit tests, with csrc and its Cython modules under AddressSanitizer
#   make bench-paths   times every hot path (tests/benchmarks), which `make test` runs once
#   make instructions  counts the instructions of the hot paths in C, against bench/instructions.json
#   make lint types test-c test-py       the parts of `make test`
#   make format    what `make lint` wants to see
#   make clean     removes what was built, but not .venv

PYTHON ?= python3
BIN    := .venv/bin
STEP   := bash .ci/step
PYTEST := $(BIN)/python -m pytest
# Most tests wait: for a store, for an engine to leave. A file's tests stay together, and in their order.
TWO    := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := build
.PHONY: demo test build compile bench peers bench-paths instructions asan lint types test-c test-py format clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

# ---- .venv: made once, and again when what it is made from has changed --------------------------

$(BIN)/python:
	@bash .ci/preflight $(PYTHON)
	@$(STEP) 'make .venv' $(PYTHON) -m venv .venv

# $(1): an extra of pyproject.toml. setuptools and Cython first, and no build isolation after that,
# so that constraints.txt holds for them too. pip compiles on one core; some packages carry templates that
# are no Python, which compileall reports.
define install
@$(STEP) 'install the build tools' $(BIN)/pip install -c constraints.txt setuptools cython
@$(STEP) 'install ioaccel[$(1)]' $(BIN)/pip install --no-compile -c constraints.txt --no-build-isolation -e '.[$(1)]'
@$(STEP) 'compile what was installed' sh -c '$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || :'
@touch $@
endef

.venv/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,demo)

# The peers of the benchmark have an environment of their own: what they need does not meet what we need.
.venv-peers/stamp: bench/peers.txt $(shell find bench/stubs -name '*.py' -o -name '*.toml')
	@bash .ci/preflight $(PYTHON)
	@$(STEP) 'make .venv-peers' $(PYTHON) -m venv .venv-peers
	@$(STEP) 'install the peers' .venv-peers/bin/pip install -r bench/peers.txt
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev)
	@touch .venv/demo.stamp # [dev] has all that [demo] has

# ---- targets ------------------------------------------------------------------------------------

build: .venv/dev.stamp compile

compile:
	@$(STEP) 'compile' $(BIN)/python setup.py build_ext --inplace

demo: .venv/demo.stamp compile
	@$(BIN)/ioaccel demo

test: lint types test-c test-py

lint: .venv/dev.stamp
	@$(STEP) 'lint: ruff' $(BIN)/ruff check
	@$(STEP) 'lint: ruff format' $(BIN)/ruff format --check
	@$(STEP) 'lint: cython-lint' env PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint ioaccel # calls pycodestyle

types: .venv/dev.stamp compile
	@$(STEP) 'types: mypy' $(BIN)/mypy
	@$(STEP) 'types: stubs of the core' $(BIN)/python -m mypy.stubtest ioaccel._core --mypy-config-file pyproject.toml

test-c:
	@$(STEP) 'test: C, also with sanitizers' $(MAKE) -C tests/c -j$(shell nproc) -O

test-py: .venv/dev.stamp compile
	@$(PYTEST) $(TWO)

bench-paths: .venv/dev.stamp compile
	@$(PYTEST) --benchmark-enable --benchmark-only --benchmark-sort=name -rN tests/benchmarks

# Not a part of `make test`: it needs valgrind.
instructions: .venv/dev.stamp
	@$(BIN)/python -m bench instructions

peers: .venv-peers/stamp

bench: .venv/dev.stamp peers compile
	@$(BIN)/python -m bench run --quick
	@$(BIN)/python -m bench report bench/results/quick.json

# The interpreter is not built with ASan, so its runtime is loaded first. Python's own allocator would
# hide overflows inside its pools, what the interpreter leaks at exit is not ours, and pytest would
# keep the report of a process that ASan ends.
asan: .venv/dev.stamp
	@$(STEP) 'compile with ASan and UBSan' env IOACCEL_BUILD=asan $(BIN)/python setup.py build --build-lib build/asan/lib
	@LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc \
	    PYTHONPATH=build/asan/lib $(BIN)/pytest --capture=sys tests/unit

format: .venv/dev.stamp
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:
	rm -rf build *.egg-info ioaccel/_core/*.so .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
