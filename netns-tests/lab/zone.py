"""The authoritative DNS server of the lab; a program that prints each question it gets.

`zone.py ADDRESS… <ZONE` serves a zone over UDP and TCP on port 53 of each address. Names in the
zone that lack the type asked for get an empty answer, other names NXDOMAIN with the SOA. As real
ones do, it adds the addresses of what MX, NS and SRV records name, and cuts what is too long for a
datagram. A name that begins with `slow` is answered after half a second, one that begins with `new`
does not exist when it is first asked for. Names below `PRANKS` are answered as `pranks.py` says.
Unlike the product, it trusts dnslib with what comes: only the lab's own programs ask it.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import defaultdict

from dnslib import CNAME, QTYPE, RCODE, RR, DNSLabel, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSServer, TCPServer, UDPServer

from lab.pranks import PRANKS, Octets, prank

SLOW_S = 0.2
MAX_UDP = 512


class Zone(BaseResolver):  # type: ignore[misc]
    """Answers from the records of a zone file."""

    def __init__(self, text: str) -> None:
        self.records: dict[DNSLabel, list[RR]] = defaultdict(list)
        self.soa: list[RR] = []
        self.seen: set[tuple[DNSLabel, str]] = set()
        for record in RR.fromZone(text):
            self.records[record.rname].append(record)
            if record.rtype == QTYPE.SOA:
                self.soa.append(record)

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord | Octets:
        """Answer one question; follows aliases inside the zone (RFC 1034 section 4.3.2)."""
        kind, name = QTYPE[request.q.qtype], request.q.qname
        print(f"asked {kind} {name}", flush=True)
        if name.matchSuffix(PRANKS):
            return prank(request, over_tcp=handler.protocol == "tcp")
        first = bytes(name.label[0]) if name.label else b""
        if first.startswith(b"slow"):
            time.sleep(SLOW_S)
        is_new = first.startswith(b"new") and (name, kind) not in self.seen
        self.seen.add((name, kind))
        reply = request.reply()
        reply.header.aa = 1
        wanted = [] if is_new else self.records.get(name, [])
        while kind != "CNAME" and (alias := [r for r in wanted if r.rtype == QTYPE.CNAME]):
            reply.add_answer(*alias)
            wanted = self.records.get(CNAME(alias[0].rdata.label).label, [])
        found = [one for one in wanted if QTYPE[one.rtype] == kind]
        reply.add_answer(*found)
        if not wanted:
            reply.header.rcode = RCODE.NXDOMAIN
        if not found:
            reply.add_auth(*self.soa)
        self._add_addresses(reply)
        if handler.protocol == "udp" and len(reply.pack()) > MAX_UDP:
            reply = request.reply()
            reply.header.tc = 1
        return reply

    def _add_addresses(self, reply: DNSRecord) -> None:
        named = [
            getattr(one.rdata, "target", None) or one.rdata.label
            for one in reply.rr
            if one.rtype in (QTYPE.MX, QTYPE.NS, QTYPE.SRV)
        ]
        addresses = (QTYPE.A, QTYPE.AAAA)
        found = [record for name in dict.fromkeys(named) for record in self.records.get(name, [])]
        reply.add_ar(*(record for record in found if record.rtype in addresses))


class _Tcp(TCPServer):  # type: ignore[misc]
    request_queue_size = 1024


class _Udp6(UDPServer):  # type: ignore[misc]
    address_family = socket.AF_INET6


class _Tcp6(_Tcp):
    address_family = socket.AF_INET6


def main() -> None:
    """Serve until a signal ends the program."""
    zone = Zone(sys.stdin.read())
    for address in sys.argv[1:]:
        for server in (_Udp6, _Tcp6) if ":" in address else (UDPServer, _Tcp):
            DNSServer(zone, address, 53, server=server, logger=_Silent()).start_thread()
    print("ready", flush=True)
    threading.Event().wait()


class _Silent:
    def __getattr__(self, name: str) -> object:
        return lambda *_: None


if __name__ == "__main__":
    main()
