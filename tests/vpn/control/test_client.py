"""How the command line asks a client that has stopped to answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.protocol.paths import CONTROL
from vpn.client import questions
from vpn.control import client as control
from vpn.errors import OverlayError


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client to which one can connect, and which says nothing."""
    monkeypatch.setattr(control, "state_directory", lambda: str(tmp_path))
    monkeypatch.setattr(questions, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / CONTROL))
        listener.listen()
        yield


def test_silence_is_a_failure_whatever_was_asked(silent: None) -> None:
    with pytest.raises(OverlayError, match="does not answer"):
        control.query()
    with pytest.raises(OverlayError, match="does not answer"):
        control.pause(60)
    with pytest.raises(OverlayError, match="does not answer"):
        control.stop(0.05)
