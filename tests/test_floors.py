"""Who may import whom (design §4), and what stays pure. Read from the source, not from a run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PURE = [
    *sorted((ROOT / "dns").glob("*.py")),
    ROOT / "shim/gate/flows.py",
    ROOT / "shim/gate/names.py",
    ROOT / "shim/gate/packet.py",
    ROOT / "shim/monitor/plan.py",
    ROOT / "vpn/client/reconnect.py",
    ROOT / "vpn/policy.py",
    ROOT / "vpn/report.py",
    ROOT / "vpn/target.py",
]
IMPURE = {"asyncio", "os", "random", "secrets", "select", "socket", "subprocess", "time"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at whatever depth of the code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_detector_sees_an_import(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from vpn.ssh import client\n")
    assert "vpn.ssh" in set(imports(planted))


@pytest.mark.parametrize("path", sources("dns"), ids=str)
def test_dns_imports_nothing_of_ours(path: Path) -> None:
    assert not roots(path) & {"vpn", "shim"}


@pytest.mark.parametrize("path", sources("shim"), ids=str)
def test_shim_never_imports_vpn(path: Path) -> None:
    assert "vpn" not in roots(path)


@pytest.mark.parametrize("path", sources("shim"), ids=str)
def test_shim_imports_no_heavy_library(path: Path) -> None:
    assert not roots(path) & {"asyncssh", "aioquic", "cryptography", "scapy", "click", "rich"}


@pytest.mark.parametrize("path", sources("vpn"), ids=str)
def test_vpn_imports_only_the_protocol_of_shim(path: Path) -> None:
    ours = {name for name in imports(path) if name.startswith("shim.")}
    assert {name for name in ours if name.split(".")[1] != "protocol"} == set()


def test_protocol_imports_nothing_else_of_ours() -> None:
    ours = {name for path in sources("shim/protocol") for name in imports(path)}
    assert {name for name in ours if name.split(".")[0] in ("vpn", "dns")} == set()
    assert {name for name in ours if name.startswith("shim.")} == {
        name for name in ours if name.startswith("shim.protocol")
    }


@pytest.mark.parametrize("package", ["vpn", "shim", "dns"])
def test_product_never_imports_scapy(package: str) -> None:
    assert not [path for path in sources(package) if "scapy" in roots(path)]


def test_pyroute2_is_in_one_file() -> None:
    users = [path for path in sources("shim") + sources("vpn") if "pyroute2" in roots(path)]
    assert users == [ROOT / "shim/monitor/netlink.py"]


@pytest.mark.parametrize("path", PURE, ids=str)
def test_pure_module_does_no_io(path: Path) -> None:
    assert not roots(path) & IMPURE


@pytest.mark.parametrize("path", sources("shim"), ids=str)
def test_shim_runs_no_command_but_the_keeper(path: Path) -> None:
    called = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    runs = called & {"execv", "execve", "system", "popen", "Popen", "posix_spawn"}
    assert runs == ({"posix_spawn"} if path == ROOT / "shim/monitor/keeper.py" else set())
    assert "subprocess" not in roots(path)


def test_importing_the_client_starts_no_program() -> None:
    """Looking for optional libraries must not run the compiler (see vpn/ssh/__init__.py)."""
    source = """
import sys
sys.addaudithook(lambda event, _: event == "subprocess.Popen" and print("ran a program"))
{}
import vpn.cli.main, vpn.client.app, vpn.server.app, vpn.identity
"""

    def said(more: str) -> str:
        argv = [sys.executable, "-c", source.format(more)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    assert said("import subprocess; subprocess.run(['true'])") == "ran a program\n"
    assert said("") == ""
