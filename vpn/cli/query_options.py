"""The options of every verb that asks a running tunnel, and the output of its document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorated = Callable[..., Any]


def with_json(command: Decorated) -> Decorated:
    """Give a command the option `--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def with_run(command: Decorated) -> Decorated:
    """Give a command the option `--run`, as the parameter `run_id`."""
    option = click.option(
        "--run",
        "run_id",
        metavar="RUN",
        help="Ask this run; see 'overlay-vpn list'.",
    )
    return option(command)


def print_document(document: object) -> None:
    """Print a document as one line of JSON."""
    import msgspec

    click.echo(msgspec.json.encode(document).decode())
