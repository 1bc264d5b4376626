"""`overlay-vpn dns`: the state of name resolution, and one query with the path of its answer."""

from __future__ import annotations

import time
from typing import Final, Literal

import click
import msgspec

from dns import presentation
from dns.codes import RCode
from dns.names import Labels, parse_text, to_text
from dns.reply import Reply
from dns.wire import WireError
from shim.protocol import GATEWAY4
from vpn.cli.query_options import print_document, with_json, with_run
from vpn.control import client as control
from vpn.control import runs
from vpn.control.messages import DnsStatus, Resolution
from vpn.control.verdict import resolution_text
from vpn.errors import Exit, UsageError
from vpn.text import printable

NO_SUCH_NAME: Final = 3
NO_SUCH_RECORD: Final = 4

Outcome = Literal["found", "no-data", "nxdomain", "failed"]
_STATUS: Final[dict[Outcome, int]] = {
    "found": Exit.OK,
    "no-data": NO_SUCH_RECORD,
    "nxdomain": NO_SUCH_NAME,
    "failed": Exit.FAILURE,
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `overlay-vpn dns query --json` prints. Records are lines of a zone file."""

    schema: int = 1
    name: str
    type: str
    outcome: Outcome
    rcode: str
    why: str
    """The extended DNS error (RFC 8914), or why there is no answer."""
    answers: tuple[str, ...]
    authority: tuple[str, ...]
    path: Resolution
    path_text: str
    server: str
    protocol: Literal["udp", "tcp"]
    elapsed_ms: int


@click.group("dns")
def command() -> None:
    """Look at how names are answered."""


@command.command("status")
@with_json
@with_run
def status(as_json: bool, run_id: str | None) -> None:
    """Say who answers which names, and how much of the pool and the cache is used."""
    found = control.dns_status(run_id)
    if as_json:
        print_document(found)
    else:
        click.echo("\n".join(map(printable, _status_lines(found))))


@command.command("query")
@click.argument("name")
@click.argument("rtype", metavar="[TYPE]", default="A")
@with_json
@with_run
def query(name: str, rtype: str, as_json: bool, run_id: str | None) -> int:
    """Ask as an application would, and say which way the answer took.

    TYPE is a record type, such as AAAA, MX or TYPE65; the default is A. The exit status is 3 for
    NXDOMAIN, 4 if the name has no record of the type, 1 if there is no answer.
    """
    try:
        labels, number = parse_text(name), presentation.type_number(rtype)
    except ValueError as error:
        line = f"cannot ask for that: {error}; write it as in: query example.com MX"
        raise UsageError(line) from None
    answer = ask(labels, number, run_id)
    if as_json:
        print_document(answer)
    else:
        click.echo("\n".join(map(printable, _answer_lines(answer))))
    return _STATUS[answer.outcome]


def ask(labels: Labels, rtype: int, run_id: str | None) -> Answer:
    """Send a query, and return its answer and the path that it took. Raises OverlayError."""
    name = to_text(labels)
    way = control.resolution_of(run_id, name, rtype)
    server = _server(way, run_id)
    started_s = time.monotonic()
    reply, over_tcp, why = _reply(server, labels, rtype)
    return Answer(
        name=name,
        type=presentation.type_name(rtype),
        outcome=outcome_of(reply, rtype),
        rcode=reply.rcode_name if reply is not None else "",
        why=why if reply is None else reply.why,
        answers=tuple(map(presentation.show, reply.answers)) if reply else (),
        authority=tuple(map(presentation.show, reply.authority)) if reply else (),
        path=way,
        path_text=_path_text(way, server, reply),
        server=server,
        protocol="tcp" if over_tcp else "udp",
        elapsed_ms=round((time.monotonic() - started_s) * 1000),
    )


def _server(way: Resolution, run_id: str | None) -> str:
    """Return the server to query, from the network namespace of the run if there is one."""
    from vpn.control import dns_query

    if run_id is not None:
        runs.enter_network(run_id)
        return GATEWAY4
    configured = dns_query.server_of()
    if way.way in ("outside", "forwarded") or not dns_query.is_loopback(configured):
        return configured
    # A resolver on this machine would answer from its cache, so the tunnel's is queried directly.
    return GATEWAY4


def _reply(server: str, labels: Labels, rtype: int) -> tuple[Reply | None, bool, str]:
    """Return the reply of a server, whether it came over TCP, and why there is none."""
    from vpn.control import dns_query

    try:
        return *dns_query.ask(server, labels, rtype), ""
    except TimeoutError:
        return None, False, "no answer in time"
    except WireError as error:
        return None, False, f"not an answer: {error}"
    except OSError as error:
        return None, False, error.strerror or "it cannot be asked"


def _path_text(way: Resolution, server: str, reply: Reply | None) -> str:
    if way.way == "forwarded":
        return f"not one of the tunnel's: forwarded to {server}, beside it"
    if way.way == "outside":
        return f"not answered by the tunnel now: asked of {server}"
    if way.is_virtual and reply is not None and reply.answers:
        return f"{resolution_text(way)}; the address is virtual"
    return resolution_text(way)


def outcome_of(reply: Reply | None, rtype: int) -> Outcome:
    """Return the outcome of a query for records of a type."""
    if reply is None or reply.rcode not in (RCode.NOERROR, RCode.NXDOMAIN):
        return "failed"
    if reply.rcode == RCode.NXDOMAIN:
        return "nxdomain"
    is_any = rtype == presentation.TYPES["ANY"]
    has_any = any(is_any or record.rtype == rtype for record in reply.answers)
    return "found" if has_any else "no-data"


def _answer_lines(answer: Answer) -> list[str]:
    why = f" ({answer.why})" if answer.why else ""
    head = f";; {answer.name} {answer.type}: {answer.rcode or 'no answer'}{why}"
    if answer.outcome == "no-data":
        head += ", no such record"
    return [
        head,
        *answer.answers,
        *(f";; authority: {record}" for record in answer.authority),
        f";; path: {answer.path.way}: {answer.path_text}",
        f";; asked {answer.server} over {answer.protocol}, {answer.elapsed_ms} ms",
    ]


def _status_lines(found: DnsStatus) -> list[str]:
    asked = "the server's resolver" if found.asked == "server" else found.asked
    away = "" if found.is_connected else ", which cannot be reached now"
    is_some = bool(found.suffixes)
    rows = [
        ("asked", f"{asked}, at the far end{away}" if asked else "nobody: every name exists"),
        ("names", ", ".join(found.suffixes) if is_some else "all"),
    ]
    if is_some:
        rows.append(("others", "go to the resolver that they were sent to, beside the tunnel"))
    if not found.is_captured:
        rows[1:] = [("names", "none are captured; the resolver of this machine is asked")]
    if found.paused_s:
        rows.append(("paused", f"for another {found.paused_s} s: names are asked beside it"))
    rows += [("host", f"{name} is {address}") for name, address in found.hosts.items()]
    if found.search:
        rows.append(("search", " ".join(found.search)))
    pool = found.pool
    rows += [
        (
            "pool",
            f"{pool.used} of {pool.slots} addresses have a name, {pool.pinned} are in use"
            if pool is not None
            else "the gate does not answer",
        ),
        ("cache", f"{found.cache_answers} answers, {found.cache_hits} times used"),
    ]
    if found.resolved == "done":
        rows.append(("resolved", "systemd-resolved knows which names are the tunnel's"))
    rows += [("warning", line) for line in found.warnings]
    return [found.mode, *(f"  {name:<8} {value}" for name, value in rows)]
