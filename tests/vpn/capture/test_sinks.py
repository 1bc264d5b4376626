"""A file is whole after whatever happens to it; a line does nothing to a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scapy.utils import RawPcapNgReader

from shim.protocol.tap import Copied
from vpn.capture import headers, sinks
from vpn.capture.sinks import File, Lines
from vpn.errors import OverlayError

PACKET = Copied(1, True, 0, 5, "www.example.com", b"12345")


def packets(path: Path) -> int:
    with RawPcapNgReader(str(path)) as reader:
        count = len(list(reader))
        assert reader.f.read() == b""
    return count


def test_file_is_for_its_owner_only_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new.pcapng"
    sink = File(str(path), "ovpn0")
    assert path.stat().st_mode & 0o777 == 0o600
    sink.write(PACKET, None, 0)
    assert packets(path) == 1
    File(str(path), "ovpn0")
    assert packets(path) == 0


def test_file_without_room_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OverlayError, match="cannot write /dev/full: No space left on device"):
        File("/dev/full", "ovpn0")
    with pytest.raises(OverlayError, match=r"cannot write .*: Is a directory"):
        File(str(tmp_path), "ovpn0")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_half_a_packet_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "half.pcapng"
    sink = File(str(path), "ovpn0")
    sink.write(PACKET, None, 0)
    write, calls = os.write, []

    def half(fd: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise error
        return write(fd, data[: len(data) // 2])

    monkeypatch.setattr(sinks.os, "write", half)
    with pytest.raises((OverlayError, KeyboardInterrupt)):
        sink.write(PACKET, None, 0)
    monkeypatch.undo()
    assert len(calls) == 2
    assert packets(path) == 1


def test_name_of_a_hostile_client_does_nothing_to_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ip = b"\x45" + bytes(39)
    hostile = Copied(1, True, 3, 40, "a\x1b]0;owned\x07\nb", ip)
    Lines().write(hostile, headers.read(ip, 40), 3)
    lost, line = capsys.readouterr().out.splitlines()
    assert lost == "(3 lost)"
    assert "a?]0;owned??b" in line
