"""Worlds, and what is asked in them: plain data, in the words of users and not of the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

NAMES4 = "198.18.0."
NAMES6 = "fd6f:7670:6e00::"


@dataclass(frozen=True, kw_only=True)
class Packet:
    """A packet of the captured side, as hexadecimal text; `length` is said where it was cut off."""

    hex: str
    time_ns: int
    is_outgoing: bool = True
    name: str = ""
    dropped: int = 0
    length: int = 0


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """What a client was told, what has become of it, and what goes through it."""

    target: str = "alice@vpn.example.net"
    routes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    dns: str = ""
    dns_server: str | None = None
    kill_switch: bool = False
    lan: bool = True
    allow: tuple[str, ...] = ()
    """Of a run, as are the next two."""
    deny: tuple[str, ...] = ()
    host_loopback: bool = False
    is_our_server: bool = True
    server_addresses: tuple[str, ...] = ("198.51.100.2",)

    state: str = "connected"
    lost: str = ""
    """Why there is no session any more."""
    attempts: int = 0
    retry_in_s: int = 0
    uptime_s: int = 3723
    counters: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    resolved: tuple[str, str] = ("absent", "")
    """What the resolver of this machine has made of it, and its error."""
    network_manager: tuple[str, str] = ("absent", "")

    flows: tuple[Mapping[str, Any], ...] = ()
    packets: tuple[Packet, ...] = ()
    after_packets: str = ""
    """`end` if the tunnel ends then, `interrupt` if the user does."""
    is_captured_already: bool = False
    virtual: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The virtual addresses that names have or would have."""
    assigned: tuple[str, ...] = ()
    pool: tuple[int, int, int] = (65536, 0, 0)
    """How many addresses there are, are used, and are held by flows."""
    is_gate_silent: bool = False
    far: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    """What the far end knows of a name: lines of a zone file, or `SERVFAIL`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command in a network of its own."""

    id: str
    pid: int
    command: tuple[str, ...]
    age_s: int
    tunnel: Tunnel = Tunnel()
    is_embedded: bool = False


@dataclass(frozen=True, kw_only=True)
class World:
    """A machine. `kernel` says whose routes it has."""

    up: Tunnel | None = None
    runs: tuple[Run, ...] = ()
    left: str = ""
    """What is there in place of a client: `blocked`, `silent`, `gone`."""
    killed_runs: tuple[str, ...] = ()
    is_strangers: bool = False
    """Whether the client is that of another user."""
    kernel: str = "tunnel"
    resolver: str = "192.0.2.53"
    """Whom the applications ask first."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`steps` are command lines; `@wait` lets seconds pass. FILE is a file for captured packets."""

    world: World
    steps: tuple[str, ...]


# What the kernel says. Of a table the first line that fits decides, as its routes are sorted.

_OURS: Final = {"origin": 118, "table": 7200}
_MARKED: Final = {"priority": 7200, "mark": 0x6F76706E, "mark_mask": 0xFFFFFFFF, "goto": 7220}
_RULES: Final = (
    {"priority": 0, "table": 255, "origin": 2},
    {**_MARKED, "origin": 118},
    {"priority": 7201, "ports": (53, 53), "protocol": 6, **_OURS},
    {"priority": 7202, "destination": "198.18.0.0/15", **_OURS},
    {"priority": 7202, "destination": "fd6f:7670:6e00::/64", **_OURS},
    {"priority": 7203, "source": "198.18.0.2/32", **_OURS},
    {"priority": 7203, "source": "fd6f:7670:6e00::2/128", **_OURS},
    {"priority": 7203, "source": "0.0.0.0/32", "goto": 7210, "origin": 118},
    {"priority": 7204, "source": "0.0.0.0/0", "incoming": "lo", "goto": 7220, "origin": 118},
    {"priority": 7204, "source": "::/1", "incoming": "lo", "goto": 7220, "origin": 118},
    {"priority": 7204, "source": "8000::/1", "incoming": "lo", "goto": 7220, "origin": 118},
    {"priority": 7210, "is_nothing": True, "origin": 118},
)
_MACHINES: Final = (
    {"priority": 7220, "is_nothing": True, "origin": 118},
    {"priority": 32766, "table": 254, "origin": 2},
    {"priority": 32767, "table": 253, "origin": 2},
)
_EVERYTHING: Final = (
    {"priority": 7212, "table": 254, "suppresses": 0, "origin": 118},
    {"priority": 7213, **_OURS},
)

