# What CI calls, under the same names. `make PYTHON=...` uses another interpreter.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: lint format typecheck test bench docs demo wheel

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	PATH="$(dir $(PYTHON)):$$PATH" lint-imports

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench:
	$(PYTHON) -m pytest bench/ --benchmark-only

docs:  # not --quiet, with which mkdocs counts no warnings
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

demo:
	$(PYTHON) -m mgd3_fast distill --dataset mnist5k --ipc 10 --out distilled

wheel:
	rm -rf build dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) .ci/check_wheel.py dist/mgd3_fast-*.whl
