"""X5: paths of every size carry everything, and one that drops large packets in silence does too.

app ──── router ──── server ──── target      the link of the router to the server is the path

The *hole*: the router drops every packet larger than 1 280 bytes and tells nobody, as a firewall
does that drops ICMP. It is dug before the session begins, or in the middle of a transfer.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import dnslib
import pytest

from lab import Host, Lab, ask, services, tcp
from lab.addresses import SERVER, TARGET
from lab.overlay import Overlay

BULK = 4_000_000
LARGEST_DATAGRAM = 65_507
STALL_S = 3.0
"""X5: what a hole may cost."""

_HOLE = """
table inet hole {
    chain forward {
        type filter hook forward priority -10;
        meta length > 1280 counter drop
    }
}
"""

TRANSPORTS = pytest.mark.parametrize("transport", ["quic", "ssh"])


@pytest.fixture
def zone(lab: Lab) -> None:
    services.names(lab.target)


def dig(lab: Lab) -> None:
    """Dig the hole, for packets as they are on a wire: not many in one, as between veth ends."""
    for host, device in ((lab.app, "eth0"), (lab.server, "to-router")):
        host.run(["ip", "link", "set", device, "gso_max_segs", "1"])
    lab.router.run(["nft", "-f", "-"], stdin=_HOLE)


def fill(lab: Lab) -> None:
    """Fill it in again."""
    lab.router.run(["nft", "delete", "table", "inet", "hole"])
    for host, device in ((lab.app, "eth0"), (lab.server, "to-router")):
        host.run(["ip", "link", "set", device, "gso_max_segs", "65535"])


def dropped(lab: Lab) -> int:
    """Count the packets that fell in."""
    rules = lab.router.run(["nft", "list", "table", "inet", "hole"]).stdout
    return int(rules.partition("counter packets ")[2].split()[0])


def size_links(lab: Lab, mtu: int) -> None:
    """Give the app's own link another size than it was built with."""
    for host, device in ((lab.app, "eth0"), (lab.router, "to-app")):
        host.run(["ip", "link", "set", device, "mtu", str(mtu)])


def bring_up(overlay: Overlay, transport: str, address: str = SERVER.v4) -> None:
    if transport == "quic":
        overlay.up(overlay.serve(address=address))
    else:
        overlay.up(overlay.serve_ssh(address=address), "--dns-server", TARGET.v4)


@dataclass
class Arrived:
    """A transfer as its receiver saw it: whether it is whole, and its longest silence."""

    is_equal: bool
    silence_s: float


def transfer(sender: socket.socket, receiver: socket.socket, count: int) -> Arrived:
    """Send `count` bytes and see them arrive."""
    data = hashlib.shake_256(b"path").digest(count)
    worker = threading.Thread(target=sender.sendall, args=(data,), daemon=True)
    sender.settimeout(60)
    receiver.settimeout(60)
    got, left, silence_s = hashlib.sha256(), count, 0.0
    last_s = time.monotonic()
    worker.start()
    while left:
        part = receiver.recv(min(left, 1 << 16))
        assert part, f"ended {left} bytes early"
        now_s = time.monotonic()
        silence_s, last_s = max(silence_s, now_s - last_s), now_s
        got.update(part)
        left -= len(part)
    worker.join()
    return Arrived(got.digest() == hashlib.sha256(data).digest(), silence_s)


def both_ways(near: socket.socket, far: socket.socket, count: int) -> float:
    """Transfer up and down, equal at the end; return the longest silence in seconds."""
    found = [transfer(near, far, count), transfer(far, near, count)]
    assert all(one.is_equal for one in found)
    return max(one.silence_s for one in found)


def echoed(lab: Lab, address: str, size: int, host: Host | None = None) -> int:
    """Send a datagram of a host, the app, to the target and back; return its size, if equal."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    far = lab.target.call(socket.socket, family, socket.SOCK_DGRAM)
    near = (host or lab.app).call(socket.socket, family, socket.SOCK_DGRAM)
    with near, far:
        far.bind((address, 0))
        far.settimeout(20)
        data = hashlib.shake_256(b"datagram").digest(size)
        near.sendto(data, far.getsockname()[:2])
        seen, sender = far.recvfrom(65535)
        assert seen == data
        back = b""
        near.settimeout(4)
        for _ in range(5):  # one that was too large for a link on the way is lost
            far.sendto(seen, sender)
            with suppress(TimeoutError):
                back = near.recv(65535)
                break
        assert back == data
    return len(back)


def everything_works(lab: Lab, transport: str) -> None:
    """Much data both ways over both families, names, and (over our server) datagrams."""
    for address in TARGET:
        near, far = tcp.pair(lab.app, lab.target, address)
        with near, far:
            both_ways(near, far, BULK)
        if transport == "quic":
            for size in (1, 1200, 1500, 9000, LARGEST_DATAGRAM):
                assert echoed(lab, address, size) == size
    with ask.datagrams(lab.app, TARGET.v4) as resolver:
        answer = ask.hear(resolver, ask.query("www.example.com"))
        assert answer.header.rcode == dnslib.RCODE.NOERROR
        assert len(answer.rr) == 1


@pytest.mark.fidelity("PMTU safe (TCP terminated locally)")
@TRANSPORTS
@pytest.mark.parametrize(
    "mtu",
    [pytest.param(m, marks=pytest.mark.lab(mtu=m, capture=False)) for m in (1280, 1500, 9000)],
)
def test_path_of_any_size(lab: Lab, overlay: Overlay, zone: None, mtu: int, transport: str) -> None:
    size_links(lab, max(mtu, 1500))
    bring_up(overlay, transport)
    everything_works(lab, transport)
    size_links(lab, 1500)


@pytest.mark.lab(direct=True, mtu=1500, capture=False)
def test_hole_swallows_a_plain_kernel_path(lab: Lab) -> None:
    near, far = tcp.pair(lab.app, lab.target, TARGET.v6)
    with near, far:
        both_ways(near, far, 100_000)
        dig(lab)
        # What fits passes: the hole is no wall.
        far.sendall(b"small")
        assert near.recv(1 << 16) == b"small"
        far.sendall(bytes(100_000))
        near.settimeout(STALL_S + 1)
        # For good: not even the first of them comes.
        with pytest.raises(TimeoutError):
            near.recv(1)
        assert dropped(lab) > 0
        fill(lab)
        near.settimeout(60)
        assert near.recv(1) == b"\0"


@pytest.mark.fidelity("PMTU safe (TCP terminated locally)")
@TRANSPORTS
@pytest.mark.lab(mtu=1500, capture=False)
def test_hole_in_the_path_stalls_nothing(
    lab: Lab, overlay: Overlay, zone: None, transport: str
) -> None:
    dig(lab)
    # IPv6 has the larger header, and nobody on the way may fragment it.
    bring_up(overlay, transport, SERVER.v6)
    everything_works(lab, transport)
    fill(lab)
    near, far = tcp.pair(lab.app, lab.target, TARGET.v4)
    with near, far:
        before_s = both_ways(near, far, BULK)
        middle = threading.Timer(0.05, dig, [lab])
        middle.start()
        with_hole_s = both_ways(near, far, BULK)
        middle.join()
        with_hole_s = max(with_hole_s, both_ways(near, far, BULK))
        assert with_hole_s < before_s + STALL_S
    fill(lab)
