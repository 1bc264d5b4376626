"""K1 to K6: `up` leaks nothing, and with the kill switch whatever is killed.

app ──── router ──── server ──── target      the capture is on the router's link to the app

Judged on the wire: what may come from the app is UDP from the client's own socket to the server,
ARP, neighbour discovery and DHCP, and nothing else.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lab import Host, Lab, Program, kill, prober, services, tcp, until
from lab.addresses import CLOSED_PORT, ROUTER, SERVER, TARGET
from lab.capture import Packet, leaks
from lab.inject import Injector
from lab.overlay import PROGRAM, Endpoint, Overlay
from lab.probes import BOUND, ONLY_ROOT_CAN, PROBES
from lab.processes import privileged_side
from shim.protocol import DEVICE

SWITCH = ("--kill-switch", "--lan", "block")
EVERY = {**PROBES, **BOUND}
LINK_LOCAL = ("multicast dns", "broadcast")


class Wire:
    """What leaves the app beside the tunnel from now on."""

    def __init__(self, lab: Lab, *endpoints: Endpoint) -> None:
        self._lab = lab
        self._allowed = {endpoint.flow for endpoint in endpoints}
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._seen = len(self._lab.outer.packets())

    def leaks(self) -> list[str]:
        return [*map(str, leaks(self._from_now(), self._allowed))]

    def frames_with(self, text: bytes) -> int:
        """Count the packets of the app that hold some bytes, wherever they go."""
        return sum(text in packet.frame for packet in self._from_now() if not packet.is_outgoing)

    def _from_now(self) -> list[Packet]:
        return self._lab.outer.packets()[self._seen :]


@pytest.fixture
def endpoint(lab: Lab, overlay: Overlay) -> Endpoint:
    services.names(lab.target)
    services.web(lab, lab.target)
    return overlay.serve()


@pytest.fixture
def wire(lab: Lab, endpoint: Endpoint) -> Wire:
    return Wire(lab, endpoint)


def send(lab: Lab, *, without: tuple[str, ...] = (), tied: bool = True) -> None:
    """Send one packet of every kind that a filter can stop."""
    for name, probe in (EVERY if tied else PROBES).items():
        if name not in (ONLY_ROOT_CAN, *without):
            lab.app.call(probe)


# K1


def test_detector_sees_every_probe_while_nothing_is_up(lab: Lab, wire: Wire) -> None:
    for name, probe in EVERY.items():
        wire.forget()
        lab.app.call(probe)
        until(wire.leaks, 15, f"the probe {name}")


# K3 and K6: without the switch, what is not tied to the way beside the tunnel goes into it.


def test_up_captures_whatever_is_free_to_go_there(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire
) -> None:
    overlay.up(endpoint)
    wire.forget()
    send(lab, without=LINK_LOCAL, tied=False)
    assert tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT) == "ECONNREFUSED"
    assert wire.leaks() == []


@pytest.mark.parametrize("options", [(), SWITCH], ids=["open", "switch"])
def test_another_program_cannot_use_the_way_to_the_server(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire, options: tuple[str, ...]
) -> None:
    def say(text: str, *, is_tied: bool = False) -> None:
        source = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if sys.argv[4]:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
try:
    one.sendto(sys.argv[1].encode(), (sys.argv[2], int(sys.argv[3])))
except OSError:
    pass
"""
        to = (endpoint.flow.address, str(endpoint.flow.port))
        lab.app.python(source, text, *to, "tied" if is_tied else "", user=lab.alice)

    say("before")
    until(lambda: wire.frames_with(b"before"), 15, "the detector sees it while nothing is up")
    overlay.up(endpoint, *options)
    say("free to go")
    if options:
        say("tied to the device", is_tied=True)
    assert tcp.outcome(lab.app, TARGET.v4, CLOSED_PORT) == "ECONNREFUSED"
    assert wire.frames_with(b"free to go") == 0
    assert wire.frames_with(b"tied to the device") == 0


