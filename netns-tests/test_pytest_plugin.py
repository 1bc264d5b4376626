"""The pytest plugin: a sample project, run by the real pytest, by a user without privileges.

app ──── router ──── server ──── target      with `direct` the embedded server reaches the target
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lab import Lab, services
from lab.overlay import PROGRAM, Overlay

SAMPLE = Path(__file__).with_name("sample")
PYTEST = str(Path(sys.executable).with_name("pytest"))
DIRECT = pytest.mark.lab(direct=True)
pytestmark = pytest.mark.timeout(150)
EMBEDDED = ("--overlay-vpn", "embedded")
NO_USER_NAMESPACES = "no user namespace can be made"


class Project:
    """The sample project in alice's home."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.root = lab.alice.home / "sample"
        self.report = lab.alice.home / "report.json"
        shutil.copytree(SAMPLE, self.root, ignore=shutil.ignore_patterns("__pycache__"))

    def pytest(
        self, *arguments: str, env: dict[str, str] | None = None, before: Sequence[str] = ()
    ) -> CompletedProcess[str]:
        """Run pytest as alice would in a shell, and return whatever came of it."""
        words = [*before, PYTEST, "-p", "no:cacheprovider", f"--rootdir={self.root}"]
        words += [str(self.root / word) if word.endswith(".py") else word for word in arguments]
        clean = {"PYTHONDONTWRITEBYTECODE": "1"}
        return self.lab.app.run(
            words, user=self.lab.alice, env=clean | (env or {}), check=False, timeout=100
        )

    def contacts(self) -> dict[str, Any]:
        """Return the contacts in the report by their host."""
        return {each["host"]: each for each in json.loads(self.report.read_text())["contacts"]}


@pytest.fixture
def project(lab: Lab) -> Project:
    services.names(lab.target)
    services.web(lab, lab.target)
    return Project(lab)


def tail(done: CompletedProcess[str]) -> str:
    return f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}"


@DIRECT
def test_detector_the_sample_notices_that_it_has_no_network_of_its_own(project: Project) -> None:
    done = project.pytest("check_client.py")
    assert done.returncode == 1, tail(done)
    assert "1 failed, 5 passed" in done.stdout
    assert "overlay-vpn: network" not in done.stdout


@DIRECT
def test_whole_run_embedded_passes_and_says_where_it_was(project: Project) -> None:
    done = project.pytest(*EMBEDDED, "check_client.py")
    assert done.returncode == 0, tail(done)
    assert "6 passed" in done.stdout
    assert "run --embedded" in done.stdout
    assert done.stderr == ""


def test_whole_run_through_a_target(project: Project, overlay: Overlay) -> None:
    endpoint = overlay.serve()
    known = [PROGRAM, "run", endpoint.target, "--accept-new", "--", "true"]
    project.lab.app.run(known, user=project.lab.alice)
    done = project.pytest("--overlay-vpn", endpoint.target, "check_client.py")
    assert done.returncode == 0, tail(done)
    assert f"run {endpoint.target}" in done.stdout
    assert "6 passed" in done.stdout


def test_whole_run_whose_server_is_not_there_runs_no_test(project: Project) -> None:
    done = project.pytest("--overlay-vpn", "nobody@127.0.0.1:9", "check_client.py")
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("overlay-vpn: ")
    assert done.stderr.count("\n") == 1


@DIRECT
def test_whole_run_denied_name_is_refused(project: Project) -> None:
    rules = ("--overlay-vpn-deny", "www.example.com", "--overlay-vpn-allow", "*.example.com")
    done = project.pytest(*EMBEDDED, *rules, "check_client.py")
    assert done.returncode == 1, tail(done)
    assert "4 failed, 2 passed" in done.stdout


@DIRECT
def test_whole_run_rules_keep_their_order(project: Project) -> None:
    rules = ("--overlay-vpn-allow", "*.example.com", "--overlay-vpn-deny", "www.example.com")
    done = project.pytest(*EMBEDDED, *rules, "check_client.py")
    assert done.returncode == 0, tail(done)


@DIRECT
def test_whole_run_with_workers_is_one_network(project: Project) -> None:
    rules = ("--overlay-vpn-allow", "*.example.com", "--overlay-vpn-report", str(project.report))
    done = project.pytest(*EMBEDDED, *rules, "-n", "2", "check_client.py")
    assert done.returncode == 0, tail(done)
    assert "6 passed" in done.stdout
    assert project.contacts()["www.example.com"]["flows"] == 4


