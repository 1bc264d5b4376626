"""`overlay-vpn status`: the state of the tunnel of this network namespace, and its counters."""

from __future__ import annotations

import click

from vpn.cli.query_options import print_document, with_json
from vpn.control import client as control
from vpn.control.messages import Status
from vpn.errors import Exit
from vpn.text import printable


@click.command("status")
@with_json
def command(as_json: bool) -> int:
    """Show the state of the tunnel; the exit status is 0 only if it is connected."""
    status = control.query()
    if as_json:
        print_document(status)
    else:
        click.echo(_text(status))
    return Exit.OK if status.state == "connected" else Exit.FAILURE


def _text(status: Status) -> str:
    if status.state == "down":
        return status.state
    if status.state == "blocked":
        return "blocked\n  the kill switch holds; run 'overlay-vpn up' or 'overlay-vpn down'"
    rows = {
        "server": f"{status.target} ({status.transport})",
        "device": status.device,
        "names": status.dns,
        "routes": ", ".join(status.routes),
        "up for": f"{status.uptime_s} s",
        "flows": f"{status.flows_active} now, {status.flows_opened} opened, "
        f"{status.flows_refused} refused",
        "bytes": f"{status.bytes_up} up, {status.bytes_down} down",
        "process": str(status.pid),
    }
    if status.dropped:
        rows["dropped"] = ", ".join(f"{many} {why}" for why, many in status.dropped.items())
    if status.kill_switch:
        rows["switch"] = f"on, local network {'reachable' if status.lan else 'blocked'}"
    if status.paused_s:
        rows["paused"] = f"for another {status.paused_s} s"
    lines = [*rows.items(), *(("warning", line) for line in status.warnings)]
    texts = [_headline(status), *(f"  {name:<8} {value}" for name, value in lines)]
    return "\n".join(map(printable, texts))


def _headline(status: Status) -> str:
    if status.state != "reconnecting":
        return status.state
    when = f"next try in {status.retry_in_s} s" if status.retry_in_s else "trying now"
    return f"{status.state}, {when}: {status.last_error}"