_BELOW: Final = (
    "10.0.0.7/32 kind=local table=255 device=lo source=10.0.0.7",
    "10.0.0.0/24 table=254 device=eth0 source=10.0.0.7",
    "172.20.0.0/16 table=254 device=br0 gateway=10.0.0.9 source=10.0.0.7",
    "127.0.0.0/8 kind=local table=255 device=lo source=127.0.0.1",
    "::1/128 kind=local table=255 device=lo source=::1",
    "198.51.100.66/32 error=ENETUNREACH",
    "203.0.113.66/32 error=EHOSTUNREACH",
)
_DEFAULT: Final = (
    "0.0.0.0/0 table=254 device=eth0 gateway=10.0.0.1 source=10.0.0.7",
    "::/0 table=254 device=eth0 gateway=fe80::1 source=2001:db8:1::7",
)
_CAPTURED: Final = (
    "198.18.0.2/32 kind=local table=255 device=ovpn0 source=198.18.0.2",
    "0.0.0.0/0 port=53 table=7200 device=ovpn0 source=198.18.0.2",
    "198.18.0.0/15 to=0.0.0.0/0 table=7200 device=ovpn0 source=198.18.0.2",
    "fd6f:7670:6e00::/64 to=::/0 table=7200 device=ovpn0 source=fd6f:7670:6e00::2",
    "255.255.255.255/32 kind=broadcast table=7200 device=ovpn0 source=198.18.0.2",
)
_INTO: Final = (
    "0.0.0.0/0 table=7200 device=ovpn0 source=198.18.0.2",
    "::/0 table=7200 device=ovpn0 source=fd6f:7670:6e00::2",
)

KERNELS: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "tunnel": {
        "rules": (*_RULES, *_EVERYTHING, *_MACHINES),
        "marked": (*_BELOW, *_DEFAULT),
        "routes": (*_CAPTURED, *_BELOW, *_INTO),
    },
    "split": {
        "rules": (
            *_RULES,
            {"priority": 7211, "destination": "10.9.0.0/16", **_OURS},
            *_MACHINES,
        ),
        "marked": (*_BELOW, *_DEFAULT),
        "routes": (
            *_CAPTURED,
            *_BELOW,
            "10.9.0.0/16 to=0.0.0.0/0 table=7200 device=ovpn0 source=198.18.0.2",
            *_DEFAULT,
        ),
    },
    "plain": {
        "rules": ({"priority": 0, "table": 255, "origin": 2}, *_MACHINES[1:]),
        "marked": (*_BELOW, *_DEFAULT),
        "routes": (*_BELOW, *_DEFAULT),
    },
    "unclear": {
        "rules": (
            {"priority": 0, "table": 255, "origin": 2},
            {"priority": 5, "table": 254, "is_unclear": True},
            *_MACHINES,
        ),
        "marked": (*_BELOW, *_DEFAULT),
        "routes": (*_BELOW, *_DEFAULT),
    },
    "none": {
        "rules": (),
        "marked": (),
        "routes": ("0.0.0.0/0 error=ENETUNREACH", "::/0 error=ENETUNREACH"),
    },
}

# Names as programs get them without the tunnel.

OUTSIDE: Final = {
    "www.example.com": ("93.184.216.34", "2001:db8:2::34"),
    "printer.home.arpa": ("10.0.0.20",),
}

