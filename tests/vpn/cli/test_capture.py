"""`capture` writes what is wanted, ends when there is enough, and leaves nothing open."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim.protocol.handover import pair
from shim.protocol.link import Link, role
from shim.protocol.tap import TAP, Copied, Tapped
from vpn.capture import expression
from vpn.capture.headers import Headers
from vpn.capture.sinks import Sink
from vpn.cli.capture import Capture
from vpn.cli.main import run
from vpn.control import client as control
from vpn.errors import OverlayError

UDP = bytes.fromhex("4500001c000040004011f6c6c6120002c0000207d43100350008fb00")
OTHER = Copied(0, True, 2, 1, "", b"\0")


def copied(name: str = "", dropped: int = 0) -> Copied:
    return Copied(1_790_000_000_000_000_000, True, dropped, len(UDP), name, UDP)


class Written:
    """A sink that remembers, and fails where it is told to."""

    def __init__(self, fails: bool = False) -> None:
        self.packets: list[tuple[str, int]] = []
        self._fails = fails

    def write(self, packet: Copied, headers: Headers | None, dropped: int) -> None:
        if self._fails:
            raise OverlayError("no room")
        self.packets.append((packet.name, dropped))


class Gate:
    """A gate that copies what it is told to, and the reader's end of its link."""

    def __init__(self, *packets: Copied) -> None:
        self.reader, self.link = pair(TAP, role(Tapped))
        for message in (Tapped(), *packets):
            assert self.link.send(message)

    @property
    def is_left(self) -> bool:
        """Whether the reader has closed its end."""
        return self.reader.fileno() == -1


class Connection:
    """The connection that keeps the capture going."""

    def __init__(self) -> None:
        self.is_closed = False

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def connection() -> Connection:
    return Connection()


GateOf = Callable[..., Gate]


@pytest.fixture
def gate_of() -> Iterator[GateOf]:
    """What makes gates, and closes what is theirs; the readers' ends are the verb's to close."""
    made: list[Gate] = []

    def make(*packets: Copied) -> Gate:
        made.append(Gate(*packets))
        return made[-1]

    yield make
    for gate in made:
        gate.link.close()


@pytest.fixture
def read_by_us(gate_of: GateOf) -> Iterator[GateOf]:
    """As `gate_of`, where no verb closes the reader's end."""
    made: list[Gate] = []
    yield lambda *packets: made.append(gate_of(*packets)) or made[-1]
    for gate in made:
        gate.reader.close()


def given(monkeypatch: pytest.MonkeyPatch, connection: Connection, gate: Gate) -> None:
    monkeypatch.setattr(control, "capture", lambda run_id: (connection, gate.reader))


def capture(link: Link, sink: Sink, wanted: str = "", count: int | None = None) -> Capture:
    return Capture(link, expression.parse(wanted), sink, count)


# One capture.


def test_packets_are_written_until_there_are_enough(read_by_us: GateOf) -> None:
    gate, sink = read_by_us(copied("a", 1), copied("b"), copied("c")), Written()
    one = capture(gate.reader, sink, count=2)
    one.run()
    assert sink.packets == [("a", 1), ("b", 0)]
    assert (one.written, one.lost) == (2, 1)


def test_packets_that_are_not_wanted_count_as_neither_written_nor_lost(read_by_us: GateOf) -> None:
    gate = read_by_us(OTHER, copied("a", 1), copied("b", 3), copied("b", 4))
    sink = Written()
    one = capture(gate.reader, sink, "host b", 2)
    one.run()
    # What was lost before packets that were not wanted is told with the next one.
    assert sink.packets == [("b", 6), ("b", 4)]
    assert (one.written, one.lost) == (2, 10)


def test_end_of_the_tunnel_ends_the_capture_after_the_last_packet(read_by_us: GateOf) -> None:
    gate, sink = read_by_us(copied("a")), Written()
    gate.link.close()
    with pytest.raises(OverlayError, match="the tunnel has ended"):
        capture(gate.reader, sink).run()
    assert sink.packets == [("a", 0)]


def test_gate_that_breaks_a_rule_ends_the_capture(read_by_us: GateOf) -> None:
    gate = read_by_us()
    gate.link._sock.send(b"nonsense")
    with pytest.raises(OverlayError, match="the tunnel has ended"):
        capture(gate.reader, Written()).run()


def test_beginning_is_said_once_although_gates_follow_each_other(
    read_by_us: GateOf, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = read_by_us(copied())
    gate.link.send(Tapped())
    gate.link.send(copied())
    capture(gate.reader, Written(), count=2).run()
    assert capsys.readouterr().err == "overlay-vpn: capturing; Ctrl-C ends it\n"


# The verb.


def test_verb_prints_lines_and_then_how_many(
    monkeypatch: pytest.MonkeyPatch,
    connection: Connection,
    gate_of: GateOf,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gate = gate_of(copied("www.example", 2), copied())
    given(monkeypatch, connection, gate)
    assert run(["capture", "-c", "1", "udp"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "(2 lost)"
    assert "UDP 198.18.0.2:54321 > www.example:53: length 0" in out
    assert err.splitlines()[-1] == "overlay-vpn: 1 packets, 2 lost"
    assert connection.is_closed
    assert gate.is_left


@pytest.mark.parametrize(
    ("where", "status"), [("none/file.pcapng", 1), ("", 1), ("file.pcapng", 0)]
)
def test_file_that_cannot_be_written_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
    connection: Connection,
    gate_of: GateOf,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    where: str,
    status: int,
) -> None:
    gate = gate_of(copied())
    given(monkeypatch, connection, gate)
    assert run(["capture", "-c", "1", "-w", str(tmp_path / where)]) == status
    assert connection.is_closed
    assert gate.is_left
    assert ("cannot write" in capfd.readouterr().err) == bool(status)


def test_interrupt_ends_a_capture_with_success(
    monkeypatch: pytest.MonkeyPatch,
    connection: Connection,
    gate_of: GateOf,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gate = gate_of()
    given(monkeypatch, connection, gate)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vpn.cli.capture.select.select", interrupt)
    assert run(["capture"]) == 0
    assert capfd.readouterr().err == "overlay-vpn: 0 packets, 0 lost\n"
    assert gate.is_left


def test_termination_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, connection: Connection, gate_of: GateOf
) -> None:
    gate = gate_of()
    given(monkeypatch, connection, gate)
    monkeypatch.setattr(
        "vpn.cli.capture.select.select", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert run(["capture"]) == 0


def test_file_on_a_terminal_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["capture", "-w", "-"]) == 2