@DIRECT
def test_whole_run_failing_test_is_status_1_also_when_strict(project: Project) -> None:
    done = project.pytest(*EMBEDDED, "check_failing.py")
    assert done.returncode == 1, tail(done)
    strict = ("--overlay-vpn-strict", "--overlay-vpn-allow", "www.example.com")
    done = project.pytest(*EMBEDDED, *strict, "check_failing.py", "check_telemetry.py")
    assert done.returncode == 1, tail(done)
    assert "1 failed, 1 passed" in done.stdout


@DIRECT
def test_whole_run_strict_denied_contact_is_status_125(project: Project) -> None:
    rules = ("--overlay-vpn-allow", "www.example.com")
    done = project.pytest(*EMBEDDED, *rules, "check_telemetry.py")
    assert done.returncode == 0, tail(done)
    report = ("--overlay-vpn-report", str(project.report))
    done = project.pytest(*EMBEDDED, *rules, *report, "--overlay-vpn-strict", "check_telemetry.py")
    assert done.returncode == 125, tail(done)
    assert "1 passed" in done.stdout
    denied = project.contacts()["git.example.com"]
    assert (denied["allowed"], denied["rule"]) == (False, "default")


@DIRECT
def test_whole_run_includes_what_a_conftest_contacts(project: Project) -> None:
    def has_gone_out() -> bool:
        return any(" / TCP " in str(packet) for packet in project.lab.outer.read())

    contacting = {"SAMPLE_CONTACTS": "git.example.com"}
    rules = ("--overlay-vpn-deny", "*", "--overlay-vpn-report", str(project.report))
    done = project.pytest(*EMBEDDED, *rules, "check_failing.py", env=contacting)
    assert done.returncode == 1, tail(done)
    assert project.contacts()["git.example.com"]["lookups"] > 0
    assert not has_gone_out()
    project.pytest("check_failing.py", env=contacting)
    assert has_gone_out()


@DIRECT
def test_whole_run_from_options_of_the_project(project: Project) -> None:
    with (project.root / "pytest.ini").open("a") as file:
        file.write("    --overlay-vpn=embedded --overlay-vpn-deny=www.example.com\n")
    config = f"--config-file={project.root / 'pytest.ini'}"
    done = project.pytest(config, "check_client.py")
    assert "4 failed, 2 passed" in done.stdout, tail(done)


@DIRECT
def test_mark_that_strayed_out_lets_nothing_run_outside(project: Project) -> None:
    namespace = project.lab.app.run(["stat", "-Lc", "%i", "/proc/self/ns/net"]).stdout.strip()
    strayed = {"OVERLAY_VPN_PYTEST": f"{namespace} --embedded", "OVERLAY_VPN_ID": "00000000"}
    done = project.pytest(*EMBEDDED, "check_client.py", env=strayed)
    assert done.returncode == 0, tail(done)
    assert "6 passed" in done.stdout


@DIRECT
def test_fixture_gives_each_command_its_network(project: Project) -> None:
    done = project.pytest("check_commands.py")
    assert done.returncode == 0, tail(done)
    assert "6 passed" in done.stdout


@DIRECT
def test_fixture_works_in_workers(project: Project) -> None:
    done = project.pytest("-n", "2", "check_commands.py")
    assert done.returncode == 0, tail(done)
    assert "6 passed" in done.stdout


@DIRECT
@pytest.mark.parametrize(
    "arguments",
    [
        # Without those that are happy with a command that does not come back.
        ("check_commands.py", "-k", "not takes_too_long"),
        (*EMBEDDED, "check_client.py"),
    ],
)
def test_no_user_namespaces_fails_and_runs_nothing(
    project: Project, arguments: tuple[str, ...]
) -> None:
    # The limit of a user namespace holds for what is made in it (namespaces(7)).
    limited = 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"'
    done = project.pytest(
        *arguments, before=("unshare", "--user", "--map-root-user", "sh", "-euc", limited, "sh")
    )
    said = done.stdout + done.stderr
    assert NO_USER_NAMESPACES in said, tail(done)
    assert "user.max_user_namespaces" in said
    assert " passed" not in done.stdout
    assert "skipped" not in done.stdout
    assert done.returncode == (1 if arguments[0] == "check_commands.py" else 125)
