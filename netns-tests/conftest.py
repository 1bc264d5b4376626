"""Fixtures of the namespace tests: a lab per test, proven clean afterwards, kept on failure.

    @pytest.mark.lab(direct=True, mtu=1400)     options of lab.Lab
    def test_...(lab): ...

When a test fails, the logs of all programs and the captures are copied to
$LAB_ARTEFACTS (default: overlay-vpn-lab in the temporary directory) and summarised in the report.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lab import Lab
from lab.overlay import Overlay

ARTEFACTS = Path(os.environ.get("LAB_ARTEFACTS", Path(tempfile.gettempdir(), "overlay-vpn-lab")))
OUTCOME: pytest.StashKey[pytest.CallInfo[None]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab(**options): options of lab.Lab for the fixture `lab`")
    config.addinivalue_line("markers", "soak: takes hours; run by `make soak` only")
    config.addinivalue_line("markers", "long: takes a minute; started before the others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[OUTCOME] = call
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and call.when == "call" and isinstance(lab, Lab):
        try:
            report.sections.append(("lab", keep(lab, item.nodeid)))
        except (OSError, AssertionError) as error:  # the test may have broken the lab itself
            report.sections.append(("lab", f"no summary: {error}"))
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A fresh lab. Afterwards, if the test has passed, the proof that it has left nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root or `unshare -Ur`")
    marker = request.node.get_closest_marker("lab")
    with Lab(**(marker.kwargs if marker else {})) as lab:
        yield lab
        outcome = request.node.stash.get(OUTCOME, None)
        if outcome is not None and outcome.excinfo is None:
            problem = ""
            try:
                lab.assert_clean()
            except AssertionError as error:
                problem = f"{error}\n{keep(lab, request.node.nodeid)}"
            if problem:
                pytest.fail(problem, pytrace=False)


@pytest.fixture
def overlay(lab: Lab) -> Iterator[Overlay]:
    """The command line in the lab; taken down afterwards as a user would."""
    overlay = Overlay(lab)
    yield overlay
    if overlay.is_up:
        overlay.down()


def keep(lab: Lab, name: str) -> str:
    """Copy logs and captures of a lab and return a summary."""
    folder = ARTEFACTS / name.rpartition("/")[2].replace("::", "-")
    shutil.rmtree(folder, ignore_errors=True)
    lines = [f"kept in {folder}"]
    if lab.has_capture:
        packets = lab.outer.read()
        lines += [f"outer link, last of {len(packets)} packets:", *map(str, packets[-15:])]
    folder.mkdir(parents=True)
    for log in (*lab.tmp.glob("logs/*"), *lab.tmp.glob("home/*/.local/state/overlay-vpn/*.log")):
        if log.stat().st_size:
            shutil.copy(log, folder)
            if log.suffix == ".log":
                lines += [f"--- {log.name}:", *log.read_text(errors="replace").splitlines()[-20:]]
    for host in lab.hosts:
        for program in host.programs[-6:]:
            lines.append(f"--- {host.name}: {program}")
    return "\n".join([*lines, "--- differs from the lab as built:", *lab.leftovers()])
