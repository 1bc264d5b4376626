"""Who may import whom (design §4), and what stays pure. Read from the source, not from a run."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PURE = [
    *sorted((ROOT / "dns").glob("*.py")),
    ROOT / "shim/gate/associations.py",
    ROOT / "shim/gate/echo.py",
    ROOT / "shim/gate/flows.py",
    ROOT / "shim/gate/orders.py",
    ROOT / "shim/gate/resolver.py",
    ROOT / "shim/gate/router.py",
    ROOT / "shim/gate/targets.py",
    ROOT / "shim/gate/wire/fast_path.py",
    ROOT / "shim/gate/wire/fragmentation.py",
    ROOT / "shim/gate/wire/packet.py",
    ROOT / "shim/gate/wire/reassembly.py",
    ROOT / "shim/gate/wire/udp.py",
    ROOT / "shim/netlink/changes.py",
    ROOT / "shim/monitor/plan.py",
    ROOT / "shim/launcher/kill_switch.py",
    ROOT / "vpn/capture/expression.py",
    ROOT / "vpn/capture/headers.py",
    ROOT / "vpn/capture/pcapng.py",
    ROOT / "vpn/capture/lines.py",
    ROOT / "vpn/control/messages.py",
    ROOT / "vpn/client/flows/admission.py",
    ROOT / "vpn/client/session/backoff.py",
    ROOT / "vpn/client/session/state.py",
    ROOT / "vpn/config/settings.py",
    ROOT / "vpn/control/verdict.py",
    ROOT / "vpn/protocol/echo.py",
    ROOT / "vpn/protocol/failure.py",
    ROOT / "vpn/protocol/icmp.py",
    ROOT / "vpn/protocol/fields.py",
    ROOT / "vpn/protocol/framing.py",
    ROOT / "vpn/policy/rules.py",
    ROOT / "vpn/endpoint.py",
    ROOT / "vpn/text.py",
    ROOT / "vpn/policy/report.py",
    ROOT / "vpn/linux/routing.py",
    ROOT / "vpn/linux/suspension.py",
    ROOT / "vpn/server/services/udp_peers.py",
    ROOT / "vpn/config/routes.py",
    ROOT / "vpn/config/target.py",
    ROOT / "vpn/protocol/udp.py",
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


def test_pyroute2_is_in_one_package() -> None:
    users = [path for path in sources("shim") + sources("vpn") if "pyroute2" in roots(path)]
    assert {path.parent for path in users} == {ROOT / "shim/netlink"}


def test_aioquic_is_in_one_file() -> None:
    users = [path for path in sources("vpn") if "aioquic" in roots(path)]
    assert users == [ROOT / "vpn/transport/quic/aioquic_engine.py"]


@pytest.mark.parametrize("path", PURE, ids=str)
def test_pure_module_does_no_io(path: Path) -> None:
    assert not roots(path) & IMPURE


@pytest.mark.parametrize("path", sources("shim"), ids=str)
def test_shim_runs_no_command_but_supervisor_and_monitor(path: Path) -> None:
    called = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    runs = called & {"execv", "execve", "system", "popen", "Popen", "posix_spawn"}
    assert runs == ({"posix_spawn"} if path == ROOT / "shim/launcher/children.py" else set())
    assert "subprocess" not in roots(path)


def test_importing_the_client_starts_no_program() -> None:
    """Looking for optional libraries must not run the compiler (see vpn/ssh/__init__.py)."""
    source = """
import sys
sys.addaudithook(lambda event, _: event == "subprocess.Popen" and print("ran a program"))
{}
import vpn.cli.main, vpn.client.up, vpn.server.app, vpn.identity
"""

    def said(more: str) -> str:
        argv = [sys.executable, "-c", source.format(more)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    assert said("import subprocess; subprocess.run(['true'])") == "ran a program\n"
    assert said("") == ""


# A module has a name of its own, but for mirror images.

MIRRORS = (
    # What a packet passes: gate, client, what both ends of a channel speak, server; and their DNS.
    {
        "shim/gate",
        "shim/gate/wire",
        "vpn/client/flows",
        "vpn/protocol",
        "vpn/server/services",
        "dns",
    },
    # A link between processes: its messages, and its ends.
    {"shim/protocol", "shim/gate/io", "shim/gate/process", "vpn/client/shim"},
    # A client and its server.
    {"vpn/ssh/session", "vpn/control"},
    # The processes of the shim.
    {"shim/launcher", "shim/monitor", "shim/resolved"},
    # Both sides of the wall.
    {"shim/sandbox", "vpn/linux"},
    # A transport, and what all transports share.
    {"vpn/transport", "vpn/transport/quic"},
    # TCP, as a transport and as a flow.
    {"vpn/transport/tcp.py", "vpn/client/flows/tcp.py"},
)
VERBS = "vpn/cli"
"""Its files are named as users call them."""


def named_alike(paths: Iterable[str]) -> list[str]:
    """The basenames that stand for more than one thing."""
    places: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder != VERBS and not name.startswith("__"):
            places.setdefault(name, set()).add(folder)
    return [
        name
        for name, folders in sorted(places.items())
        if len(folders) > 1
        and not any(
            folders <= one or {f"{each}/{name}" for each in folders} <= one for one in MIRRORS
        )
    ]


def test_detector_sees_a_name_that_stands_for_two_things() -> None:
    assert named_alike(["shim/gate/echo.py", "vpn/client/flows/echo.py", "vpn/cli/echo.py"]) == []
    assert named_alike(["shim/gate/echo.py", "vpn/ssh/echo.py"]) == ["echo.py"]
    assert named_alike(["vpn/transport/udp.py", "vpn/client/flows/udp.py"]) == ["udp.py"]


def test_no_name_stands_for_two_things() -> None:
    every = [path for package in ("dns", "shim", "vpn") for path in sources(package)]
    assert named_alike(str(path.relative_to(ROOT)) for path in every) == []


# The monitor is small: all of it, what it imports late included.

HEAVY = {"asyncssh", "aioquic", "cryptography", "click", "rich", "scapy"}
MONITOR_LINES = 900
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Lines that are not blank, comment or docstring (any string that stands alone)."""
    strings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - strings)


