"""What is said to people: one line, whatever others have put in it, wherever it goes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vpn.console import say


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("it failed", "it failed"),
        ("two\nlines\r\n", "two lines"),
        ("\x1b]0;title\x07\x1b[2J", "?]0;title??[2J"),
        ("right\u202eleft", "right?left"),
        ("n\N{LATIN SMALL LETTER A WITH GRAVE}me", "n\N{LATIN SMALL LETTER A WITH GRAVE}me"),
    ],
)
def test_words_of_others_are_one_line_and_do_nothing_to_a_terminal(
    capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    say(line)
    assert capsys.readouterr().err == f"overlay-vpn: {said}\n"


@pytest.mark.parametrize(("words", "said"), [("say('x')", "on\n"), ("print('x', file=f)", "")])
def test_full_disk_is_no_reason_to_fail(words: str, said: str) -> None:
    lines = ("import sys", "from vpn.console import say", "f = sys.stderr", words, "print('on')")
    with open("/dev/full", "w") as full:
        argv = [sys.executable, "-c", "\n".join(lines)]
        assert subprocess.run(argv, stdout=subprocess.PIPE, stderr=full, text=True).stdout == said
