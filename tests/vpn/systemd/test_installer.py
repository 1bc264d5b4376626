"""Units are put in place and taken away; what an administrator has changed is not touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpn.errors import ConfigurationError
from vpn.systemd import installer, units
from vpn.systemd.installer import SERVER_ROOT, Place

KINDS = pytest.mark.parametrize("kind", units.UNITS)


def files_of(kind: str, python: str = "/srv/env/bin/python") -> dict[Path, str]:
    return installer.files(kind, python, ["/srv/env"])


def tree(root: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "system")


@KINDS
def test_install_twice_is_install_once(place: Place, kind: str) -> None:
    assert installer.install(place, files_of(kind)) == [place.of(p) for p in installer.paths(kind)]
    before = tree(place.root)
    assert installer.install(place, files_of(kind)) == []
    assert tree(place.root) == before
    for path in before:
        assert Path(path).stat().st_mode & 0o777 == 0o644


@KINDS
def test_uninstall_leaves_nothing_and_twice_is_harmless(place: Place, kind: str) -> None:
    installer.install(place, files_of(kind))
    skeleton = place.of(SERVER_ROOT / "lib/x86_64")
    skeleton.mkdir(parents=True)
    (skeleton / "libc.so.6").touch()
    removed = installer.uninstall(place, installer.paths(kind))
    assert removed == [place.of(path) for path in installer.paths(kind)]
    assert installer.uninstall(place, installer.paths(kind)) == []
    assert place.of(SERVER_ROOT).exists() == (kind != "server")


def test_install_for_another_environment_replaces_ours(place: Place) -> None:
    installer.install(place, files_of("server"))
    assert installer.install(place, files_of("server", "/new/bin/python"))
    unit = place.read("overlay-vpn-server.service")
    assert unit.interpreter == "/new/bin/python"


@KINDS
@pytest.mark.parametrize("change", ["# more\n", ""])
def test_changed_or_foreign_file_is_neither_overwritten_nor_removed(
    place: Place, kind: str, change: str
) -> None:
    installer.install(place, files_of(kind))
    path = place.of(installer.paths(kind)[-1])
    text = path.read_text()
    path.write_text(text + change if change else text.partition("\n")[2])
    before = tree(place.root)
    with pytest.raises(ConfigurationError, match=f"{path.name}.d"):
        installer.install(place, files_of(kind, "/new/bin/python"))
    with pytest.raises(ConfigurationError, match=f"{path.name}.d"):
        installer.uninstall(place, installer.paths(kind))
    assert tree(place.root) == before


def test_drop_ins_are_read_and_stay(place: Place) -> None:
    installer.install(place, files_of("server"))
    drop_in = place.unit("overlay-vpn-server.service.d") / "site.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nBindReadOnlyPaths=/more\n")
    assert ("/more", "/more") in place.read("overlay-vpn-server.service").binds
    installer.uninstall(place, installer.paths("server"))
    assert drop_in.exists()


def test_drop_ins_of_an_instance_and_of_others_are_read(place: Place) -> None:
    installer.install(place, files_of("client"))
    for number, folder in enumerate(("etc/systemd", "run/systemd", "usr/lib/systemd")):
        drop_in = (
            place.root / folder / "system/overlay-vpn-client@alice.service.d" / f"{number}.conf"
        )
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(f"[Service]\nIPAddressAllow=192.0.2.{number}\n")
    allowed = place.read("overlay-vpn-client@.service").words("IPAddressAllow")
    assert allowed[-3:] == ["192.0.2.0", "192.0.2.1", "192.0.2.2"]


def test_unit_of_a_package_is_read_unless_there_is_one_of_ours(place: Place) -> None:
    packaged = place.root / "usr/lib/systemd/system/overlay-vpn-server.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("[Service]\nExecStart=/packaged/python\n")
    assert place.read(packaged.name).interpreter == "/packaged/python"
    installer.install(place, files_of("server"))
    assert place.read(packaged.name).interpreter == "/srv/env/bin/python"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("server", "overlay-vpn-server.service"), ("client", "overlay-vpn-client@alice.service")],
)
def test_enabled_unit_is_not_removed(place: Place, kind: str, name: str) -> None:
    installer.install(place, files_of(kind))
    wants = place.unit("multi-user.target.wants") / name
    wants.parent.mkdir()
    wants.symlink_to("/dev/null")
    with pytest.raises(ConfigurationError, match=f"systemctl disable --now {name}"):
        installer.uninstall(place, installer.paths(kind))
    wants.unlink()
    assert installer.uninstall(place, installer.paths(kind))


def test_root_of_the_server_with_something_in_it_is_kept(place: Place) -> None:
    installer.install(place, files_of("server"))
    note = place.of(SERVER_ROOT / "note")
    note.write_text("not ours")
    installer.uninstall(place, installer.paths("server"))
    assert note.read_text() == "not ours"


def test_unit_that_is_not_installed_is_said_to_be_so(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="service install"):
        place.read("overlay-vpn-server.service")
