# `make demo` and `make test` need nothing but Python 3.11 to 3.13: they build .venv first, and only when something changed.

export OMP_NUM_THREADS ?= 1
BIN := .venv/bin

.PHONY: help demo test lint acceptance bench docs lock clean

help:
	@echo "make demo        run the plan quick on the scenario digits, into runs/demo"
	@echo "make test        lint, types, import rules and the fast tests"
	@echo "make lint        the first three of these"
	@echo "make acceptance  the slow tests"
	@echo "make bench       speed and closeness, as ratios against peers"
	@echo "make docs        the documentation as a site, into site/"
	@echo "make lock        compile requirements.lock anew from pyproject.toml"
	@echo "make clean       remove .venv and caches, never results"

demo: .venv/ready
	$(BIN)/redteam run --out runs/demo

test: lint
	$(BIN)/pytest -q -n 2

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

acceptance: .venv/ready
	$(BIN)/pytest -q -m slow

bench: .venv/ready
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/vit.py
	$(BIN)/python benchmarks/files.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/gpu.py

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lock: .venv/ready
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra mlflow --extra open-clip --extra optuna --extra peft --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/ready: requirements.lock pyproject.toml tools/setup.sh
	@sh tools/setup.sh