# What resolvers answer to `dns query`, by name and type. `over` is what comes over TCP, where the
# datagram was cut short; `bytes` is how much of the message comes.

ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "www.example.org A": {"answers": ["www.example.org 5 A 198.18.0.9"]},
    "WWW.Example.org A": {"answers": ["WWW.Example.org 5 A 198.18.0.9"]},
    "www.example.org AAAA": {"answers": ["www.example.org 5 AAAA fd6f:7670:6e00::9"]},
    "alias.example.org A": {
        "answers": ["alias.example.org 60 CNAME www.example.org", "www.example.org 5 A 198.18.0.9"]
    },
    "alias.example.org AAAA": {"answers": ["alias.example.org 60 CNAME www.example.org"]},
    "example.org MX": {
        "answers": ["example.org 300 MX 10 mail.example.org", "example.org 300 MX 20 b.example.net"]
    },
    "example.org TXT": {"answers": ['example.org 300 TXT "v=spf1 -all" "a \\"quoted\\" text"']},
    "example.org NS": {"answers": ["example.org 3600 NS ns1.example.org"]},
    "example.org SOA": {
        "answers": ["example.org 3600 SOA ns1.example.org admin.example.org 1 7200 3600 86400 300"]
    },
    "_ssh._tcp.example.org SRV": {
        "answers": ["_ssh._tcp.example.org 60 SRV 0 5 22 host.example.org"]
    },
    "example.org CAA": {"answers": ['example.org 60 CAA 0 issue "ca.example.net"']},
    "example.org HTTPS": {"raw": [("example.org", 60, 65, "0001000001000302683200")]},
    "example.org TYPE65280": {"raw": [("example.org", 60, 65280, "c0ffee")]},
    "example.org ANY": {"raw": [("example.org", 60, 13, "0752464338343832" + "00")]},
    "9.0.18.198.in-addr.arpa PTR": {"answers": ["9.0.18.198.in-addr.arpa 5 PTR www.example.org"]},
    "hostile.example.org TXT": {"raw": [("hostile.example.org", 60, 16, "051b5b324a0a")]},
    "bad.example.org A": {"raw": [("bad.example.org", 60, 1, "0102")]},
    "none.example.org A": {
        "rcode": 3,
        "authority": [
            "example.org 300 SOA ns1.example.org admin.example.org 1 7200 3600 86400 300"
        ],
    },
    "www.example.org LOC": {
        "authority": ["example.org 300 SOA ns1.example.org admin.example.org 1 7200 3600 86400 300"]
    },
    "broken.example.org A": {"rcode": 2, "why": "the far end has not answered"},
    "denied.example.org A": {"rcode": 5, "why": "a rule forbids it"},
    "odd.example.org A": {"rcode": 11},
    "long.example.org TXT": {
        "is_truncated": True,
        "over": {"answers": ['long.example.org 60 TXT "over TCP"']},
    },
    "lost.example.org TXT": {"is_truncated": True},
    "cut.example.org A": {"answers": ["cut.example.org 60 A 192.0.2.1"], "bytes": 45},
    "db.corp.example A": {"answers": ["db.corp.example 5 A 198.18.0.11"]},
    "www.example.com A": {"answers": ["www.example.com 60 A 93.184.216.34"]},
    "localhost A": {"answers": ["localhost 60 A 127.0.0.1"]},
    "x.onion A": {"rcode": 3},
}

UNREACHABLE: Final = "192.0.2.99"
"""A resolver at whose port nobody listens."""
SILENT: Final = "192.0.2.98"
"""One that does not answer."""

# A client of everyday.

VIRTUAL: Final = {
    "www.example.org": (f"{NAMES4}9", f"{NAMES6}9"),
    "v4only.example.org": (f"{NAMES4}10", f"{NAMES6}10"),
    "db.corp.example": (f"{NAMES4}11", f"{NAMES6}11"),
    "me.example": (f"{NAMES4}12", f"{NAMES6}12"),
    "full.example.org": (),
    "web.denied.example": (f"{NAMES4}14", f"{NAMES6}14"),
}
FAR: Final = {
    "www.example.org": (
        "www.example.org 60 A 192.0.2.9",
        "www.example.org 60 AAAA 2001:db8::9",
    ),
    "v4only.example.org": ("v4only.example.org 60 A 192.0.2.10",),
    "full.example.org": ("full.example.org 60 A 192.0.2.13",),
    "web.denied.example": ("web.denied.example 60 A 192.0.2.14",),
    "nodata.example.org": (),
    "broken.example.org": "SERVFAIL",
}
COUNTERS: Final = {"active": 3, "opened": 27, "refused": 2, "bytes_up": 10240, "bytes_down": 998877}
UP: Final = Tunnel(
    counters=COUNTERS,
    virtual=VIRTUAL,
    assigned=("www.example.org",),
    pool=(65536, 17, 3),
    far=FAR,
)
LOST: Final = replace(
    UP, lost="the server has fallen silent", attempts=3, retry_in_s=7, uptime_s=90
)
SPLIT: Final = replace(
    UP,
    routes=("10.9.0.0/16", "2001:db8:9::/48", "corp.example", "example.org"),
    hosts=("db.corp.example=10.9.0.5:5432", "me.example=198.18.0.1:8080", "v6.example=2001:db8::5"),
)
SWITCH: Final = replace(UP, kill_switch=True)

