"""`service check`: each thing that an installed unit lacks is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpn.cli.main import run
from vpn.systemd import checks, closure
from vpn.systemd.closure import Need
from vpn.systemd.installer import Place
from vpn.systemd.units import Unit

NAME = "overlay-vpn-server.service"


def test_missing_bind_is_named_with_what_needs_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    unit = Unit([f"BindReadOnlyPaths={tmp_path}/a"])
    needs = [Need(f"{tmp_path}/a", "here"), Need(f"{tmp_path}/b", "a library of x")] * 2
    (line,) = checks.of_root(NAME, unit, needs)
    assert f"'BindReadOnlyPaths={tmp_path}/b'" in line
    assert "a library of x" in line


def test_unit_of_another_installation() -> None:
    assert list(checks.of_interpreter(NAME, Unit([f"ExecStart={closure.interpreter()}"]))) == []
    (line,) = checks.of_interpreter(NAME, Unit(["ExecStart=/bin/sh -m x"]))
    assert "'/bin/sh -I -m vpn.cli.main service check'" in line
    (line,) = checks.of_interpreter(NAME, Unit(["ExecStart=/gone/python -m x"]))
    assert "/gone/python, which is not there" in line


def test_credential_that_is_not_there(tmp_path: Path) -> None:
    unit = Unit(["LoadCredential=identity:/etc/key\nLoadCredential=key:/etc/%i.key"])
    (line,) = checks.of_credentials(NAME, unit, Place(tmp_path))
    assert line.startswith("/etc/key is not there")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/key").touch()
    assert list(checks.of_credentials(NAME, unit, Place(tmp_path))) == []


@pytest.mark.parametrize("resolver", ["127.0.0.53", "10.1.2.3", "fe80::1%eth0", "::1"])
def test_resolver_in_the_list_may_be_asked(resolver: str) -> None:
    unit = Unit(["IPAddressAllow=localhost link-local 10.0.0.0/8"])
    assert list(checks.of_resolvers(NAME, unit, [resolver])) == []


def test_resolver_outside_of_the_list_is_named() -> None:
    unit = Unit(["IPAddressAllow=localhost 10.0.0.0/8"])
    (line,) = checks.of_resolvers(NAME, unit, ["192.0.2.53"])
    assert "'IPAddressAllow=192.0.2.53'" in line
    assert list(checks.of_resolvers(NAME, Unit([""]), ["192.0.2.53"])) == []


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(["service", "install", "client"]) == 77
    root = ["--root", str(tmp_path)]
    assert run(["service", "check", "client", *root]) == 78
    assert run(["service", "install", "client", *root]) == 0
    assert run(["service", "check", "client", *root]) == 0
    (tmp_path / "etc/resolv.conf").write_text("# mine\nnameserver 192.0.2.53\n")
    capsys.readouterr()
    assert run(["service", "check", "client", *root]) == 78
    assert capsys.readouterr().err.count("overlay-vpn: ") == 1
    assert run(["service", "print", "client"]) == 0
    installed = tmp_path / "etc/systemd/system/overlay-vpn-client@.service"
    assert installed.read_text().partition("\n")[2] in capsys.readouterr().out
    assert run(["service", "uninstall", "client", *root]) == 0
    assert not installed.exists()


def test_server_with_a_public_address_needs_a_drop_in() -> None:
    unit = Unit(["IPAddressAllow=localhost 10.0.0.0/8"])
    (line,) = checks.of_server(NAME, unit, checks._addresses("alice@192.0.2.7:4422"))
    assert "'IPAddressAllow=192.0.2.7'" in line
    assert list(checks.of_server(NAME, unit, checks._addresses("ssh://alice@10.9.8.7"))) == []
    allowed = Unit(["IPAddressAllow=localhost 10.0.0.0/8", "IPAddressAllow=192.0.2.7"])
    assert list(checks.of_server(NAME, allowed, ["192.0.2.7"])) == []
    loosely = Unit(["IPAddressAllow=192.0.2.7/24 nonsense"])
    assert list(checks.of_server(NAME, loosely, ["192.0.2.9", "192.0.3.9"])) != []
    assert list(checks.of_server(NAME, loosely, ["192.0.2.9"])) == []
    anywhere = Unit(["IPAddressAllow=10.0.0.0/8\nIPAddressAllow=any"])
    assert list(checks.of_server(NAME, anywhere, ["192.0.2.7", "2001:db8::7"])) == []


@pytest.mark.parametrize("target", ["", "not a target", "quic://", "a..b"])
def test_target_that_says_no_server_is_left_to_the_client(target: str) -> None:
    assert checks._addresses(target) == []
