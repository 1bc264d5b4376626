"""`overlay-vpn route get`: the route that a packet would take, and the reason for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import click

from dns.names import FIXED_ADDRESSES, from_text, special_use
from shim.protocol import MARK
from vpn.cli.query_options import print_document, with_json, with_run
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
    resolution_text,
    route_text,
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
@with_json
@with_run
def get(destination: str, as_json: bool, run_id: str | None) -> None:
    """Say what would become of a packet to DESTINATION now, and why.

    DESTINATION is a name or an address; an IPv6 address with a port is written in brackets. Without
    a port the packet is one of a protocol that has none, such as ICMP.
    """
    host, port = parse_destination(destination)
    explanation = explain(host, port, run_id)
    if as_json:
        print_document(explanation)
    else:
        click.echo("\n".join(map(printable, _lines(explanation))))


def explain(host: str, port: int, run_id: str | None) -> Explanation:
    """Return the verdicts on packets to a host and port. Raises OverlayError."""
    status = _status(host, port, run_id)
    addresses, each = _addresses(host, status), {}
    if status.way is not None and not status.way.is_virtual:
        each = {address: _status(address, port, run_id) for address in addresses}
    if run_id is not None:
        runs.enter_network(run_id)
    verdicts = [_verdict(one, port, each.get(one, status)) for one in addresses]
    if not addresses:
        kind, why = nameless(status)
        verdicts = [Verdict(address="", verdict=kind, why=why)]
    return Explanation(
        host=host,
        port=port,
        name=status.name,
        way=status.way,
        is_assigned=status.is_assigned,
        server=status.server,
        carries_udp=status.carries_udp,
        verdicts=tuple(verdicts),
    )


def _status(host: str, port: int, run_id: str | None) -> DestinationStatus:
    """Return the client's answer; without a client, that of a machine without a tunnel."""
    if run_id is not None or control.is_there():
        return control.destination_of(run_id, host, port)
    way = Resolution(way="outside") if address_of(host) is None else None
    name = host if way else ""
    return DestinationStatus(name=name, way=way, kill_switch=control.is_blocked())


def _addresses(host: str, status: DestinationStatus) -> tuple[str, ...]:
    """Return the addresses that a program would send to, as its resolver would give them."""
    if status.way is None:
        return (host,)
    if status.way.way not in ("outside", "forwarded"):
        special = special_use(from_text(host))
        fixed = FIXED_ADDRESSES.get(special, ()) if special and status.way.way == "special" else ()
        return status.addresses or tuple(map(str, fixed))
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


def _verdict(address: str, port: int, status: DestinationStatus) -> Verdict:
    found = _route(Packet(address, port))
    kind, why = judge(address, port, status, found)
    outer = _route(Packet(address, port, MARK)) if status.is_server else ""
    return Verdict(
        address=address,
        verdict=kind,
        why=why,
        route=None if isinstance(found, str) else found,
        outer=None if isinstance(outer, str) else outer,
    )


def _route(packet: Packet) -> RouteText | str:
    """Return the kernel's route, or why there is none."""
    try:
        route = rtnetlink.route_of(packet)
        rules = rtnetlink.rules(4 if len(packet.packed) == 4 else 6)
    except OSError as error:
        return error.strerror or "no route"
    return route_text(route, rule_of(rules, packet, route))


def _lines(explanation: Explanation) -> list[str]:
    lines = [_endpoint(explanation.host, explanation.port), *_name_lines(explanation)]
    for one in explanation.verdicts:
        lines += _verdict_lines(one, explanation)
    return lines


def _name_lines(explanation: Explanation) -> Iterator[str]:
    way = explanation.way
    if way is not None:
        yield f"  name     {resolution_text(way)}"
        if way.is_virtual and explanation.verdicts[0].address:
            has = "has" if explanation.is_assigned else "would have"
            yield f"  address  virtual, those that it {has}"
    elif explanation.name:
        yield f"  name     {explanation.name}, whose virtual address it is"


def _verdict_lines(one: Verdict, explanation: Explanation) -> Iterator[str]:
    where = f"{_endpoint(one.address, explanation.port)}  " if one.address else ""
    yield f"{where}{one.verdict}: {one.why}"
    if one.route is not None:
        if one.route.rule is not None:
            rule = one.route.rule
            whose = "ours" if rule.is_ours else "not ours"
            yield f"  rule     {rule.priority}, {whose}: {rule.text}"
        yield f"  route    {_route_line(one.route)}"
    if one.verdict == "tunnel" and not explanation.carries_udp:
        yield "  udp      not carried by this server: unreachable at once"
    if one.outer is not None:
        yield f"  session  its own packets take another way: {_route_line(one.outer)}"


def _route_line(route: RouteText) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    source = f" src {route.source}" if route.source else ""
    kind = f"{route.kind} " if route.kind != "unicast" else ""
    return f"table {route.table}: {kind}{route.prefix}{via} dev {route.device}{source}"


def _endpoint(host: str, port: int) -> str:
    return join_host_port(host, port) if port else host