HOSTILE: Final = "a\x1b]0;owned\x07\x9b2J\nconnected"


def _flow(number: int, **more: object) -> dict[str, object]:
    return {
        "id": f"t{number}",
        "protocol": "tcp",
        "source": "198.18.0.2",
        "source_port": 40000 + number,
        "destination": "www.example.org",
        "destination_port": 443,
        "state": "open",
        "bytes_up": 0,
        "bytes_down": 0,
        "age_s": 0,
        "idle_s": 0,
        "exit": "server",
        **more,
    }


FLOWS: Final = (
    _flow(1, age_s=86400, idle_s=7200, bytes_up=1, bytes_down=12345678901),
    _flow(2, destination="192.0.2.7", destination_port=22, state="opening", age_s=3, idle_s=3),
    _flow(3, state="half-closed-local", bytes_up=517, bytes_down=90),
    _flow(4, state="half-closed-remote", destination="a.very.long.name.of.a.host.example.org"),
    _flow(5, state="closing", source="fd6f:7670:6e00::2", destination="2001:db8::7"),
    _flow(6, destination="me.example", destination_port=8080, exit="loopback", idle_s=1, age_s=60),
    _flow(7, id="u7", protocol="udp", destination="ntp.example.org", destination_port=123),
    _flow(8, id="u8", protocol="udp", destination="2001:db8::53", destination_port=4433, age_s=9),
    _flow(9, source="", source_port=0),
    _flow(1 << 40, source_port=65535),
    _flow(11, destination=HOSTILE),
)
MANY: Final = tuple(_flow(number, bytes_up=number) for number in range(1, 41))

_SECOND: Final = 1_000_000_000
_BEGIN: Final = 1_790_000_000 * _SECOND
PACKETS: Final = (
    Packet(
        hex="45000028000100004006ee9fc6120002c61200099c4001bb00000001000000005002200065b60000",
        time_ns=_BEGIN + 123_456_789,
        name="www.example.org",
    ),
    Packet(
        hex="45000028000200004006ee9ec6120009c612000201bb9c40000000090000000250122000659c0000",
        time_ns=_BEGIN + _SECOND,
        is_outgoing=False,
        name="www.example.org",
    ),
    Packet(
        hex="6000000000190640fd6f76706e0000000000000000000002fd6f76706e0000000000000000000009"
        "9c42005000000001000000015018200065010000474554202f",
        time_ns=_BEGIN + _SECOND + 1000,
        name="v6.example.org",
        dropped=3,
    ),
    Packet(
        hex="45000028000300004006f2b1c6120002c00002079c4300160000000100000001501420006b590000",
        time_ns=_BEGIN + 2 * _SECOND,
    ),
    Packet(
        hex="4500003d000400004011ee84c6120002c6120001c350003500296285000701000001000000000000"
        "03777777076578616d706c65036f72670000010001",
        time_ns=_BEGIN + 3 * _SECOND,
    ),
    Packet(
        hex="4500005c000500004011ee64c6120001c61200020035c3500048bad4000781000001000100000000"
        "03777777076578616d706c65036f7267000001000103777777076578616d706c65036f726700000100"
        "01000000050004c6120009",
        time_ns=_BEGIN + 3 * _SECOND + 999_999_999,
        is_outgoing=False,
    ),
    Packet(
        hex="60000000000d1140fd6f76706e000000000000000000000220010db8000000000000000000000007"
        "c3511151000dd7bc68656c6c6f",
        time_ns=_BEGIN + 4 * _SECOND,
    ),
    Packet(
        hex="45000020000600004001eea7c6120002c61200090800192d0001000170696e67",
        time_ns=_BEGIN + 5 * _SECOND,
        name="www.example.org",
    ),
    Packet(
        hex="45000020000700004001eea6c6120009c61200020000212d0001000170696e67",
        time_ns=_BEGIN + 5 * _SECOND + 20_000_000,
        is_outgoing=False,
        name="www.example.org",
        dropped=1,
    ),
    Packet(
        hex="6000000000083a40fd6f76706e000000000000000000000220010db8000000000000000000000007"
        "8000701800010001",
        time_ns=_BEGIN + 6 * _SECOND,
    ),
    Packet(
        hex="4500001e000800b94011f1f2c6120002c000020772657374206f66206974",
        time_ns=_BEGIN + 7 * _SECOND,
    ),
    Packet(
        hex="4500001800090000402ff292c6120002c000020700000800",
        time_ns=_BEGIN + 8 * _SECOND,
    ),
    Packet(hex="00010203", time_ns=_BEGIN + 9 * _SECOND),
    Packet(
        hex="45000020000600004001eea7c6120002c61200090800192d0001000170696e67",
        time_ns=_BEGIN + 10 * _SECOND,
        length=1500,
        name=HOSTILE,
    ),
)
ALL: Final = len(PACKETS)
CAPTURED: Final = replace(UP, packets=PACKETS)

