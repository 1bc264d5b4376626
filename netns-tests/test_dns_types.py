"""D4: what programs are told is what the far end says, but for addresses.

app ─ dig, getent … to any resolver ─▶ gate ─▶ client ─ session ─▶ server ─▶ zone on the target

The same questions, asked on the server, are what is compared with.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from lab import services
from lab.addresses import TARGET
from lab.ask import POOL4, POOL6, datagrams
from lab.capture import leaks
from lab.ways import Way
from shim.protocol import GATEWAY4

NO_WAY6 = "2001:db8:99::1"
"""The server has no route to it, nor to any other address outside the lab."""
REVERSE = "9.113.0.203.in-addr.arpa"
LONG = " ".join(f'"{n:0200}"' for n in range(8))
RECORDS = f"""
caa     IN CAA 0 issue "ca.example.net"
naptr   IN NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .
fp      IN SSHFP 4 2 123456789ABCDEF67890123456789ABCDEF67890123456789ABCDEF123456789
_443._tcp.www IN TLSA 3 1 1 123456789ABCDEF67890123456789ABCDEF67890123456789ABCDEF123456789
ds      IN DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118
unknown IN TYPE65280 \\# 4 0A000001
long    IN TXT {LONG}
second  IN CNAME alias
noway6  IN A {TARGET.v4}
noway6  IN AAAA {NO_WAY6}
www     IN HTTPS 1 . ipv4hint={TARGET.v4}
www     IN SVCB \\# 11 00010000040004{int(IPv4Address(TARGET.v4)):08x}
{REVERSE}. IN PTR www.example.com.
"""
QUESTIONS = [
    *(("example.com", rtype) for rtype in ("MX", "TXT", "NS", "SOA")),
    ("_ssh._tcp.example.com", "SRV"),
    *(("alias.example.com", "CNAME"), ("second.example.com", "CNAME")),
    *(("second.example.com", "MX"), ("www.example.com", "MX")),
    *(("caa.example.com", "CAA"), ("naptr.example.com", "NAPTR"), ("fp.example.com", "SSHFP")),
    *(("_443._tcp.www.example.com", "TLSA"), ("ds.example.com", "DS")),
    *(("unknown.example.com", "TYPE65280"), ("long.example.com", "TXT"), (REVERSE, "PTR")),
    *(("nothing.example.com", "MX"), ("my\\032printer.example.com", "TXT")),
]
ALIAS, NO_WAY, WWW = "second.example.com", "noway6.example.com", "www.example.com"
ADDRESSES = [ALIAS, "A", ALIAS, "AAAA", NO_WAY, "A", "v4only.example.com", "AAAA", NO_WAY, "AAAA"]
ADDRESSES += [WWW, "HTTPS", WWW, "SVCB", "nothing.example.com", "A", WWW, "ANY"]
STATIC = {"db.corp.test": f"{TARGET.v4}:80", "six.corp.test": f"[{TARGET.v6}]:80"}
DIG = ["dig", "+noall", "+comments", "+answer", "+authority", "+additional"]


class Said(NamedTuple):
    """One answer as dig shows it, without times to live and OPT."""

    status: str
    answer: frozenset[tuple[str, ...]]
    authority: frozenset[tuple[str, ...]]
    additional: frozenset[tuple[str, ...]]


def said(text: str) -> list[Said]:
    """Take the output of dig apart."""
    found = []
    for part in text.split(";; ->>HEADER<<-")[1:]:
        status = re.search(r"status: (\w+)", part)
        assert status is not None
        sections: dict[str, set[tuple[str, ...]]] = {}
        section: set[tuple[str, ...]] = set()
        for line in part.splitlines():
            if title := re.match(r";; (\w+) SECTION:", line):
                section = sections.setdefault(title[1], set())
            elif line and not line.startswith(";"):
                owner, _ttl, *rest = line.split()
                section.add((owner, *rest))
        names = ("ANSWER", "AUTHORITY", "ADDITIONAL")
        found.append(Said(status[1], *(frozenset(sections.get(name, ())) for name in names)))
    return found


@pytest.fixture(scope="module")
def zone() -> str:
    return services.ZONE + RECORDS


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    return tuple(word for name, at in STATIC.items() for word in ("--host", f"{name}={at}"))


@pytest.mark.fidelity("DNS: remote resolve")
@pytest.mark.fidelity("HTTPS/SVCB (type 65) handled for fake-IP")
def test_every_type_is_the_far_ends_answer_without_its_addresses(way: Way) -> None:
    asked = [word for question in QUESTIONS for word in question]
    expected = said(way.lab.server.run([*DIG, *asked]).stdout)
    assert any(TARGET.v4 in record for one in expected for record in one.additional)
    (hint,) = said(way.lab.server.run([*DIG, WWW, "HTTPS"]).stdout)
    assert any(TARGET.v4 in word for record in hint.answer for word in record)
    for transport in ("+notcp", "+tcp"):
        text = way.app.run([*DIG, transport, *asked, *ADDRESSES]).stdout
        assert not any(address in text for address in (*TARGET, NO_WAY6))
        got = said(text)
        for question, here, there in zip(QUESTIONS, got, expected, strict=False):
            assert here[:3] == there[:3], question
            assert here.additional == frozenset(), question
        assert_addresses_are_virtual(got[len(QUESTIONS) :], is_ours=way.is_ours)


def assert_addresses_are_virtual(got: list[Said], *, is_ours: bool) -> None:
    first, second, other, v4only, noway6, https, svcb, nothing, anything = got
    for one, pool in ((first, POOL4), (second, POOL6)):
        ((owner, _, _, address),) = one.answer
        assert owner == "second.example.com."
        assert ip_address(address) in pool
    assert len(other.answer) == 1
    for empty in (v4only, https, svcb):
        assert (empty.status, empty.answer) == ("NOERROR", frozenset())
    assert (nothing.status, nothing.answer) == ("NXDOMAIN", frozenset())
    # A plain sshd cannot be asked for routes.
    assert len(noway6.answer) == (0 if is_ours else 1)
    ((_, _, rtype, *_),) = anything.answer
    assert rtype == "HINFO"


@pytest.fixture(scope="module")
def libraries(way: Way) -> Mapping[str, list[str]]:
    """How to look a name up with the resolver of each library of the C world."""
    source = Path(__file__).parent / "lab" / "resolvers.c"
    musl, cares = (str(way.lab.tmp / name) for name in ("musl", "cares"))
    way.lab.app.run(["musl-gcc", "-static", "-o", musl, source])
    way.lab.app.run(["gcc", "-DCARES", "-o", cares, source, "-lcares"])
    return {"glibc": ["getent", "ahosts"], "musl": [musl], "c-ares": [cares]}


@pytest.mark.parametrize("library", ["glibc", "musl", "c-ares"])
def test_resolver_that_asks_for_both_families_at_once_is_told_both(
    way: Way, libraries: Mapping[str, list[str]], library: str
) -> None:
    for name, expected in (
        (WWW, [True, True]),
        ("alias.example.com", [True, True]),
        ("v4only.example.com", [True, False]),
        ("v6only.example.com", [False, True]),
        ("nothing.example.com", [False, False]),
    ):
        text = way.app.run([*libraries[library], name], check=False).stdout
        found = {ip_address(one) for one in re.findall(r"^[0-9a-f:.]+(?=\s)", text, re.MULTILINE)}
        assert [any(one in pool for one in found) for pool in (POOL4, POOL6)] == expected, name
        assert all(one in POOL4 or one in POOL6 for one in found), name


def test_static_names_are_told_both_ways_and_connected(way: Way) -> None:
    services.web(way.lab, way.lab.target)
    for url in ("http://db.corp.test:5432/", "http://six.corp.test/"):
        page = way.app.run(["curl", "--silent", "--show-error", "--fail", url]).stdout
        assert page == "hello from the lab\n"
    virtual = way.app.run(["dig", "+short", "db.corp.test"]).stdout.strip()
    assert ip_address(virtual) in POOL4
    for address in (virtual, TARGET.v4):
        assert way.app.run(["dig", "+short", "-x", address]).stdout == "db.corp.test.\n"
    assert way.app.run(["dig", "+short", "db.corp.test", "MX"]).stdout == ""
    assert "corp.test" not in way.names.stdout


TRAMPLED = [
    "nameserver 192.0.2.53",
    "nameserver 203.0.113.77\noptions use-vc",
    "nameserver 2001:db8:99::53\nsearch example.com",
    "nameserver 127.0.0.53\noptions edns0 trust-ad",
]


@contextmanager
def stub(way: Way) -> Iterator[None]:
    """Be a resolver at 127.0.0.53 that asks the gate through its device, as systemd-resolved."""
    here = way.app.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    here.bind(("127.0.0.53", 53))
    there = datagrams(way.app, GATEWAY4)
    there.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"ovpn0")

    def serve() -> None:
        with suppress(OSError):
            question, asker = here.recvfrom(4096)
            while question:
                there.send(question)
                here.sendto(there.recv(4096), asker)
                question, asker = here.recvfrom(4096)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with here, there, datagrams(way.app, "127.0.0.53") as last:
            last.send(b"")
            thread.join()


@pytest.mark.fidelity(
    "resolv.conf trample detection", cell="◐ not needed: a trample changes nothing"
)
def test_whatever_becomes_of_resolv_conf_names_are_the_tunnels(way: Way) -> None:
    conf = way.lab.app.path("/etc/resolv.conf")
    before, captured = conf.read_text(), len(way.lab.outer.read())
    with stub(way):
        for text in TRAMPLED:
            conf.write_text(f"{text}\n")
            for name, family in (("v4only.example.com", POOL4), ("v6only.example.com", POOL6)):
                said = way.app.run(["getent", "ahosts", name]).stdout.split()
                assert ip_address(said[0]) in family, text
    conf.write_text(before)
    assert leaks(way.lab.outer.read()[captured:], [way.endpoint.flow]) == []
