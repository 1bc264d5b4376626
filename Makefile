# make demo   runs the main job in a lab and shows what came back
# make test   passes the tests; both install what they need first
# make check  lint, types, floors of the design, documents
# make mutants FILES=vpn/policy/rules.py   small mutations that the unit tests do not notice
# make bench  side-by-side measurements; make soak: long tests

SHELL := bash
BIN := .venv/bin

# The most exposure that each unit may have (systemd-analyze security); see docs/decisions/0008-units.md
UNITS := server=1.0 client=1.0 shim=1.1

.PHONY: setup check test demo bench soak mutants clean

setup: .venv/.ready

.venv/.ready: tools/setup requirements.lock pyproject.toml
	@tools/setup

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy netns-tests/lab
	$(BIN)/pytest -q tests/test_floors.py
	tools/check-layers
	tools/check-docs
	tools/check-units $(UNITS)

test: setup
	$(BIN)/pytest -q -n 2 tests
	tools/netns-tests -q --fidelity build/fidelity.md
	tools/check-fidelity

demo: setup
	@$(BIN)/python netns-tests/demo.py

bench: setup
	@tools/setup apache2-utils
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.lock
	$(BIN)/python bench/gate.py
	PYTHONPATH=netns-tests $(BIN)/python bench/path.py
	PYTHONPATH=netns-tests $(BIN)/python bench/udp.py
	PYTHONPATH=netns-tests $(BIN)/python bench/echo.py
	$(BIN)/python bench/startup.py

soak: setup
	tools/netns-tests --soak

mutants: setup
	$(BIN)/python tools/mutants $(FILES)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
