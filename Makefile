# make demo   runs the main job in a lab and shows what came back
# make test   passes the tests; both install what they need first
# make check  lint, types, floors of the design, documents
# make mutants FILES=vpn/policy/rules.py   small mutations that the unit tests do not notice
# make bench  side-by-side measurements; make soak: long tests
#
# VENV= is the environment that they use, and PYTHON= an interpreter for it (tools/setup).

SHELL := bash
export VENV := .venv
BIN := $(VENV)/bin

# The most exposure that each unit may have (systemd-analyze security); see docs/decisions/0008-units.md
UNITS := server=1.0 client=1.0 shim=1.1

.PHONY: setup check test test-python demo bench soak mutants clean again

setup: $(VENV)/.ready

$(VENV)/.ready: tools/setup tools/pythons requirements.lock pyproject.toml $(if $(PYTHON),again)
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

# What depends most on the version of Python: all but the labs, the traced calls, the main job.
test-python: setup
	$(BIN)/pytest -q -n 2 tests
	tools/netns-tests -q -k "test_syscalls or test_up_real_programs_work_by_name"

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
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
