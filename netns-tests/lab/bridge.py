"""Containers on the app, as docker connects them: a bridge, a veth each, forwarding, NAT or none.

container eth0 ── veth ── br0 app eth0 ── router …
.2                        .1
172.31.0.0/24, fd00:31::/64
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.addresses import APP, ROUTER_OUTSIDE, SERVER_INSIDE, Dual
from lab.host import Host
from lab.topology import Lab

GATEWAY = Dual("172.31.0.1", "fd00:31::1")
CONTAINER = Dual("172.31.0.2", "fd00:31::2")
_NETWORK = Dual("172.31.0.0/24", "fd00:31::/64")
PUBLISHED = 8080
"""A port of the app behind which there is port 80 of the container."""

_LINKS = f"""
ip link add br0 type bridge
ip address add {GATEWAY.v4}/24 dev br0
ip address add {GATEWAY.v6}/64 dev br0 nodad
ip link set br0 up
ip link add to-box type veth peer name eth0 netns "$1"
ip link set to-box master br0 mtu "$2" up
for family in ipv4 ipv6; do echo 1 >/proc/sys/net/$family/conf/all/forwarding; done
"""
_INSIDE = f"""
ip link set lo up
ip link set eth0 mtu "$1" up
ip address add {CONTAINER.v4}/24 dev eth0
ip address add {CONTAINER.v6}/64 dev eth0 nodad
ip route add default via {GATEWAY.v4}
ip route add default via {GATEWAY.v6}
"""
_NAT = f"""
table inet containers {{
    chain postrouting {{
        type nat hook postrouting priority 100;
        ip saddr {_NETWORK.v4} oifname != "br0" masquerade
        ip6 saddr {_NETWORK.v6} oifname != "br0" masquerade
    }}
    chain prerouting {{
        type nat hook prerouting priority -100;
        iifname != "br0" tcp dport {PUBLISHED} fib daddr type local dnat ip to {CONTAINER.v4}:80
    }}
}}
"""
_REMOVE = """
nft delete table inet containers 2>/dev/null || true
ip link delete to-box
ip link delete br0
for family in ipv4 ipv6; do echo 0 >/proc/sys/net/$family/conf/all/forwarding; done
"""


@contextmanager
def container(lab: Lab, *, mtu: int = 1500, is_masqueraded: bool = True) -> Iterator[Host]:
    """Start a container on the app; it is gone afterwards, with its bridge and its rules."""
    app = lab.app
    program = app.popen(["unshare", "--net", "sh", "-c", "echo pid $$; exec sleep infinity"])
    inside = app.inside(int(program.says(r"^pid (\d+)$")[1]))
    app.run(["sh", "-euc", _LINKS, "links", str(inside.pid), str(mtu)])
    inside.run(["sh", "-euc", _INSIDE, "inside", str(mtu)])
    if is_masqueraded:
        app.run(["nft", "-f", "-"], stdin=_NAT)
    try:
        yield inside
    finally:
        app.run(["sh", "-euc", _REMOVE])
        program.stop()


@contextmanager
def routed_back(lab: Lab) -> Iterator[None]:
    """Let the others know the way to a container that is not masqueraded."""
    hops = ((lab.router, APP), (lab.server, ROUTER_OUTSIDE), (lab.target, SERVER_INSIDE))
    for host, gateway in hops:
        for network, via in zip(_NETWORK, gateway, strict=True):
            host.run(["ip", "route", "add", network, "via", via])
    yield
    for host, _ in hops:
        for network in _NETWORK:
            host.run(["ip", "route", "delete", network])
