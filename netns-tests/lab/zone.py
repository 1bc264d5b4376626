"""The authoritative DNS server of the lab; a program that prints each question it gets.

`zone.py ADDRESS… <ZONE` serves a zone over UDP and TCP on port 53 of each address. Names in the
zone that lack the type asked for get an empty answer, other names NXDOMAIN with the SOA. Unlike
the product, it trusts dnslib with what comes: only the lab's own programs ask it.
"""

from __future__ import annotations

import socket
import sys
import threading

from dnslib import CNAME, QTYPE, RCODE, RR, DNSRecord
from dnslib.server import BaseResolver, DNSServer, TCPServer, UDPServer


class Zone(BaseResolver):  # type: ignore[misc]
    """Answers from the records of a zone file."""

    def __init__(self, text: str) -> None:
        self.records = list(RR.fromZone(text))

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        """Answer one question; follows aliases inside the zone (RFC 1034 section 4.3.2)."""
        kind, name = QTYPE[request.q.qtype], request.q.qname
        print(f"asked {kind} {name}", flush=True)
        reply = request.reply()
        reply.header.aa = 1
        wanted = [one for one in self.records if one.rname == name]
        while alias := [one for one in wanted if one.rtype == QTYPE.CNAME]:
            reply.add_answer(*alias)
            target = CNAME(alias[0].rdata.label).label
            wanted = [one for one in self.records if one.rname == target]
        reply.add_answer(*(one for one in wanted if QTYPE[one.rtype] == kind))
        if not wanted:
            reply.header.rcode = RCODE.NXDOMAIN
        if not reply.rr:
            reply.add_auth(*(one for one in self.records if one.rtype == QTYPE.SOA))
        return reply


class _Udp6(UDPServer):  # type: ignore[misc]
    address_family = socket.AF_INET6


class _Tcp6(TCPServer):  # type: ignore[misc]
    address_family = socket.AF_INET6


def main() -> None:
    """Serve until a signal ends the program."""
    zone = Zone(sys.stdin.read())
    for address in sys.argv[1:]:
        for server in (_Udp6, _Tcp6) if ":" in address else (UDPServer, TCPServer):
            DNSServer(zone, address, 53, server=server, logger=_Silent()).start_thread()
    print("ready", flush=True)
    threading.Event().wait()


class _Silent:
    def __getattr__(self, name: str) -> object:
        return lambda *_: None


if __name__ == "__main__":
    main()
