"""What the command line says of a client, to the byte: what scripts read must not change.

Each scenario has a transcript in `golden/`, and a file for each capture file that it writes.
`OVERLAY_VPN_GOLDEN=write` writes them anew, which is for who means to change what users see.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_scenarios import SCENARIOS
from golden_world import served

GOLDEN = Path(__file__).parent / "golden"
IS_WRITING = os.environ.get("OVERLAY_VPN_GOLDEN") == "write"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose name leaves room for that of a socket (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="golden") as path:
        yield Path(path)


def transcript(said: list[tuple[str, str, bytes]]) -> bytes:
    """Write what came where: `1|` is the standard output, `2|` that of errors, `=` the status."""
    lines = []
    for line, mark, text in said:
        if mark == "$":
            lines.append(f"{'' if not lines else chr(10)}$ {line}".encode())
            continue
        *whole, rest = text.split(b"\n")
        lines += [f"{mark}| ".encode() + one for one in whole]
        if rest:
            lines.append(f"{mark}| ".encode() + rest + b"\\ no end of line")
    return b"\n".join(lines) + b"\n"


def check(name: str, found: bytes) -> None:
    path = GOLDEN / name
    if IS_WRITING:
        path.write_bytes(found)
    assert path.exists(), f"there is no {path}; see the docstring of this file"
    expected = path.read_bytes()
    if name.endswith(".txt"):
        assert found.decode() == expected.decode()
    assert found == expected


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_users_see_is_what_they_have_seen(
    name: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    scenario = SCENARIOS[name]
    said: list[tuple[str, str, bytes]] = []
    files: dict[str, bytes] = {}

    def file(data: bytes) -> bytes:
        files[f"{name}-{len(files) + 1}.pcapng"] = data
        return f"as {list(files)[-1]}\n".encode()

    with served(scenario.world, directory, monkeypatch) as world:
        for line in scenario.steps:
            if line.startswith("@wait "):
                world.wait(float(line.removeprefix("@wait ")))
                said.append((line, "$", b""))
                continue
            capfdbinary.readouterr()
            status, written = world.invoke(line)
            out, err = capfdbinary.readouterr()
            said += [(line, "$", b""), (line, "1", file(out) if "-w - " in line else out)]
            said += [(line, "2", err.replace(bytes(directory), b"DIRECTORY"))]
            if written is not None:
                mode, _, data = written.partition(b"\n")
                said.append((line, "FILE", b"mode " + mode + b", " + file(data)))
            said.append((line, "=", f"{status}\n".encode()))
    check(f"{name}.txt", transcript(said))
    for path, data in files.items():
        check(path, data)


def test_every_file_is_of_a_scenario() -> None:
    stems = {path.name.removesuffix(".txt") for path in GOLDEN.glob("*.txt")}
    assert stems == set(SCENARIOS)
    captures = {path.name.rpartition("-")[0] for path in GOLDEN.glob("*.pcapng")}
    assert captures <= set(SCENARIOS)
