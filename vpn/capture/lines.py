"""A captured packet as a line of text. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from vpn.capture.headers import ICMP, ICMPV6, TCP, UDP, Headers
from vpn.endpoint import join_host_port

_PROTOCOLS: Final = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
_FLAGS: Final = "FSRP.UEW"
"""FIN, SYN, RST, PSH, ACK, URG, ECE, CWR (RFC 9293 §3.1), as tcpdump writes them."""


def line(time: datetime, headers: Headers | None, length: int, name: str, *, out: bool) -> str:
    """Return time, protocol, ends, particulars and length of a packet.

    `name` is that of the far end, which is the destination of a packet that goes `out`.
    """
    clock = time.strftime("%H:%M:%S.%f")
    if headers is None:
        return f"{clock} not an IP packet, length {length}"
    protocol = _PROTOCOLS.get(headers.protocol, f"protocol {headers.protocol}")
    near, far = ("", name) if out else (name, "")
    source = _end(near or str(headers.source), headers.source_port)
    destination = _end(far or str(headers.destination), headers.destination_port)
    words = [clock, protocol, source, ">", f"{destination}:", *_particulars(headers)]
    return " ".join([*words, f"length {headers.length}"])


def _end(host: str, port: int) -> str:
    return join_host_port(host, port) if port else host


def _particulars(headers: Headers) -> list[str]:
    if headers.is_fragment:
        return ["fragment,"]
    if headers.protocol == TCP:
        flags = "".join(one for bit, one in enumerate(_FLAGS) if headers.flags & 1 << bit)
        return [f"[{flags}],"]
    if headers.protocol in (ICMP, ICMPV6):
        return [f"type {headers.kind} code {headers.code},"]
    return []
