"""docs/architecture.md names every package, and functions that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
STEP = re.compile(r"`([\w/]+\.py):([\w.]+)`")
LINE = re.compile(r"^( *)([\w]+)/ {2,}\S", re.M)
WALKS = ("A SYN", "A name", "A datagram", "`up`, from argv to connected", "A host key")


def functions(path: Path) -> Iterator[str]:
    """The functions of a file, methods as `Class.method`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}"


def unknown(page: str) -> list[str]:
    """The steps of a page that name no function of the tree."""
    return [
        f"{path}:{name}"
        for path, name in STEP.findall(page)
        if not (ROOT / path).is_file() or name not in set(functions(ROOT / path))
    ]


def packages() -> set[str]:
    return {
        str(path.parent.relative_to(ROOT))
        for part in ("dns", "shim", "vpn")
        for path in (ROOT / part).rglob("__init__.py")
    }


def listed(page: str) -> list[str]:
    """The packages of the page's tree, which is indented by two spaces for each level."""
    found, above = [], []
    for indent, name in LINE.findall(page):
        above[len(indent) // 2 :] = [name]
        found.append("/".join(above))
    return found


def test_detector_sees_a_function_that_does_not_exist() -> None:
    assert unknown("`tests/test_architecture.py:unknown` `tests/test_architecture.py:gone`") == [
        "tests/test_architecture.py:gone"
    ]
    assert unknown("`tests/gone.py:unknown`") == ["tests/gone.py:unknown"]


def test_detector_reads_the_tree() -> None:
    assert listed("vpn/  the client\n  ssh/  sessions\n    trust/  keys\ndns/  names\n") == [
        *("vpn", "vpn/ssh", "vpn/ssh/trust", "dns")
    ]


def test_every_step_of_the_walks_exists() -> None:
    assert unknown(PAGE) == []


@pytest.mark.parametrize("walk", WALKS)
def test_walk_has_steps(walk: str) -> None:
    _, _, rest = PAGE.partition(f"\n### {walk}\n")
    assert len(STEP.findall(rest.partition("\n### ")[0])) >= 5


def test_every_package_has_its_line() -> None:
    assert sorted(listed(PAGE)) == sorted(packages())