# K2


class Instance:
    """An instance with the switch, brought up again whenever it has to be."""

    def __init__(self, lab: Lab, overlay: Overlay, wire: Wire, probing: Program) -> None:
        self.lab, self.overlay, self.wire, self.probing = lab, overlay, wire, probing

    def state(self) -> str:
        return str(self.overlay.status()["state"])

    def probe(self) -> None:
        """Wait for three more rounds of probes, none of which has got out."""
        rounds = self.probing.stdout.count("round")
        until(lambda: self.probing.stdout.count("round") > rounds + 3, 20, "three rounds")
        assert self.wire.leaks() == []

    def settle(self, endpoint: Endpoint) -> None:
        """Probe while it is down, and bring it up again if it does not come by itself."""
        self.probe()

        def works() -> bool:
            if self.state() == "blocked":
                self.overlay.up(endpoint, *SWITCH)
            return tcp.outcome(self.lab.app, TARGET.v4, 80, timeout_s=1) == "connected"

        until(works, 90, "a tunnel that works again")
        self.probe()


@pytest.mark.fidelity("fail-closed if tunnel drops")
@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.lab(direct=True)
def test_switch_leaks_nothing_whatever_is_killed(
    lab: Lab, overlay: Overlay, endpoint: Endpoint
) -> None:
    other = overlay.serve(port=4423)
    wire = Wire(lab, endpoint, other)
    probing = lab.app.popen([sys.executable, prober.PATH])
    probing.says("^round 2$")
    assert len(wire.leaks()) > len(EVERY)
    overlay.up(endpoint, *SWITCH)
    wire.forget()
    instance = Instance(lab, overlay, wire, probing)
    instance.probe()
    for number in range(len(privileged_side(lab.app))):
        os.kill(privileged_side(lab.app)[number], signal.SIGKILL)
        instance.settle(endpoint)
    os.kill(overlay.status()["pid"], signal.SIGKILL)
    instance.settle(other)
    kill((*privileged_side(lab.app), overlay.status()["pid"]))
    instance.settle(endpoint)
    endpoint.program.stop(signal.SIGKILL)
    instance.probe()
    instance.settle(overlay.serve())
    for state in ("down", "up"):
        lab.router.run(["ip", "link", "set", "to-app", state])
        instance.probe()
    # Going down has taken its IPv6 address.
    lab.router.run(["ip", "address", "add", f"{ROUTER.v6}/64", "dev", "to-app", "nodad"])
    instance.settle(endpoint)
    # And the detector still sees them: nothing but the switch has held them back.
    overlay.down()
    until(lambda: len(wire.leaks()) > len(EVERY), 20, "the probes, once the switch is off")


@pytest.mark.fidelity("lock-down when stopped", cell="◐ with the kill switch, until down")
def test_blocked_machine_says_so_and_is_opened_by_down_alone(
    lab: Lab, overlay: Overlay, endpoint: Endpoint
) -> None:
    overlay.up(endpoint, *SWITCH)
    kill((*privileged_side(lab.app), overlay.status()["pid"]))
    until(lambda: overlay.status()["state"] == "blocked", 10, "the word for it")
    said = overlay.cli("status", check=False)
    assert said.returncode == 1
    assert said.stdout.splitlines()[0] == "blocked"
    assert tcp.outcome(lab.app, TARGET.v4, 80) in ("EHOSTUNREACH", "ENETUNREACH")
    # A start that fails opens nothing.
    wrong = ("up", endpoint.target, "--host-key", "SHA256:" + "A" * 43, "-i", str(overlay.identity))
    assert overlay.cli(*wrong, check=False).returncode == 255
    assert overlay.status()["state"] == "blocked"
    # One without the switch takes its place as soon as it is up.
    overlay.up(endpoint)
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    assert lab.app.run(["nft", "list", "ruleset"]).stdout == ""
    overlay.down()
    assert overlay.status()["state"] == "down"