# Runs.

DENYING: Final = replace(
    UP,
    target="ssh://bob@host.example.net:2222",
    allow=("*.example.org:1-1023", "10.0.0.0/8", "me.example"),
    deny=("*.denied.example", "192.0.2.0/24"),
    host_loopback=True,
    hosts=("me.example=198.18.0.1:8080",),
    flows=FLOWS[:2],
    packets=PACKETS[:2],
)
RUNS: Final = (
    Run(id="quiet-otter", pid=4712, command=("pytest", "-k", "a b"), age_s=86500, tunnel=DENYING),
    Run(id="brave-lynx", pid=93, command=("sh", "-c", "echo 'x'; sleep 1"), age_s=3, tunnel=UP),
    Run(id="new-one", pid=1234567, command=("true",), age_s=0, is_embedded=True),
)


def _both(*lines: str) -> tuple[str, ...]:
    return tuple(one for line in lines for one in (line, f"{line} --json"))


def _routes(*destinations: str) -> tuple[str, ...]:
    return _both(*(f"route get {destination}" for destination in destinations))


STATUS: Final = _both("status")
NOT_UP: Final = (
    *_both("flows"),
    "flows --kill t1",
    *_both("dns status", "dns query www.example.org", "route get 192.0.2.1:443"),
    "capture",
    "pause --for 5m",
)

