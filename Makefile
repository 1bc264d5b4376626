# make demo   runs the main job in a lab and shows what came back
# make test   passes the tests; both install what they need first
# make check  lint, types, floors of the design, documents
# make bench  side-by-side measurements; make soak: long tests

SHELL := bash
BIN := .venv/bin

.PHONY: setup check test demo bench soak clean

setup: .venv/.ready

.venv/.ready: tools/setup requirements.lock pyproject.toml
	@tools/setup

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy netns-tests/lab
	$(BIN)/pytest -q tests/test_floors.py
	tools/check-docs

test: setup
	$(BIN)/pytest -q tests
	tools/netns-tests -q

demo: setup
	@$(BIN)/python netns-tests/demo.py

bench: setup
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.lock
	$(BIN)/python bench/gate.py
	PYTHONPATH=netns-tests $(BIN)/python bench/path.py

soak: setup
	tools/netns-tests --soak

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