def test_server_is_found_by_its_name_while_the_switch_holds(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire
) -> None:
    asked = services.names(lab.router, f"vpn.example.net. 60 IN A {SERVER.v4}\n")
    named = replace(endpoint, target=endpoint.target.replace(SERVER.v4, "vpn.example.net"))
    overlay.up(named, *SWITCH)
    os.kill(overlay.status()["pid"], signal.SIGKILL)
    until(lambda: overlay.status()["state"] == "blocked", 10, "the end of it")
    wire.forget()
    overlay.up(named, *SWITCH)
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    # Its name alone was asked for beside the tunnel.
    assert all(f"> {ROUTER.v4}:domain" in one or "vpn.example" in one for one in wire.leaks())
    assert asked is not None


def test_down_is_for_who_may_change_the_network(
    lab: Lab, overlay: Overlay, endpoint: Endpoint
) -> None:
    overlay.up(endpoint, *SWITCH)
    os.kill(overlay.status()["pid"], signal.SIGKILL)
    until(lambda: overlay.status()["state"] == "blocked", 10, "the end of it")
    if lab.is_multi_user:
        refused = lab.app.run(["overlay-vpn", "down"], user=lab.alice, check=False)
        assert refused.returncode != 0
        assert overlay.status()["state"] == "blocked"
    overlay.down()
    assert overlay.status()["state"] == "down"


def test_down_opens_it_though_all_are_killed_meanwhile(
    lab: Lab, overlay: Overlay, endpoint: Endpoint
) -> None:
    overlay.up(endpoint, *SWITCH)
    client = overlay.status()["pid"]
    os.kill(client, signal.SIGSTOP)
    down = lab.app.popen([PROGRAM, "down"], env=overlay.sudo)
    until(lambda: is_asked(lab), 10, "the question")
    kill((*privileged_side(lab.app), client))
    assert down.wait(15) == 0
    assert overlay.status()["state"] == "down"


def is_asked(lab: Lab) -> bool:
    """Whether somebody waits whom the client has not let in."""
    sockets = lab.app.run(["ss", "--no-header", "--unix", "--listening"]).stdout
    return any(int(line.split()[2]) > 0 for line in sockets.splitlines())


# The local network, and pauses.

HOME, HOME_ROUTER = "192.168.77.2", "192.168.77.1"


@pytest.fixture
def home(lab: Lab) -> Iterator[None]:
    """A private network between the app and the router, beside the lab's."""
    ends = ((lab.app, HOME, "eth0"), (lab.router, HOME_ROUTER, "to-app"))
    for host, address, device in ends:
        host.run(["ip", "address", "add", f"{address}/24", "dev", device])
    yield
    for host, address, device in ends:
        host.run(["ip", "address", "del", f"{address}/24", "dev", device])


@pytest.mark.parametrize("lan", ["allow", "block"])
def test_local_network_is_a_choice(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, home: None, lan: str
) -> None:
    overlay.up(endpoint, "--kill-switch", "--lan", lan)
    assert overlay.status()["lan"] is (lan == "allow")
    with tcp.listen(lab.router, HOME_ROUTER) as printer, tcp.listen(lab.app, HOME) as shared:
        for host, listener in ((lab.app, printer), (lab.router, shared)):
            name = listener.getsockname()
            came = tcp.outcome(host, *name, timeout_s=15 if lan == "allow" else 1) == "connected"
            assert came is (lan == "allow"), host.name
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"


def test_pause_opens_for_a_while_and_ends_by_itself(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire
) -> None:
    def gets_out() -> bool:
        wire.forget()
        lab.app.call(PROBES["udp4"])
        lab.app.call(PROBES["stub resolver"])
        return len(wire.leaks()) >= 2

    overlay.up(endpoint, *SWITCH)
    assert not gets_out()
    overlay.cli("pause", "--for", "1h")
    assert 3590 <= overlay.status()["paused_s"] <= 3600
    until(gets_out, 15, "a way out")
    overlay.cli("pause", "--for", "0s")
    assert not gets_out()
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    # The kernel ends it, also when nobody is there to end it.
    overlay.cli("pause", "--for", "8s")
    until(gets_out, 15, "a way out")
    kill((*privileged_side(lab.app), overlay.status()["pid"]))
    until(lambda: not gets_out(), 30, "the end of the pause")
    assert overlay.status()["state"] == "blocked"