def loaded(root: Path, *modules: str) -> tuple[set[str], list[Path]]:
    """What `-X importtime` shows of these modules, and their files below `root`.

    In an isolated interpreter. What a file imports inside a function is imported, too.
    """
    source = f"import sys; sys.path.insert(0, {str(root)!r}); import {', '.join(modules)}"
    argv = [sys.executable, "-I", "-B", "-X", "importtime", "-c", source]
    report = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    names = {line.rpartition("|")[2].strip() for line in report.splitlines()}
    files = {file for name in names if (file := file_of(root, name))}
    wanted = {name for file in files for name in imports(file) if file_of(root, name)}
    if wanted <= names:
        return names, sorted(files)
    return loaded(root, *modules, *sorted(wanted - names))


def file_of(root: Path, module: str) -> Path | None:
    path = root / module.replace(".", "/")
    found = [one for one in (path / "__init__.py", path.with_suffix(".py")) if one.exists()]
    return found[0] if found else None


def test_detector_counts_code_and_nothing_else() -> None:
    assert code_lines("'''Said.\n\nmore'''\n\n# why\nX = 1  # so\n'''What it is.'''\n") == 1
    assert code_lines("def f(\n    a: int,\n) -> None:\n    '''Do.'''\n\n    f('''a\nb''')\n") == 5


def test_detector_sees_what_is_imported_late(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "__init__.py").write_text("")
    (planted / "early.py").write_text("def f():\n    from planted import late\n")
    (planted / "late.py").write_text("def f():\n    import planted.last\n")
    (planted / "last.py").write_text("import click\n" + "X = 1\n" * 900)
    names, files = loaded(tmp_path, "planted.early")
    assert "click" in names
    assert [file.stem for file in files] == ["__init__", "early", "last", "late"]
    assert sum(code_lines(file.read_text()) for file in files) == 905


def test_monitor_is_small_and_loads_nothing_heavy() -> None:
    names, files = loaded(ROOT, "shim.monitor.__main__")
    assert {"pyroute2", "msgspec", "shim.monitor.service"} <= names
    assert not {name.partition(".")[0] for name in names} & HEAVY
    assert sum(code_lines(file.read_text()) for file in files) <= MONITOR_LINES


# Layers: tools/check-layers has the order, and shows it.


def layered(root: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, ROOT / "tools/check-layers", "--root", root]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({}, ""),
        ({"vpn/ssh/keys.py": "from vpn.errors import OverlayError"}, ""),
        (
            {"vpn/errors.py": "import vpn.client"},
            "vpn.errors imports vpn.client, which is not below",
        ),
        ({"vpn/ssh/keys.py": "from vpn import client"}, "vpn.ssh imports vpn.client"),
        (
            {"vpn/ssh/keys.py": "def f():\n    from vpn.client.up import x"},
            "vpn.ssh imports vpn.client",
        ),
        ({"vpn/other.py": ""}, "vpn.other is in no layer"),
        (
            {
                "vpn/ssh/one.py": "from vpn.ssh import two",
                "vpn/ssh/two.py": "from vpn.ssh.one import x",
            },
            "vpn.ssh has a circle",
        ),
        (
            {
                "vpn/ssh/inner/__init__.py": "",
                "vpn/ssh/inner/deep.py": "from vpn.ssh.keys import x",
                "vpn/ssh/keys.py": "from vpn.ssh.inner import deep",
            },
            "vpn.ssh has a circle",
        ),
    ],
)
def test_planted_import_against_the_layers_is_seen(
    tmp_path: Path, planted: dict[str, str], said: str
) -> None:
    tree = {
        **{f"{part}/__init__.py": "" for part in ("dns", "shim", "vpn", "vpn/ssh", "vpn/client")},
        "vpn/errors.py": "",
        "vpn/client/up.py": "from vpn.errors import x\nfrom vpn.ssh.keys import y",
        "vpn/ssh/keys.py": "",
        **planted,
    }
    for name, text in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = layered(tmp_path)
    assert said in done.stderr
    assert done.returncode == bool(said)
