"""The pytest plugin: a whole test run, or one command of a test, in a network of its own.

Theory of operation
-------------------
`pytest --overlay-vpn TARGET` starts the very program that is running once more, under
`overlay-vpn run TARGET --`, and takes its place by execve(2): exit status, terminal and signals are
those of `run`. That happens before any conftest.py is loaded and before pytest captures any
output, so nothing of the tested project has run with another network. A program that calls
`pytest.main()` starts again from its beginning.

The second start knows that it is inside by a mark in the environment: the network namespace that
was left, and the options. It counts only in another namespace and for equal options, so a mark that
has strayed there lets nothing run outside, and a pytest that a test starts with rules of its own
gets these within ours. Workers of pytest-xdist have the same options, and run where they are.

The fixture `overlay_network` is independent of that. Each of its commands is a child under
`overlay-vpn run --embedded`; all that belongs to it holds the end of one pipe, which tells when
the last of it has gone.

pytest loads this file in every project of the environment: it imports nothing beyond pytest and
what pytest itself has loaded.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

EMBEDDED: Final = "embedded"
"""What stands for a TARGET where there is no server."""

_MARK: Final = "OVERLAY_VPN_PYTEST"
_NAMESPACE: Final = "/proc/self/ns/net"
_OURS: Final = 125
_CLEAN_UP_S: Final = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; rules of both kinds go into one list, in the order they are given in."""
    group = parser.getgroup("overlay-vpn", "tests in a network of their own (overlay-vpn)")
    group.addoption(
        "--overlay-vpn",
        metavar=f"TARGET|{EMBEDDED}",
        help="Run all tests in a network whose only way out is through TARGET, or through a "
        f"server on this side ({EMBEDDED}).",
    )
    for action in ("allow", "deny"):
        group.addoption(
            f"--overlay-vpn-{action}",
            dest="overlay_vpn_rules",
            action="append",
            default=[],
            type=_option(action),
            metavar="RULE",
            help=f"--{action} of 'overlay-vpn run'. Repeatable; the first rule that matches "
            "decides.",
        )
    group.addoption(
        "--overlay-vpn-report",
        metavar="FILE",
        help="Write what was contacted and denied to this file.",
    )
    group.addoption(
        "--overlay-vpn-strict",
        action="store_true",
        help="Exit with 125 if something was denied, though all tests have passed.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "overlay_network(allow=[RULE], deny=[RULE], hosts={NAME: ADDRESS[:PORT]}): the network of "
        "the fixture overlay_network; deny goes before allow",
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Go into the namespace, unless this is inside. Raises UsageError."""
    options = _run_options(early_config.known_args_namespace)
    if options and not _is_inside(options):
        _go_inside(options)
    return (yield)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say in which network the tests run."""
    options = _run_options(config.option)
    if not options:
        return None
    name = os.environ.get("OVERLAY_VPN_ID", "?")
    return f"overlay-vpn: network {name}, run {shlex.join(options)}"


class OverlayNetwork:
    """Runs commands, each in a fresh network that leads out through an embedded server."""

    def __init__(self, options: Sequence[str]) -> None:
        self._tool = (*_tool(), "run", f"--{EMBEDDED}", *options)
        self._alive, self._held = os.pipe()

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        check: bool = False,
        pass_fds: Sequence[int] = (),
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command to its end; the options are those of subprocess.run().

        Fails the test if there can be no such network: the command has not run then. Raises what
        subprocess.run() raises.
        """
        words = [os.fspath(word) for word in command]
        with tempfile.TemporaryDirectory(prefix="overlay-vpn-") as directory:
            # A run that has started its command writes a report, whatever the exit status is.
            report = Path(directory, "report")
            done: subprocess.CompletedProcess[Any] = subprocess.run(
                [*self._tool, "--report", str(report), "--", *words],
                check=False,
                pass_fds=(*pass_fds, self._held),
                **options,
            )
            has_run = report.exists()
        if done.returncode == _OURS and not has_run:
            self._fail(done.stderr)
        if check:
            done.check_returncode()
        return done

    def _fail(self, said: str | bytes | None) -> NoReturn:
        """Fail the test with the line of the tool, which may have gone elsewhere."""
        if not said:
            again = [*self._tool, "--", "true"]
            said = subprocess.run(again, stdin=subprocess.DEVNULL, capture_output=True).stderr
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        line = text.strip() or "overlay-vpn: the command could not be started"
        pytest.fail(line, pytrace=False)

    def close(self) -> bool:
        """Wait until all of it has gone; returns whether it has."""
        os.close(self._held)
        has_gone = bool(select.select([self._alive], [], [], _CLEAN_UP_S)[0])
        os.close(self._alive)
        return has_gone


@pytest.fixture
def overlay_network(request: pytest.FixtureRequest) -> Iterator[OverlayNetwork]:
    """Run commands in a network of their own: overlay_network.run(["curl", …], timeout=10).

    @pytest.mark.overlay_network(allow=[…], deny=[…], hosts={…}) says what they may reach.
    """
    marker = request.node.get_closest_marker("overlay_network")
    network = OverlayNetwork(marker_options(**marker.kwargs) if marker else ())
    yield network
    if not network.close():
        pytest.fail("overlay-vpn: a command has left processes behind", pytrace=False)


def marker_options(
    *,
    allow: Iterable[str] = (),
    deny: Iterable[str] = (),
    hosts: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Return the options of `run` that the marker means. Raises TypeError."""
    if isinstance(allow, str) or isinstance(deny, str):
        raise TypeError("allow and deny are lists of rules")
    return (
        *map(_option("deny"), deny),
        *map(_option("allow"), allow),
        *(f"--host={name}={place}" for name, place in (hosts or {}).items()),
    )


def _tool() -> tuple[str, ...]:
    """Return the words that start overlay-vpn.

    The script is what an AppArmor profile names. Where it lies elsewhere, -P keeps a `vpn` in the
    directory of the tested project from being taken for ours (python(1)).
    """
    script = os.path.join(os.path.dirname(sys.executable), "overlay-vpn")
    if os.access(script, os.X_OK):
        return (script,)
    return (sys.executable, "-P", "-c", "from vpn.cli.main import main; main()")


def _option(name: str) -> Callable[[str], str]:
    return lambda value: f"--{name}={value}"


def _run_options(asked: Any) -> tuple[str, ...]:
    """Return the options of `run` for those of pytest; none if no namespace is wanted.

    Raises UsageError: who has asked for rules does not mean to run without.
    """
    target: str | None = asked.overlay_vpn
    report: str | None = asked.overlay_vpn_report
    if target is None:
        if asked.overlay_vpn_rules or report is not None or asked.overlay_vpn_strict:
            raise pytest.UsageError(
                f"--overlay-vpn-… needs --overlay-vpn TARGET, or --overlay-vpn {EMBEDDED}"
            )
        return ()
    if not target or target.startswith("-"):
        raise pytest.UsageError(f"--overlay-vpn needs a TARGET or '{EMBEDDED}', not {target!r}")
    return (
        f"--{EMBEDDED}" if target == EMBEDDED else target,
        *asked.overlay_vpn_rules,
        *(() if report is None else (f"--report={report}",)),
        *(("--strict",) if asked.overlay_vpn_strict else ()),
    )


def _is_inside(options: tuple[str, ...]) -> bool:
    left, _, asked = os.environ.get(_MARK, "").partition(" ")
    return bool(left) and left != _namespace() and asked == shlex.join(options)


def _namespace() -> str:
    return str(os.stat(_NAMESPACE).st_ino)


def _go_inside(options: tuple[str, ...]) -> NoReturn:
    main = sys.modules["__main__"]
    if not getattr(main, "__file__", None):
        raise pytest.UsageError(
            "--overlay-vpn has to start this program again, which did not come from a file"
        )
    os.environ[_MARK] = f"{_namespace()} {shlex.join(options)}"
    sys.stdout.flush()
    sys.stderr.flush()
    again = [sys.executable, *sys.orig_argv[1:]]
    tool = _tool()
    os.execv(tool[0], [*tool, "run", *options, "--", *again])