# K4


def advertise(lab: Lab) -> None:
    """A router nobody has asked for says that the way to the internet is through it."""
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)  # RFC 4861 section 4.2
    prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:9::")
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + prefix

    def speak() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as one:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            index = socket.if_nametoindex("to-app")
            one.sendto(head + option, ("ff02::1", 0, 0, index))

    lab.router.call(speak)


@pytest.mark.parametrize("options", [(), SWITCH], ids=["open", "switch"])
def test_router_advertisement_in_the_middle_opens_no_way(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire, options: tuple[str, ...]
) -> None:
    setting = lab.app.run(["cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"]).stdout.strip()

    def accept(value: str) -> None:
        lab.app.run(["sh", "-c", f"echo {value} >/proc/sys/net/ipv6/conf/eth0/accept_ra"])

    def addresses() -> str:
        return lab.app.run(["ip", "-6", "address", "show", "dev", "eth0"]).stdout

    accept("2")
    overlay.up(endpoint, *options)
    wire.forget()
    advertise(lab)
    until(lambda: "2001:db8:9:" in addresses(), 10, "an address from the advertisement")
    send(lab, without=LINK_LOCAL, tied=bool(options))
    assert tcp.outcome(lab.app, TARGET.v6, 80) == "connected"
    assert wire.leaks() == []
    accept(setting)
    lab.app.run(["ip", "-6", "address", "flush", "dev", "eth0", "dynamic"])
    lab.app.run(["ip", "-6", "route", "flush", "proto", "ra"])
    lab.app.run(["ip", "-6", "route", "del", "2001:db8:9::/64", "dev", "eth0"])