SCENARIOS: Final[dict[str, Scenario]] = {
    "status-down": Scenario(
        world=World(kernel="plain"), steps=(*STATUS, "list", "list --json", *NOT_UP, "down")
    ),
    "status-blocked": Scenario(
        world=World(left="blocked", kernel="none"), steps=(*STATUS, *NOT_UP)
    ),
    "status-run": Scenario(world=World(runs=RUNS, kernel="plain"), steps=STATUS),
    "status-connecting": Scenario(
        world=World(up=replace(UP, state="connecting", uptime_s=2)), steps=(*STATUS, *NOT_UP)
    ),
    "status-connected": Scenario(world=World(up=UP), steps=STATUS),
    "status-plain-sshd": Scenario(
        world=World(
            up=Tunnel(
                target="ssh://root@[2001:db8::22]",
                is_our_server=False,
                routes=("0.0.0.0/0", "::/0", "corp.example"),
                missing=("landlock", "seccomp"),
                uptime_s=0,
            )
        ),
        steps=STATUS,
    ),
    "status-split": Scenario(world=World(up=SPLIT), steps=STATUS),
    "status-warnings": Scenario(
        world=World(
            up=replace(
                UP,
                missing=("landlock", "seccomp"),
                resolved=("refused", "org.freedesktop.DBus.Error.AccessDenied"),
                network_manager=("silent", ""),
                dropped={"checksum": 4, "late-echo": 1, "syn-limit": 70000},
            )
        ),
        steps=STATUS,
    ),
    "status-more-warnings": Scenario(
        world=World(
            up=replace(UP, resolved=("silent", ""), network_manager=("failed", HOSTILE), lan=False)
        ),
        steps=STATUS,
    ),
    "status-switch": Scenario(
        world=World(up=SWITCH),
        steps=(
            *STATUS,
            "pause --for 90s",
            *STATUS,
            "@wait 30",
            "status",
            *_both("dns status", "dns query www.example.com", "route get 192.0.2.1:443"),
            "pause --for 0s",
            "status",
            "pause --for 2h",
        ),
    ),
    "status-switch-without-lan": Scenario(world=World(up=replace(SWITCH, lan=False)), steps=STATUS),
    "status-reconnecting": Scenario(world=World(up=LOST), steps=STATUS),
    "status-trying-now": Scenario(world=World(up=replace(LOST, retry_in_s=0)), steps=STATUS),
    "status-lost-by-hostile": Scenario(world=World(up=replace(LOST, lost=HOSTILE)), steps=STATUS),
    "status-closing": Scenario(world=World(up=replace(UP, state="closing")), steps=STATUS),
    "status-stranger": Scenario(
        world=World(up=UP, is_strangers=True), steps=(*STATUS, *NOT_UP, "down")
    ),
    "status-silent": Scenario(world=World(left="silent"), steps=(*STATUS, *NOT_UP)),
    "status-gone": Scenario(world=World(left="gone"), steps=(*STATUS, *NOT_UP)),
    "flows": Scenario(
        world=World(up=replace(UP, flows=FLOWS)),
        steps=(
            *_both("flows"),
            "flows --kill t2",
            "flows",
            "flows --kill t2",
            "flows --kill u7",
            "flows --kill ''",
            "flows --kill 'no such\x1b[2J'",
            "flows --kill t1 --json",
            f"flows --kill {'t' * 1100}",
        ),
    ),
    "flows-none": Scenario(world=World(up=UP), steps=(*_both("flows"), "flows --kill t1")),
    "flows-many": Scenario(world=World(up=replace(UP, flows=MANY)), steps=_both("flows")),
    "flows-run": Scenario(
        world=World(runs=RUNS, kernel="plain"),
        steps=(
            *_both("flows --run quiet-otter", "flows --run brave-lynx", "flows --run none"),
            "flows --run quiet-otter --kill t1",
            "flows --run quiet-otter --kill t77",
        ),
    ),
    "list": Scenario(
        world=World(up=UP, runs=RUNS, killed_runs=("dead-moth",)),
        steps=(*_both("list"), "@wait 100", "list"),
    ),
    "list-killed": Scenario(world=World(killed_runs=("dead-moth",)), steps=_both("list")),
    "route": Scenario(
        world=World(up=UP),
        steps=(
            *_routes(
                "www.example.org:443",
                "v4only.example.org",
                "192.0.2.7:80",
                "192.0.2.7",
                "[2001:db8::7]:443",
                "198.18.0.9:443",
                "198.18.0.77:443",
                "198.18.0.1",
                "198.18.0.1:53",
                "192.0.2.7:53",
                "10.0.0.7:22",
                "10.0.0.20:631",
                "172.20.1.1:80",
                "127.0.0.1:8080",
                "198.51.100.2:4422",
                "198.51.100.66:1",
                "203.0.113.66:1",
                "255.255.255.255",
                "224.0.0.251:5353",
                "localhost:80",
                "ipv4only.arpa",
                "x.onion:80",
                "none.example.org:80",
                "nodata.example.org:80",
                "broken.example.org:80",
                "full.example.org:80",
            ),
            "@wait 20",
            *_routes("www.example.org:443"),
            "@wait 100",
            "route get WWW.Example.Org.:443",
            "route get 'a b'",
            "route get a.b:0",
            "route get",
            "route",
        ),
    ),
    "route-plain-sshd": Scenario(
        world=World(up=replace(UP, is_our_server=False, target="ssh://bob@[2001:db8::22]:2222")),
        steps=_routes("www.example.org:443", "www.example.org", "192.0.2.7:443", "192.0.2.7"),
    ),
    "route-split": Scenario(
        world=World(up=SPLIT, kernel="split"),
        steps=_routes(
            "10.9.3.4:443",
            "192.0.2.7:80",
            "www.example.com:443",
            "unknown.example.com:443",
            "www.example.org:443",
            "db.corp.example:5432",
            "db.corp.example:1",
            "me.example:80",
            "printer.home.arpa:631",
        ),
    ),
    "route-without-names": Scenario(
        world=World(up=replace(UP, routes=("10.9.0.0/16",)), kernel="split"),
        steps=_routes("www.example.com:443", "10.9.3.4:443"),
    ),
    "route-reconnecting": Scenario(
        world=World(up=LOST),
        steps=_routes("192.0.2.7:80", "www.example.org:443", "198.18.0.9:443", "10.0.0.20:631"),
    ),
    "route-trying-now": Scenario(
        world=World(up=replace(LOST, retry_in_s=0)), steps=_routes("192.0.2.7:80")
    ),
    "route-switch": Scenario(
        world=World(up=SWITCH, kernel="plain"),
        steps=(
            *_routes("192.0.2.7:80", "10.0.0.20:631", "198.51.100.66:1", "[2001:db8::7]:443"),
            "pause --for 5m",
            *_routes("192.0.2.7:80", "198.51.100.66:1"),
        ),
    ),
    "route-switch-without-lan": Scenario(
        world=World(up=replace(SWITCH, lan=False), kernel="plain"),
        steps=_routes("10.0.0.20:631"),
    ),
    "route-blocked": Scenario(
        world=World(left="blocked", kernel="none"),
        steps=_routes("192.0.2.7:80", "www.example.com:443"),
    ),
    "route-down": Scenario(
        world=World(kernel="plain"),
        steps=_routes(
            "192.0.2.7", "10.0.0.7", "www.example.com:443", "unknown.example.com", "198.51.100.66"
        ),
    ),
    "route-unclear": Scenario(world=World(kernel="unclear"), steps=_routes("192.0.2.7:80")),
    "route-run": Scenario(
        world=World(runs=RUNS),
        steps=(
            *_routes(
                "--run quiet-otter www.example.org:443",
                "--run quiet-otter www.example.org:8443",
                "--run quiet-otter web.denied.example:443",
                "--run quiet-otter 192.0.2.7:80",
                "--run quiet-otter 203.0.113.7:80",
                "--run quiet-otter 10.1.2.3",
                "--run quiet-otter me.example:1",
                "--run brave-lynx www.example.org:443",
                "--run new-one 203.0.113.7:80",
            ),
            "route get --run none 192.0.2.7:80",
        ),
    ),
    "route-gate-silent": Scenario(
        world=World(up=replace(UP, is_gate_silent=True)),
        steps=_routes("www.example.org:443", "198.18.0.9:443"),
    ),
    "dns": Scenario(
        world=World(up=UP),
        steps=(
            *_both(
                "dns status",
                "dns query www.example.org",
                "dns query WWW.Example.org. a",
                "dns query www.example.org AAAA",
                "dns query alias.example.org",
                "dns query alias.example.org AAAA",
                "dns query example.org MX",
                "dns query example.org TXT",
                "dns query example.org NS",
                "dns query example.org SOA",
                "dns query _ssh._tcp.example.org SRV",
                "dns query example.org CAA",
                "dns query example.org HTTPS",
                "dns query example.org TYPE65280",
                "dns query example.org ANY",
                "dns query 9.0.18.198.in-addr.arpa PTR",
                "dns query hostile.example.org TXT",
                "dns query bad.example.org",
                "dns query none.example.org",
                "dns query www.example.org LOC",
                "dns query broken.example.org",
                "dns query denied.example.org",
                "dns query odd.example.org",
                "dns query long.example.org TXT",
                "dns query lost.example.org TXT",
                "dns query cut.example.org",
                "dns query localhost",
                "dns query x.onion",
            ),
            # Someone has asked for a name, so the far end's answer is kept for a while.
            "route get www.example.org:443",
            "@wait 20",
            *_both("dns query www.example.org", "dns status"),
            "dns query a..b",
            "dns query www.example.org NONE",
            "dns query www.example.org TYPE0",
            "dns query",
            "dns",
        ),
    ),
    "dns-split": Scenario(
        world=World(up=replace(SPLIT, resolved=("done", "")), kernel="split"),
        steps=_both(
            "dns status",
            "dns query www.example.org",
            "dns query www.example.com",
            "dns query db.corp.example",
        ),
    ),
    "dns-of-loopback": Scenario(
        world=World(up=SPLIT, kernel="split", resolver="127.0.0.53"),
        steps=_both("dns query www.example.org", "dns query www.example.com"),
    ),
    "dns-unreachable": Scenario(
        world=World(up=UP, resolver=UNREACHABLE), steps=_both("dns query www.example.org")
    ),
    "dns-silent": Scenario(
        world=World(up=UP, resolver=SILENT), steps=_both("dns query www.example.org")
    ),
    "dns-without-names": Scenario(
        world=World(up=replace(UP, routes=("10.9.0.0/16",)), kernel="split"),
        steps=_both("dns status", "dns query www.example.com"),
    ),
    "dns-virtual": Scenario(
        world=World(up=replace(UP, dns="virtual")),
        steps=_both("dns status", "dns query www.example.org", "dns query example.org MX"),
    ),
    "dns-server": Scenario(
        world=World(up=replace(UP, dns_server="192.0.2.54", is_our_server=False)),
        steps=_both("dns status", "dns query www.example.org"),
    ),
    "dns-reconnecting": Scenario(
        world=World(up=LOST), steps=_both("dns status", "dns query www.example.org")
    ),
    "dns-warnings": Scenario(
        world=World(
            up=replace(
                UP,
                resolved=("failed", "org.example.Error"),
                network_manager=("refused", ""),
                is_gate_silent=True,
            )
        ),
        steps=_both("dns status"),
    ),
    "dns-run": Scenario(
        world=World(runs=RUNS, kernel="tunnel"),
        steps=(
            *_both(
                "dns status --run quiet-otter",
                "dns status --run new-one",
                "dns query --run quiet-otter www.example.org",
                "dns query --run quiet-otter www.example.com",
                "dns query --run brave-lynx www.example.org",
            ),
            "dns status --run none",
            "dns query --run none www.example.org",
        ),
    ),
    "capture-text": Scenario(
        world=World(up=CAPTURED),
        steps=(
            f"capture -c {ALL}",
            "capture -c 1",
            "capture -c 4 tcp",
            "capture -c 2 udp",
            "capture -c 2 dns",
            "capture -c 3 icmp",
            "capture -c 2 port 443",
            "capture -c 3 host www.example.org",
            "capture -c 2 host 2001:db8::/32",
            "capture -c 1 'host 192.0.2.7 and tcp'",
            "capture -c 1 tcp and port 80",
            "capture nonsense",
            "capture host a..b",
            "capture port 0",
            "capture tcp udp",
            "capture -c 0",
        ),
    ),
    "capture-file": Scenario(
        world=World(up=CAPTURED),
        steps=(
            f"capture -w FILE -c {ALL}",
            "capture -w FILE -c 3 icmp",
            "capture -w - -c 2 dns",
            "capture -w /nowhere/at/all.pcapng -c 1",
        ),
    ),
    "capture-ends": Scenario(
        world=World(up=replace(CAPTURED, after_packets="end")),
        steps=("capture", "capture tcp", "capture -w FILE"),
    ),
    "capture-interrupted": Scenario(
        world=World(up=replace(CAPTURED, after_packets="interrupt")),
        steps=("capture tcp", "capture -w FILE udp"),
    ),
    "capture-busy": Scenario(
        world=World(up=replace(CAPTURED, is_captured_already=True)),
        steps=("capture", "capture -w FILE"),
    ),
    "capture-run": Scenario(
        world=World(runs=RUNS, kernel="plain"),
        steps=(
            "capture --run quiet-otter -c 2",
            "capture --run quiet-otter -c 2 -w FILE",
            "capture --run none",
        ),
    ),
}
