"""The files of /etc that a run has copies of."""

from __future__ import annotations

from pathlib import Path

from shim.namespace import mounts


def test_copy_of_a_file_in_any_encoding_is_equal(tmp_path: Path) -> None:
    """What an administrator has written there is nobody's to refuse."""
    text = bytes(range(1, 256)).replace(b"\r", b"")
    (tmp_path / "theirs").write_bytes(text)
    mounts._write(str(tmp_path / "ours"), mounts._read(str(tmp_path / "theirs")))
    assert (tmp_path / "ours").read_bytes() == text