def test_ipv6_that_comes_later_opens_no_way(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire
) -> None:
    def switch_off(value: int) -> None:
        lab.app.run(["sh", "-c", f"echo {value} >/proc/sys/net/ipv6/conf/all/disable_ipv6"])

    switch_off(1)
    overlay.up(endpoint, *SWITCH)
    wire.forget()
    switch_off(0)
    address = ["ip", "-6", "address", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad"]
    lab.app.run(address)
    lab.app.run(["ip", "-6", "route", "add", "default", "via", ROUTER.v6])
    send(lab)
    assert tcp.outcome(lab.app, TARGET.v4, 80) == "connected"
    assert wire.leaks() == []


# K5


def mac_of(host: Host, device: str) -> bytes:
    said = host.run(["ip", "-o", "link", "show", "dev", device]).stdout
    return bytes.fromhex(said.partition("link/ether ")[2][:17].replace(":", ""))


def frame_to_app(lab: Lab, ether_type: int, payload: bytes) -> None:
    """Put a frame on the wire to the app."""
    ends = mac_of(lab.app, "eth0") + mac_of(lab.router, "to-app")

    def speak() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
            one.bind(("to-app", 0))
            one.send(ends + struct.pack("!H", ether_type) + payload)

    lab.router.call(speak)


def ask_for(lab: Lab, address: str) -> None:
    """ARP: who has it? (RFC 826)."""
    asking = mac_of(lab.router, "to-app") + socket.inet_aton(ROUTER.v4)
    question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + asking + bytes(6)
    frame_to_app(lab, 0x0806, question + socket.inet_aton(address))


def arp_answers(lab: Lab, address: str) -> int:
    """How often the app has said that an address is its own."""
    said = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    frames = [packet.frame for packet in lab.outer.packets() if not packet.is_outgoing]
    return sum(
        frame[12:14] == b"\x08\x06"
        and frame[14:22] == said
        and frame[28:32] == socket.inet_aton(address)
        for frame in frames
    )


def test_neighbour_learns_nothing_about_the_tunnel(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire
) -> None:
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6

    inside4, inside6 = "198.18.0.2", "fd6f:7670:6e00::2"
    lab.app.run(["ip", "address", "add", inside4, "dev", "lo"])
    ask_for(lab, inside4)
    until(lambda: arp_answers(lab, inside4), 15, "the kernel answers for every address it has")
    lab.app.run(["ip", "address", "del", inside4, "dev", "lo"])
    overlay.up(endpoint, *SWITCH)
    before = arp_answers(lab, inside4)
    wire.forget()
    with tcp.connect(lab.app, TARGET.v4, 80) as flow:
        port = flow.getsockname()[1]
        for _ in range(3):
            ask_for(lab, inside4)
            for ports in ((80, port), (80, port + 1)):
                segment = TCP(sport=ports[0], dport=ports[1], flags="SA", seq=1, ack=1)
                frame_to_app(lab, 0x0800, bytes(IP(src=TARGET.v4, dst=inside4) / segment))
                frame_to_app(lab, 0x86DD, bytes(IPv6(src=TARGET.v6, dst=inside6) / segment))
        ask_for(lab, "192.0.2.2")
        until(lambda: arp_answers(lab, "192.0.2.2"), 15, "answers for its own address")
        flow.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert flow.recv(4) == b"HTTP"
    assert arp_answers(lab, inside4) == before
    assert wire.leaks() == []


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_neighbour_ends_no_flow_even_if_it_knows_its_numbers(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, family: int
) -> None:
    """T4 from the local network, with the one segment that the kernel itself would obey."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from test_tcp_hostile import seen_of

    overlay.up(endpoint, *SWITCH)
    with Injector(lab.app, DEVICE) as device, tcp.connect(lab.app, TARGET[family], 80) as flow:

        def forge() -> None:
            flow.sendall(b"G")
            seen = seen_of(device, flow.getsockname()[1])
            head = (IPv6 if family else IP)(src=seen.dst, dst=seen.src)
            reset = TCP(sport=80, dport=seen[TCP].sport, flags="R", seq=seen[TCP].ack)
            frame_to_app(lab, 0x86DD if family else 0x0800, bytes(head / reset))

        forge()
        assert tcp.outcome(lab.app, TARGET[family], 80) == "connected"
        flow.sendall(b"E")
        # And the detector: it is the switch that has held it back.
        lab.app.run(["nft", "flush", "ruleset"])
        forge()
        with pytest.raises(ConnectionResetError):
            until(lambda: flow.send(b"T") and None, 10, "the reset")


ANNOUNCED = ("0.0.0.0/1", "128.0.0.0/1", f"{TARGET.v4}/32", "::/1", "8000::/1", f"{TARGET.v6}/128")


@pytest.mark.parametrize("lan", ["allow", "block"])
def test_routes_that_a_hostile_network_announces_lead_nowhere(
    lab: Lab, overlay: Overlay, endpoint: Endpoint, wire: Wire, lan: str
) -> None:
    def announce(verb: str) -> None:
        for prefix in ANNOUNCED:
            gateway = ROUTER.v6 if ":" in prefix else ROUTER.v4
            lab.app.run(["ip", "route", verb, prefix, "via", gateway, "dev", "eth0"])

    overlay.up(endpoint)
    announce("add")
    wire.forget()
    lab.app.call(PROBES["tcp4"])
    until(wire.leaks, 15, "without the switch, a closer route of the machine is used")
    announce("del")
    overlay.down()
    overlay.up(endpoint, "--kill-switch", "--lan", lan)
    announce("add")
    wire.forget()
    send(lab, without=LINK_LOCAL if lan == "allow" else ())
    for address in TARGET:
        assert tcp.outcome(lab.app, address, 80) == "connected"
    assert wire.leaks() == []
    announce("del")
