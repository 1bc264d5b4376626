"""`overlay-vpn dns`: how names are answered, and one answer with the way that it took."""

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
from vpn.control import client as control
from vpn.control import dns_query, runs
from vpn.control.messages import DnsStatus, Resolution
from vpn.control.verdict import way_text
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
    """The extended error, or what became of the question if there is no answer."""
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--run", "run_id", metavar="RUN", help="Of this run, as 'overlay-vpn list' names it.")
def status(as_json: bool, run_id: str | None) -> None:
    """Say who answers which names, and how much of the pool and the cache is used."""
    found = control.dns_status(run_id)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo("\n".join(map(printable, _status_lines(found))))


@command.command("query")
@click.argument("name")
@click.argument("rtype", metavar="[TYPE]", default="A")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--run", "run_id", metavar="RUN", help="Of this run, as 'overlay-vpn list' names it.")
def query(name: str, rtype: str, as_json: bool, run_id: str | None) -> int:
    """Ask as an application would, and say which way the answer took.

    TYPE is a name, such as AAAA or MX, or TYPE and a number; without it A.
    The exit status is 3 if there is no such name, 4 if it has no such record, 1 without an answer.
    """
    try:
        labels, number = parse_text(name), presentation.type_number(rtype)
    except ValueError as error:
        line = f"cannot ask for that: {error}; write it as in: query example.com MX"
        raise UsageError(line) from None
    answer = ask(labels, number, run_id)
    if as_json:
        click.echo(msgspec.json.encode(answer).decode())
    else:
        click.echo("\n".join(map(printable, _answer_lines(answer))))
    return _STATUS[answer.outcome]


def ask(labels: Labels, rtype: int, run_id: str | None) -> Answer:
    """Ask, and return what came of it. Raises OverlayError."""
    name = to_text(labels)
    way = control.resolution_of(run_id, name, rtype)
    server = GATEWAY4
    if run_id is None:
        # A resolver on this machine would say what it has kept: then the tunnel's is asked itself.
        configured = dns_query.server_of()
        if way.way in ("outside", "forwarded") or not dns_query.is_loopback(configured):
            server = configured
    else:
        runs.enter_network(run_id)
    started_s, over_tcp, reply, why = time.monotonic(), False, None, ""
    try:
        reply, over_tcp = dns_query.ask(server, labels, rtype)
    except TimeoutError:
        why = "no answer in time"
    except WireError as error:
        why = f"not an answer: {error}"
    except OSError as error:
        why = error.strerror or "it cannot be asked"
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


def _path_text(way: Resolution, server: str, reply: Reply | None) -> str:
    if way.way == "forwarded":
        return f"not one of the tunnel's: forwarded to {server}, beside it"
    if way.way == "outside":
        return f"not answered by the tunnel now: asked of {server}"
    if way.is_virtual and reply is not None and reply.answers:
        return f"{way_text(way)}; the address is virtual"
    return way_text(way)


def outcome_of(reply: Reply | None, rtype: int) -> Outcome:
    """Return what an answer means to who has asked for records of a type."""
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
        *(("resolved", line) for line in _RESOLVED.get(found.resolved, ())),
        *(("warning", line) for line in found.warnings),
    ]
    return [found.mode, *(f"  {name:<8} {value}" for name, value in rows)]


_RESOLVED: Final = {
    "done": ("systemd-resolved knows which names are the tunnel's",),
}
