"""`overlay-vpn route get`: what becomes of a packet now, and why."""

from __future__ import annotations

import socket

import click

from dns.names import FIXED_ADDRESSES, from_text, special_use
from shim.protocol import MARK
from vpn.config.forwards import address_of, parse_destination
from vpn.control import client as control
from vpn.control import runs
from vpn.control.messages import DestinationStatus, Resolution
from vpn.control.verdict import (
    Explanation,
    RouteText,
    Verdict,
    judge,
    nameless,
    route_text,
    way_text,
)
from vpn.endpoint import join_host_port
from vpn.linux import rtnetlink
from vpn.linux.routing import Packet, rule_of
from vpn.text import printable


@click.group("route")
def command() -> None:
    """Explain where packets go."""


@command.command("get")
@click.argument("destination", metavar="DESTINATION[:PORT]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--run", "run_id", metavar="RUN", help="Of this run, as 'overlay-vpn list' names it.")
def get(destination: str, as_json: bool, run_id: str | None) -> None:
    """Say what would become of a packet to DESTINATION now, and why.

    DESTINATION is a name or an address; an IPv6 address with a port stands in brackets. Without a
    port it is about what has none, such as ping.
    """
    host, port = parse_destination(destination)
    explanation = explain(host, port, run_id)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(explanation).decode())
    else:
        click.echo("\n".join(map(printable, _lines(explanation))))


def explain(host: str, port: int, run_id: str | None) -> Explanation:
    """Return what becomes of a packet. Raises OverlayError."""
    fate = _fate(host, port, run_id)
    addresses, fates = _addresses(host, fate), {}
    if fate.way is not None and not fate.way.is_virtual:
        fates = {address: _fate(address, port, run_id) for address in addresses}
    if run_id is not None:
        runs.enter_network(run_id)
    verdicts = [_verdict(one, port, fates.get(one, fate)) for one in addresses]
    if not addresses:
        word, why = nameless(fate)
        verdicts = [Verdict(address="", verdict=word, why=why)]
    return Explanation(
        host=host,
        port=port,
        name=fate.name,
        way=fate.way,
        is_assigned=fate.is_assigned,
        server=fate.server,
        carries_udp=fate.carries_udp,
        verdicts=tuple(verdicts),
    )


def _fate(host: str, port: int, run_id: str | None) -> DestinationStatus:
    """Return what the client says; without one, everything is as without us, or cut off."""
    if run_id is not None or control.is_there():
        return control.destination_of(run_id, host, port)
    way = Resolution(way="outside") if address_of(host) is None else None
    name = host if way else ""
    return DestinationStatus(name=name, way=way, kill_switch=control.is_blocked())


def _addresses(host: str, fate: DestinationStatus) -> tuple[str, ...]:
    """Return where a program would send to: for a name, what its resolver would tell it."""
    if fate.way is None:
        return (host,)
    if fate.way.way not in ("outside", "forwarded"):
        special = special_use(from_text(host))
        fixed = FIXED_ADDRESSES.get(special, ()) if special and fate.way.way == "special" else ()
        return fate.addresses or tuple(map(str, fixed))
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


def _verdict(address: str, port: int, fate: DestinationStatus) -> Verdict:
    found = _route(Packet(address, port))
    word, why = judge(address, port, fate, found)
    outer = _route(Packet(address, port, MARK)) if fate.is_server else ""
    return Verdict(
        address=address,
        verdict=word,
        why=why,
        route=None if isinstance(found, str) else found,
        outer=None if isinstance(outer, str) else outer,
    )


def _route(packet: Packet) -> RouteText | str:
    """Return the route of the kernel, or why there is none."""
    try:
        route = rtnetlink.route_of(packet)
        rules = rtnetlink.rules(4 if len(packet.packed) == 4 else 6)
    except OSError as error:
        return error.strerror or "no route"
    return route_text(route, rule_of(rules, packet, route))


def _lines(explanation: Explanation) -> list[str]:
    lines = [_endpoint(explanation.host, explanation.port)]
    way = explanation.way
    if way is not None:
        lines.append(f"  name     {way_text(way)}")
        if way.is_virtual and explanation.verdicts[0].address:
            has = "has" if explanation.is_assigned else "would have"
            lines.append(f"  address  virtual, those that it {has}")
    elif explanation.name:
        lines.append(f"  name     {explanation.name}, whose virtual address it is")
    for one in explanation.verdicts:
        where = f"{_endpoint(one.address, explanation.port)}  " if one.address else ""
        lines.append(f"{where}{one.verdict}: {one.why}")
        if one.route is not None:
            if one.route.rule is not None:
                rule = one.route.rule
                whose = "ours" if rule.is_ours else "not ours"
                lines.append(f"  rule     {rule.priority}, {whose}: {rule.text}")
            lines.append(f"  route    {_route_line(one.route)}")
        if one.verdict == "tunnel" and not explanation.carries_udp:
            lines.append("  udp      not carried by this server: unreachable at once")
        if one.outer is not None:
            lines.append(f"  session  its own packets take another way: {_route_line(one.outer)}")
    return lines


def _route_line(route: RouteText) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    source = f" src {route.source}" if route.source else ""
    kind = f"{route.kind} " if route.kind != "unicast" else ""
    return f"table {route.table}: {kind}{route.prefix}{via} dev {route.device}{source}"


def _endpoint(host: str, port: int) -> str:
    return join_host_port(host, port) if port else host
