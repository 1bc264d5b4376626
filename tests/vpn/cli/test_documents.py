"""The manual page names every verb and option that `--help` names."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vpn.cli.main import cli

PAGE = (Path(__file__).parents[3] / "docs/man/overlay-vpn.1").read_text()
CONTEXT = click.Context(cli)


def commands() -> dict[str, click.Command]:
    found = {}
    for name in cli.list_commands(CONTEXT):
        command = cli.get_command(CONTEXT, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {below}": each for below, each in command.commands.items()}
    return found


OPTIONS = [
    (name, option)
    for name, command in commands().items()
    for parameter in command.params
    if isinstance(parameter, click.Option)
    for option in parameter.opts
]


@pytest.mark.parametrize("name", commands())
def test_verb_is_in_the_manual_page(name: str) -> None:
    assert f".Cm {name}" in PAGE


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_option_is_in_the_manual_page(name: str, option: str) -> None:
    assert f"Fl {option[1:]}" in PAGE


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_option_has_a_help_text(name: str, option: str) -> None:
    command = commands()[name]
    (parameter,) = (each for each in command.params if option in each.opts)
    assert isinstance(parameter, click.Option)
    assert parameter.help
