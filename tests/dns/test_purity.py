"""The package can look at no clock, socket or file, and at nothing of ours but itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dns

ALLOWED = {
    "__future__",
    "collections",
    "dataclasses",
    "dns",
    "dnslib",
    "enum",
    "hashlib",
    "ipaddress",
    "re",
    "struct",
    "typing",
}
FILES = sorted(Path(dns.__path__[0]).glob("**/*.py"))


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_source_with_hidden_import_seen() -> None:
    assert set(imports("def f():\n    import os.path\nfrom time import sleep")) == {"os", "time"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_imports_pure_modules_only(path: Path) -> None:
    assert set(imports(path.read_text())) <= ALLOWED


def test_dnslib_known_to_one_file() -> None:
    assert [p.name for p in FILES if "dnslib" in set(imports(p.read_text()))] == ["response.py"]
