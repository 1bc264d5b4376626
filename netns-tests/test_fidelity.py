"""docs/fidelity.md is what the tests have shown, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.fidelity import Proof, render

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
pytest_plugins = ["lab.fidelity"]
"""


@pytest.fixture
def table(pytester: pytest.Pytester) -> Path:
    pytester.makeconftest(CONFTEST)
    return pytester.path / "fidelity.md"


def run(pytester: pytest.Pytester, table: Path, source: str, *words: str) -> str:
    """Run tests that are `source` and return the table, empty if there is none."""
    pytester.makepyfile(f"import pytest\n{source}")
    pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--fidelity={table}", *words)
    return table.read_text() if table.exists() else ""


def line_of(row: str, text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return line


PASSES = """
@pytest.mark.fidelity("UDP")
@pytest.mark.fidelity("UDP", over="sshd", cell="◐ refused at once")
@pytest.mark.parametrize("way", ["up ours", "run ours", "up sshd"])
def test_it(way): pass
"""


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "with workers"])
def test_row_says_what_passed_over_which_server(
    pytester: pytest.Pytester, table: Path, words: tuple[str, ...]
) -> None:
    text = run(pytester, table, PASSES, *words)
    name = "netns-tests/test_row_says_what_passed_over_which_server.py::test_it"
    assert line_of("UDP", text) == f"| UDP | ● | ◐ refused at once | `{name}` |"
    assert line_of("TCP half-close", text) == "| TCP half-close |  |  |  |"


@pytest.mark.parametrize("end", ["assert False", "pytest.skip('not here')"])
def test_run_that_has_not_shown_all_writes_nothing(
    pytester: pytest.Pytester, table: Path, end: str
) -> None:
    table.write_text("of an earlier run")
    assert run(pytester, table, f"{PASSES.replace('pass', end)}") == ""


@pytest.mark.parametrize("mark", ['"no such row"', '"UDP", over="the moon"', '"UDP", word="●"'])
def test_mark_that_is_none_is_an_error(pytester: pytest.Pytester, table: Path, mark: str) -> None:
    assert run(pytester, table, f"@pytest.mark.fidelity({mark})\ndef test_it(): pass") == ""


def test_less_than_the_whole_is_said_beside_it() -> None:
    proofs = [
        Proof("UDP", "ours", "◐ up to 1 200 bytes", "test_b.py::test_small"),
        Proof("UDP", "ours", "●", "test_a.py::test_all"),
    ]
    assert line_of("UDP", render(proofs)).startswith("| UDP | ●, ◐ up to 1 200 bytes |  |")
