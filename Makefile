# make venv | run | test | test-slow | lint | bench     Needs Python >= 3.11 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: venv run test test-slow lint bench
venv: $(READY)

# The stamp depends on pyproject.toml and is written last, so a failed or outdated install is done again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jaxnet needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[experiments]' --group dev
	@touch $@

run: venv
	$(BIN)/python -m experiments

# Most of a test is compiling: XLA's passes run as ever, but LLVM spends little on their results. What a test says of bits
# or rounding is marked as optimized; test-slow compiles as users do. Where JAX knows a flag for it, conftest.py adds it.
test: export JAX_DISABLE_MOST_OPTIMIZATIONS = 1
test: export XLA_FLAGS += --xla_cpu_parallel_codegen_split_count=1
test: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report=term

test-slow: venv
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or optimized"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: venv
	$(BIN)/python -m benchmarks
