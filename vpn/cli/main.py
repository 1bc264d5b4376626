"""The entry point: finds the verb, and turns every failure into one line and an exit status.

Each verb lives in a file of its own that imports what it needs when it runs, so that `--help`
and short verbs stay quick.
"""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from typing import Final

import click

from vpn.console import say
from vpn.errors import Exit, OverlayError

_VERBS: Final = {
    "capture": "vpn.cli.capture",
    "dns": "vpn.cli.dns",
    "down": "vpn.cli.down",
    "enter": "vpn.cli.enter",
    "flows": "vpn.cli.flows",
    "key": "vpn.cli.key",
    "keygen": "vpn.cli.keygen",
    "list": "vpn.cli.list",
    "pause": "vpn.cli.pause",
    "recover": "vpn.cli.recover",
    "route": "vpn.cli.route",
    "run": "vpn.cli.run",
    "server": "vpn.cli.server",
    "service": "vpn.cli.service",
    "status": "vpn.cli.status",
    "up": "vpn.cli.up",
}


class _Verbs(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _VERBS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="overlay-vpn", prog_name="overlay-vpn")
@click.option("-v", "--verbose", is_flag=True, help="Print a traceback when something fails.")
@click.pass_context
def cli(context: click.Context, verbose: bool) -> None:
    """Use the network of another machine, through one SSH session."""
    context.obj = verbose


def main() -> None:
    """Run the command line."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    verbose = bool({"-v", "--verbose"} & set(arguments[:1]))
    if not verbose:
        # Its log has tracebacks, which may contain destinations.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    arguments = _unshared(arguments)
    ours = Exit.OURS if _verb(arguments) in ("run", "enter") else None
    try:
        result = cli.main(arguments, prog_name="overlay-vpn", standalone_mode=False)
        return result if isinstance(result, int) else Exit.OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    except click.UsageError as error:
        say(f"{error.format_message()} (see 'overlay-vpn --help')")
        return ours or Exit.USAGE
    except click.Abort:
        return 130
    except OverlayError as error:
        say(str(error))
        if verbose:
            traceback.print_exc()
        return ours or error.status
    except ImportError as error:
        say(f"the installation is not complete: {error}; see 'overlay-vpn service check'")
        if verbose:
            traceback.print_exc()
        return ours or Exit.CONFIGURATION
    except Exception as error:  # whatever it is, the user gets one line
        say(f"unexpected {type(error).__name__}: {error} (run 'overlay-vpn -v …' for the details)")
        if verbose:
            traceback.print_exc()
        return ours or Exit.FAILURE


def _unshared(arguments: list[str]) -> list[str]:
    """Return `up --unshare TARGET -- CMD` as `run TARGET -- CMD`, and anything else as it is."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if _verb(ours) != "up" or "--unshare" not in ours:
        return arguments
    words = [word for word in ours if word != "--unshare"]
    words[words.index("up")] = "run"
    return words + arguments[len(ours) :]


def _verb(arguments: list[str]) -> str:
    """Return the first word that is no option; empty if there is none."""
    return next((word for word in arguments if not word.startswith("-")), "")


if __name__ == "__main__":
    main()
