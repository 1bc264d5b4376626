from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from vpn import pytest_plugin

MARK = "OVERLAY_VPN_PYTEST"


def asked(
    target: str | None = None,
    *rules: str,
    report: str | None = None,
    is_strict: bool = False,
) -> Namespace:
    return Namespace(
        overlay_vpn=target,
        overlay_vpn_rules=list(rules),
        overlay_vpn_report=report,
        overlay_vpn_strict=is_strict,
    )


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv(MARK, raising=False)
    return monkeypatch


def test_import_loads_nothing_that_pytest_has_not_loaded() -> None:
    source = (
        "import sys, pytest; before = set(sys.modules); import vpn.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", source], stdout=-1, check=True, text=True)
    assert done.stdout.split() == ["vpn", "vpn.pytest_plugin"]


def test_no_options_is_no_namespace() -> None:
    assert pytest_plugin._run_options(asked()) == ()


def test_options_keep_the_order_of_rules() -> None:
    options = asked("embedded", "--deny=a", "--allow=b", report="r.json", is_strict=True)
    assert pytest_plugin._run_options(options) == (
        "--embedded",
        "--deny=a",
        "--allow=b",
        "--report=r.json",
        "--strict",
    )


def test_target_is_passed_on() -> None:
    assert pytest_plugin._run_options(asked("ssh://alice@host")) == ("ssh://alice@host",)


@pytest.mark.parametrize(
    "options",
    [
        asked(None, "--allow=a"),
        asked(report="r.json"),
        asked(is_strict=True),
        asked(""),
        asked("--help"),
    ],
)
def test_options_that_would_run_without_a_namespace_are_refused(options: Namespace) -> None:
    with pytest.raises(pytest.UsageError):
        pytest_plugin._run_options(options)


def test_mark_counts_in_another_namespace_for_equal_options(
    outside: pytest.MonkeyPatch,
) -> None:
    options = ("--embedded", "--allow=*")
    assert not pytest_plugin._is_inside(options)
    outside.setenv(MARK, "1 --embedded '--allow=*'")
    assert pytest_plugin._is_inside(options)
    assert not pytest_plugin._is_inside(("--embedded",))
    outside.setenv(MARK, f"{os.stat('/proc/self/ns/net').st_ino} --embedded '--allow=*'")
    assert not pytest_plugin._is_inside(options)


def test_going_inside_starts_the_same_program_under_run(outside: pytest.MonkeyPatch) -> None:
    class Replaced(BaseException):
        pass

    started: list[list[str]] = []

    def execv(path: str, argv: list[str]) -> None:
        assert path == argv[0]
        started.append(argv)
        raise Replaced

    outside.setattr(os, "execv", execv)
    outside.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "pytest", "-q"])
    outside.setattr(sys.modules["__main__"], "__file__", "pytest", raising=False)
    outside.setenv(MARK, "")
    with pytest.raises(Replaced):
        pytest_plugin._go_inside(("--embedded",))
    [argv] = started
    tail = ["run", "--embedded", "--", sys.executable, "-X", "dev", "-m", "pytest", "-q"]
    assert argv[-len(tail) :] == tail
    assert os.environ[MARK].endswith(" --embedded")


def test_rules_without_target_are_a_usage_error(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "--overlay-vpn-allow", "a.example")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "needs --overlay-vpn TARGET" in done.stderr


def test_project_that_does_not_use_it_sees_no_difference(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    done = run_pytest(tmp_path, "-W", "error", "--strict-markers")
    assert done.returncode == 0
    assert "overlay-vpn:" not in done.stdout


def test_marker_is_declared_and_checked(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.overlay_network(alow=['a.example'])\n"
        "def test_it(overlay_network): pass\n"
    )
    done = run_pytest(tmp_path, "--strict-markers")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "unexpected keyword argument 'alow'" in done.stdout


def test_marker_options_deny_before_allow() -> None:
    options = pytest_plugin.marker_options(allow=["b"], deny=["a"], hosts={"n": "192.0.2.1:80"})
    assert options == ("--deny=a", "--allow=b", "--host=n=192.0.2.1:80")


def test_marker_options_refuse_a_rule_that_is_no_list() -> None:
    with pytest.raises(TypeError):
        pytest_plugin.marker_options(allow="example.com")
