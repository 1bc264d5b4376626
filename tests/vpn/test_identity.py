import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from vpn import identity
from vpn.errors import ConfigurationError


def ssh_keygen(*arguments: str) -> str:
    result = subprocess.run(
        ["ssh-keygen", *arguments], check=True, capture_output=True, text=True, timeout=20
    )
    return result.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


def test_generate_then_load_gives_the_same_key(path: Path) -> None:
    assert identity.load(identity_path(path)).seed == identity.load(path).seed


def identity_path(path: Path) -> Path:
    made = identity.generate(path)
    assert made == identity.load(path)
    return path


def test_generated_files_have_their_modes_and_nothing_else_is_left(path: Path) -> None:
    old = os.umask(0)
    try:
        identity.generate(path)
    finally:
        os.umask(old)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["key", "key.pub"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("key.pub").stat().st_mode) == 0o644
    assert path.stat().st_nlink == 1


def test_forms_equal_those_of_ssh_keygen(path: Path) -> None:
    made = identity.generate(path)
    assert ssh_keygen("-y", "-f", str(path)).split()[:2] == made.openssh_public.split()
    assert ssh_keygen("-l", "-f", str(path)).split()[1] == made.fingerprint
    assert path.with_name("key.pub").read_text() == made.openssh_public + "\n"


def test_key_of_ssh_keygen_is_loaded(path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", str(path))
    loaded = identity.load(path)
    line = path.with_name("key.pub").read_text()
    assert line.startswith(loaded.openssh_public + " ")


def test_known_hosts_line_is_found_by_ssh_keygen(path: Path, tmp_path: Path) -> None:
    made = identity.generate(path)
    known_hosts = tmp_path / "known_hosts"
    names = [("example.org", 22), ("example.org", 4433), ("2001:db8::1", 4433)]
    for host, port in names:
        known_hosts.write_text(made.known_hosts_line(host, port) + "\n")
        wanted = host if port == 22 else f"[{host}]:{port}"
        assert made.openssh_public in ssh_keygen("-F", wanted, "-f", str(known_hosts))


def test_node_id_is_52_characters_and_injective_text(path: Path) -> None:
    made = identity.generate(path)
    assert len(made.node_id) == 52
    assert made.node_id == made.node_id.lower()
    assert made.node_id == identity.node_id_of(made.public)


def test_secret_is_not_in_repr(path: Path) -> None:
    made = identity.generate(path)
    assert repr(made) == "Identity()"


@pytest.mark.parametrize("existing", ["key", "key.pub"])
def test_generate_never_overwrites(path: Path, existing: str) -> None:
    path.with_name(existing).write_text("precious")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        identity.generate(path)
    assert path.with_name(existing).read_text() == "precious"
    assert len(list(path.parent.iterdir())) == 1


def test_generate_does_not_follow_a_dangling_symlink(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(ConfigurationError, match="never overwritten"):
        identity.generate(path)
    assert not path.with_name("elsewhere").exists()


def test_generate_losing_a_race_keeps_the_winner(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_link = os.link

    def link(source: Path, target: Path) -> None:
        target.write_text("winner")
        real_link(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(ConfigurationError, match="never overwritten"):
        identity.generate(path)
    assert path.read_text() == "winner"
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("failing_call", range(5))
def test_generate_on_a_full_disk_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    calls = iter(range(100))

    def guarded(real: object) -> object:
        def call(*arguments: object) -> object:
            if next(calls) == failing_call:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments)  # type: ignore[operator]

        return call

    # In order: sync of the key, sync of .pub, link of the key, link of .pub, sync of directory.
    monkeypatch.setattr(os, "fsync", guarded(os.fsync))
    monkeypatch.setattr(os, "link", guarded(os.link))
    with pytest.raises(ConfigurationError, match="No space left on device"):
        identity.generate(path)
    assert list(path.parent.iterdir()) == []


def test_generate_in_a_missing_directory_says_so(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        identity.generate(path / "below")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_load_refuses_a_key_others_can_use(path: Path, mode: int) -> None:
    identity.generate(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="run `chmod 600 "):
        identity.load(path)


def test_load_checks_the_target_of_a_symlink(path: Path, tmp_path: Path) -> None:
    made = identity.generate(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert identity.load(link) == made
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        identity.load(link)


def test_load_refuses_the_key_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity.generate(path)
    owner = path.stat().st_uid
    real_fstat = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real_fstat(descriptor))
        fields[stat.ST_UID] = owner + 4711
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ConfigurationError, match="belongs to user"):
        identity.load(path)


def test_load_refuses_what_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a regular file"):
        identity.load(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        identity.load(fifo)


def test_load_of_a_missing_key_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="overlay-vpn keygen"):
        identity.load(path)


def test_load_refuses_an_encrypted_key(path: Path) -> None:
    ssh_keygen("-q", "-t", "ed25519", "-N", "secret", "-f", str(path))
    with pytest.raises(ConfigurationError, match="it is encrypted"):
        identity.load(path)


def test_load_refuses_another_algorithm(path: Path) -> None:
    ssh_keygen("-q", "-t", "ecdsa", "-N", "", "-f", str(path))
    with pytest.raises(ConfigurationError, match="not an Ed25519 key"):
        identity.load(path)


@pytest.mark.parametrize("content", [b"", b"ssh-ed25519 AAAA", b"\x00" * 100_000])
def test_load_refuses_what_is_no_key(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not a private key in OpenSSH format"):
        identity.load(path)
