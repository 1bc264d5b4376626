"""`overlay-vpn flows`: the flows in the tunnel, and the reset of one of them."""

from __future__ import annotations

import click

from vpn.cli.query_options import print_document, with_json, with_run
from vpn.control import client as control
from vpn.control.messages import FlowList, FlowStatus
from vpn.endpoint import join_host_port
from vpn.errors import UsageError
from vpn.text import columns

_HEAD = ("ID", "PROTO", "SOURCE", "DESTINATION", "STATE", "UP", "DOWN", "AGE", "IDLE", "EXIT")


@click.command("flows")
@with_json
@click.option("--kill", metavar="ID", help="Reset this flow at both ends; list nothing.")
@with_run
def command(as_json: bool, kill: str | None, run_id: str | None) -> None:
    """List the flows in the tunnel, oldest first."""
    if kill is not None:
        if as_json:
            raise UsageError("--kill prints nothing; leave out --json")
        control.kill_flow(run_id, kill)
        return
    flows = control.list_flows(run_id)
    if as_json:
        print_document(FlowList(1, tuple(flows)))
        return
    for line in columns([_HEAD, *map(_row, flows)]):
        click.echo(line)


def _row(flow: FlowStatus) -> tuple[str, ...]:
    return (
        flow.id,
        flow.protocol,
        join_host_port(flow.source, flow.source_port),
        join_host_port(flow.destination, flow.destination_port),
        flow.state,
        str(flow.bytes_up),
        str(flow.bytes_down),
        f"{flow.age_s} s",
        f"{flow.idle_s} s",
        flow.exit,
    )
