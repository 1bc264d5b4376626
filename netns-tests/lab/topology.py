"""The Standard lab: app – router (NAT, impairment, capture) – server – target.

    app eth0 ── to-app router to-server ── to-router server to-target ── eth0 target

Only the server reaches the target: the router has no route to it, so that what works from the
app went through the tunnel. With `direct=True` the router and the server forward, and the same
scenario runs over a plain kernel path. IPv4 of the app is masqueraded by the router, IPv6 routed.
No host has a route to anything outside the lab.

Names: the app asks the router, the server and the target ask the target; with `direct=True` the
app asks the target too. Nobody answers until `services.names()` runs there.

The lab needs root, or the root of a user namespace (`unshare -Ur`). In the latter there are no
other users, no device nodes (so /dev/net/tun as it is outside) and no sshd.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import state
from lab.addresses import (
    APP,
    FILTERED,
    PROHIBITED,
    ROUTER,
    ROUTER_OUTSIDE,
    SERVER,
    SERVER_INSIDE,
    TARGET,
    Dual,
)
from lab.capture import Capture
from lab.host import Host, User
from lab.sweeper import members
from lab.wait import until

PROJECT = Path(__file__).parents[2]
FAR_V4, FAR_V6 = "203.0.113.0/24", "2001:db8:3::/63"
"""What lies behind the server, NO_ROUTE included (so that its refusal comes from the server)."""

_SYSCTLS = {
    # Addresses and link-local addresses are usable at once.
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # A test asks for more ICMP errors a second than a host should send.
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv4/icmp_msgs_per_sec": "100000",
    "net/ipv4/icmp_msgs_burst": "100000",
    "net/ipv6/icmp/ratelimit": "0",
}
_NFT_TARGET = f"""
table inet lab {{
    chain input {{
        type filter hook input priority 0;
        ip daddr {FILTERED.v4} drop
        ip6 daddr {FILTERED.v6} drop
        ip daddr {PROHIBITED.v4} reject with icmp type admin-prohibited
        ip6 daddr {PROHIBITED.v6} reject with icmpv6 type admin-prohibited
    }}
}}
"""

# What the kernel remembers of others is no state that a test could prove to be as before.
_FORGET = """
ip neighbour flush all
ip tcp_metrics flush
ip -4 route flush cache
ip -6 route flush cache
"""


class Lab:
    """Builds the lab on entry and leaves nothing on exit, also when this process is killed.

    `mtu` and `rate` (tc units, such as "20mbit") are those of the link between router and
    server; `loss` is the share of packets (0 to 1) that the router drops, each way;
    `rp_filter` is that of the app; `capture=False` saves the cost of the capture in a benchmark.
    """

    def __init__(
        self,
        *,
        direct: bool = False,
        mtu: int = 1500,
        rate: str | None = None,
        loss: float = 0.0,
        rp_filter: int | None = None,
        capture: bool = True,
    ) -> None:
        self.direct, self.mtu, self.rate, self.loss = direct, mtu, rate, loss
        self.rp_filter, self.has_capture = rp_filter, capture

    def __enter__(self) -> Self:
        self.token = secrets.token_hex(8)
        self.tmp = Path(tempfile.mkdtemp(prefix="overlay-vpn-lab-"))
        self.tmp.chmod(0o755)
        sweeper = Path(__file__).with_name("sweeper.py")
        self._sweeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(sweeper), self.token, str(self.tmp)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._captures: list[Capture] = []
        self.hosts: list[Host] = []
        try:
            self._make_accounts()
            self._make_homes()
            self._make_hosts()
            self._make_links()
            self._make_rules()
            self._own = set(self.tmp.iterdir()) - {self.tmp / "logs", self.tmp / "home"}
            self._start_capture()
            self.before = {host: state.snapshot(host) for host in self.hosts}
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the lab; its namespaces, mounts and files go with them."""
        for host in self.hosts:
            host.stop_programs()
        for capture in self._captures:
            capture.close()
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        self._sweeper.wait()
        for host in self.hosts:
            host.reap()

    def renew(self) -> None:
        """Make a clean lab as good as a new one: what a test has written, and what hosts know."""
        for capture in self._captures:
            capture.close()
        self._captures.clear()
        for path in set(self.tmp.iterdir()) - self._own:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._make_homes()
        for host in self.hosts:
            host.programs.clear()
            host.run(["sh", "-c", _FORGET])
        self._start_capture()

    def _start_capture(self) -> None:
        if self.has_capture:
            self.outer = self.capture(self.router, "to-app")

    def capture(self, host: Host, interface: str) -> Capture:
        """Start to capture an interface of a host; it ends with the lab."""
        path = self.tmp / "logs" / f"{host.name}-{interface}-{len(self._captures)}.pcap"
        self._captures.append(Capture(host, interface, path))
        return self._captures[-1]

    def leftovers(self) -> list[str]:
        """Return, line by line, what differs from the lab as it was built."""
        found = []
        for host, before in self.before.items():
            found += state.diff(before, state.snapshot(host))
        known = {space for host in self.hosts for space in (host.net, host.mnt)}
        for stray in members(self.token):
            if stray.net not in known and stray.mnt not in known:
                found.append(f"elsewhere: process + {stray.pid} {stray.command}")
        return found

    def assert_clean(self, timeout_s: float = 30.0) -> None:
        """End the programs of the test and prove that nothing else is left on any host."""
        for host in self.hosts:
            host.stop_programs()
        found: list[str] = []

        def is_clean() -> bool:
            found[:] = self.leftovers()
            return not found

        try:
            until(is_clean, timeout_s, "a clean lab")
        except TimeoutError:
            raise AssertionError("left behind:\n" + "\n".join(found)) from None

    def _make_accounts(self) -> None:
        """Name the users: root, alice (runs the client) and service (runs the server).

        All three are root where the user namespace has no other user.
        """
        homes = self.tmp / "home"
        self.is_multi_user = Path("/proc/self/uid_map").read_text().split()[2] != "1"
        self.root, self.alice, self.service = (
            User(name, uid, uid, homes / name)
            for name, uid in (("root", 0), ("alice", 42001), ("service", 42002))
        )
        if not self.is_multi_user:
            self.alice = self.service = self.root

    def _make_homes(self) -> None:
        (self.tmp / "logs").mkdir()
        for user in self.users:
            user.home.mkdir(parents=True, mode=0o755, exist_ok=True)
            os.chown(user.home, user.uid, user.gid)

    def _etc(self, nameserver: str) -> dict[str, str]:
        accounts = {u.name: f"{u.name}:x:{u.uid}:{u.gid}::{u.home}:/bin/sh" for u in self.users}
        others = Path("/etc/passwd").read_text().splitlines()
        passwd = [line for line in others if line.partition(":")[0] not in accounts]
        return {
            "resolv.conf": f"nameserver {nameserver}\n",
            "machine-id": "6f7665726c61792d76706e2d6c616221\n",
            "hosts": "127.0.0.1 localhost\n::1 localhost\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
            "passwd": "\n".join([*accounts.values(), *passwd, ""]),
            # Repositories are made by root and served to alice.
            "gitconfig": "[safe]\n\tdirectory = *\n[init]\n\tdefaultBranch = main\n",
        }

    @property
    def users(self) -> tuple[User, ...]:
        """The accounts of the lab."""
        return (self.root, self.alice, self.service)

    def _make_hosts(self) -> None:
        addresses = {"app": APP, "router": ROUTER, "server": SERVER, "target": TARGET}
        numbers = itertools.count()
        hosts = [Host(n, a, self.tmp, self.token, numbers) for n, a in addresses.items()]
        self.app, self.router, self.server, self.target = hosts
        before = _uncover(self.tmp) if self.is_multi_user else []
        for host in hosts:
            names = ROUTER if host is self.app and not self.direct else TARGET
            host.start(self._etc(names.v4), before, self.is_multi_user)
            self.hosts.append(host)
        for host in hosts:
            host.ready()

    def _make_links(self) -> None:
        sysctls = "".join(f"echo {v} >/proc/sys/{k}\n" for k, v in _SYSCTLS.items())
        forward = "for f in ipv4 ipv6; do echo 1 >/proc/sys/net/$f/conf/all/forwarding; done\n"
        app, router, server, target = self.hosts
        for host in self.hosts:
            is_forwarding = host is router or (host is server and self.direct)
            script = sysctls + (forward if is_forwarding else "")
            if host is app and self.rp_filter is not None:
                for name in ("all", "default"):
                    script += f"echo {self.rp_filter} >/proc/sys/net/ipv4/conf/{name}/rp_filter\n"
            host.run(["sh", "-euc", script])
        veth = "link add name {} {}type veth peer name {} netns {} {}"
        mtu = f"mtu {self.mtu} "
        self._ip(
            router,
            veth.format("to-app", "", "eth0", app.pid, ""),
            veth.format("to-server", mtu, "to-router", server.pid, mtu),
        )
        self._ip(server, veth.format("to-target", "", "eth0", target.pid, ""))
        up = "link set {} up"
        links = {app: ["eth0"], router: ["to-app", "to-server"], target: ["eth0"]}
        links[server] = ["to-router", "to-target"]
        for host, names in links.items():
            self._ip(host, *(up.format(name) for name in ["lo", *names]))
        self._ip(app, *_address("eth0", APP), *_route("default", "default", ROUTER))
        self._ip(router, *_address("to-app", ROUTER), *_address("to-server", ROUTER_OUTSIDE))
        self._ip(
            server,
            *_address("to-router", SERVER),
            *_address("to-target", SERVER_INSIDE),
            *_route("192.0.2.0/24", "2001:db8:1::/64", ROUTER_OUTSIDE),
            # Nobody answers for ABSENT: say so after 0.3 s instead of 3.
            "ntable change name arp_cache dev to-target retrans 100",
            "ntable change name ndisc_cache dev to-target retrans 100",
        )
        for address in (TARGET, FILTERED, PROHIBITED):
            self._ip(target, *_address("eth0", address))
        if self.direct:
            self._ip(router, *_route(FAR_V4, FAR_V6, SERVER))
            self._ip(target, *_route("198.51.100.0/24", "2001:db8:2::/64", SERVER_INSIDE))
            self._ip(target, *_route("192.0.2.0/24", "2001:db8:1::/64", SERVER_INSIDE))
        if self.rate is not None:
            # One whole GSO packet must fit into the bucket (tc-tbf(8), burst).
            shape = ["root", "tbf", "rate", self.rate, "burst", "128k", "latency", "50ms"]
            for host, name in ((router, "to-server"), (server, "to-router")):
                host.run(["tc", "qdisc", "add", "dev", name, *shape])

    def _make_rules(self) -> None:
        loss = f"numgen random mod 10000 < {round(self.loss * 10000)} drop" if self.loss else ""
        nft_router = f"""
            table inet lab {{
                chain forward {{ type filter hook forward priority 0; {loss}; }}
                chain postrouting {{
                    type nat hook postrouting priority 100;
                    oifname "to-server" meta nfproto ipv4 masquerade
                }}
            }}"""
        self.router.run(["nft", "-f", "-"], stdin=nft_router)
        self.target.run(["nft", "-f", "-"], stdin=_NFT_TARGET)

    @staticmethod
    def _ip(host: Host, *commands: str) -> None:
        host.run(["ip", "-batch", "-"], stdin="\n".join([*commands, ""]))


