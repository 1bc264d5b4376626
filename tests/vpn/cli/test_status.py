"""What `status` prints, whoever answers."""

from __future__ import annotations

from vpn.cli import status
from vpn.control.messages import Status


def test_answer_of_a_hostile_client_does_nothing_to_the_terminal() -> None:
    hostile = "a\x1b]0;owned\x07\x9b2J\nconnected"
    for one in (
        Status(state="connected", target=hostile, device=hostile, routes=(hostile,)),
        Status(state="reconnecting", last_error=hostile, warnings=(hostile,)),
    ):
        text = status._text(one)
        assert all(line.isprintable() for line in text.split("\n"))
        assert text.splitlines()[1:].count("connected") == 0
