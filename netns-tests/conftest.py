"""Fixtures of the namespace tests: a lab per test, proven clean afterwards, kept on failure.

    @pytest.mark.lab(direct=True, mtu=1400)     options of lab.Lab
    def test_...(lab): ...

Tests of what an application sees share a lab, and a tunnel, for each way that its traffic can go:

    def test_...(way): ...                      four times, see lab.ways
    @pytest.mark.ways("up ours", "run ours")    or only so

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
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).parent))

from lab import Lab, services
from lab.overlay import Overlay
from lab.pool import Pool
from lab.ways import WAYS, Way, open_way

pytest_plugins = ["lab.fidelity", "pytester"]

ARTEFACTS = Path(os.environ.get("LAB_ARTEFACTS", Path(tempfile.gettempdir(), "overlay-vpn-lab")))
OUTCOME: pytest.StashKey[pytest.CallInfo[None]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab(**options): options of lab.Lab for the fixture `lab`")
    config.addinivalue_line("markers", "ways(*names): which of lab.ways.WAYS the fixture `way` is")
    config.addinivalue_line("markers", "soak: takes hours; run by `make soak` only")
    config.addinivalue_line("markers", "long: takes a minute; started before the others")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("ways")
        metafunc.parametrize("way", marker.args if marker else WAYS, indirect=True, scope="module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


class _Scheduler(LoadScopeScheduling):
    """Hands out tests one by one, but those that share a way, and so a lab, to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        way = next((way for way in WAYS if f"[{way}" in nodeid or f"-{way}" in nodeid), None)
        return nodeid if way is None else f"{nodeid.partition('::')[0]} {way}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduler:
    # --dist loadgroup does this by marks, but its groups are lost with pytest 9.
    return _Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[OUTCOME] = call
    given = getattr(item, "funcargs", {})
    way = given.get("way")
    lab = way.lab if isinstance(way, Way) else given.get("lab")
    if report.failed and call.when == "call" and isinstance(lab, Lab):
        try:
            report.sections.append(("lab", keep(lab, item.nodeid)))
        # The test may have broken the lab itself, or used up its time.
        except (OSError, AssertionError, pytest.fail.Exception) as error:
            report.sections.append(("lab", f"no summary: {error}"))
    return report


@pytest.fixture(scope="session")
def labs() -> Iterator[Pool]:
    """The labs of this process."""
    if os.geteuid() != 0:
        pytest.skip("needs root or `unshare -Ur`")
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def lab(request: pytest.FixtureRequest, labs: Pool) -> Iterator[Lab]:
    """A lab as good as new. Afterwards, if the test has passed, the proof that it has left nothing.

    Only a lab with that proof is used again.
    """
    marker = request.node.get_closest_marker("lab")
    with labs.lend(marker.kwargs if marker else {}) as lab:
        yield lab
        outcome = request.node.stash.get(OUTCOME, None)
        if outcome is not None and outcome.excinfo is None:
            problem = ""
            try:
                labs.take_back(lab)
            except AssertionError as error:
                problem = f"{error}\n{keep(lab, request.node.nodeid)}"
            if problem:
                pytest.fail(problem, pytrace=False)


@pytest.fixture(scope="module")
def zone() -> str:
    """What the target serves to who uses `way`; a module may have its own."""
    return services.ZONE


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    """More options of the `up` or `run` of `way`; a module may have its own."""
    return ()


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest, labs: Pool, zone: str, options: tuple[str, ...]
) -> Iterator[Way]:
    """A tunnel of each kind, for all tests of a module; at its end, nothing of it is left."""
    with labs.lend({}) as lab:
        with open_way(request.param, lab, zone, options) as way:
            yield way
        labs.take_back(lab)


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