def _address(interface: str, address: Dual) -> list[str]:
    v4_bits = 25 if address.v4.startswith("203.") else 24
    return [
        f"address add {address.v4}/{v4_bits} dev {interface}",
        f"address add {address.v6}/64 dev {interface} nodad",
    ]


def _route(v4: str, v6: str, gateway: Dual) -> list[str]:
    return [f"route add {v4} via {gateway.v4}", f"route add {v6} via {gateway.v6}"]


def _uncover(tmp: Path) -> list[str]:
    """Return commands that let any user of a host reach the interpreter and the project.

    They may lie in a home that is closed to others; such a home is covered, in the mount
    namespace of the host only, by an empty one that holds just them.
    """
    covers: dict[Path, list[Path]] = {}
    for wanted in sorted({Path(sys.base_prefix), Path(sys.prefix), PROJECT}):
        closed = [p for p in wanted.parents if not p.stat().st_mode & stat.S_IXOTH]
        if closed and not any(wanted.is_relative_to(p) for p in covers.get(closed[-1], [])):
            covers.setdefault(closed[-1], []).append(wanted)
    commands = []
    for cover, kept in covers.items():
        stash = {path: tmp / f"kept{number}" for number, path in enumerate(kept)}
        # The stash lies in the shared directory of the lab, the mounts in the host's namespace.
        commands += [f"mkdir -p '{at}'; mount --bind '{p}' '{at}'" for p, at in stash.items()]
        commands.append(f"mount -t tmpfs -o mode=755 lab-cover '{cover}'")
        commands += [f"mkdir -p '{p}'; mount --bind '{at}' '{p}'" for p, at in stash.items()]
    return commands
