"""What differs with options: names that nobody is asked for, names for prefixes, short names.

app ─ queries ─▶ gate ─▶ client ─ session ─▶ server ─▶ zone on the target
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from test_run import Runs

from lab import Lab, Program, services, tcp
from lab.addresses import ROUTER, TARGET
from lab.ask import POOL4, addresses_of_their_own, datagrams, resolve
from lab.overlay import Overlay

CURL = ["curl", "--silent", "--show-error", "--fail"]
PAGE = "hello from the lab\n"
NAMES = [f"host{number}.example.com" for number in range(1000)]


@pytest.fixture
def zone(lab: Lab) -> Program:
    return services.names(lab.target)


VIRTUAL, PREFIX = ("--dns", "virtual"), ("--route", "203.0.113.0/24")


@pytest.mark.parametrize("tunnels", [(VIRTUAL, VIRTUAL), (PREFIX,)], ids=["virtual", "prefix"])
def test_names_that_nobody_is_asked_for(
    lab: Lab, overlay: Overlay, zone: Program, tunnels: tuple[tuple[str, str], ...]
) -> None:
    """D6: each has an address of its own, the way back, the same address in the next tunnel.

    A name without a host has its error from the far end. One with a given address has that.
    """
    services.web(lab, lab.target)
    static = ("--host", f"db.corp.test={TARGET.v4}:80", "--host", f"six.corp.test=[{TARGET.v6}]:80")
    endpoint = overlay.serve()
    found = []
    for options in tunnels:
        overlay.up(endpoint, *static, *options)
        for url in ("http://db.corp.test:5432/", "http://six.corp.test/"):
            assert lab.app.run([*CURL, url]).stdout == PAGE
        with datagrams(lab.app, ROUTER.v4) as sock:
            virtual = ip_address(resolve(sock, "db.corp.test"))
            assert virtual in POOL4
            assert resolve(sock, virtual.reverse_pointer, "PTR") == "db.corp.test."
            if options is VIRTUAL:
                reverse = ip_address(TARGET.v4).reverse_pointer
                assert resolve(sock, reverse, "PTR") == "db.corp.test."
                nowhere = resolve(sock, "nothing.example.com")
                assert tcp.outcome(lab.app, nowhere, 80) == "EHOSTUNREACH"
                found.append(
                    [
                        *addresses_of_their_own(sock, NAMES),
                        resolve(sock, "www.example.com", "AAAA"),
                    ]
                )
        overlay.down()
    assert all(addresses == found[0] for addresses in found)
    assert not [line for line in zone.stdout.splitlines() if "host" in line or "corp.test" in line]


def test_run_looks_for_short_names_where_the_far_end_does(
    lab: Lab, overlay: Overlay, zone: Program
) -> None:
    conf = lab.server.path("/etc/resolv.conf")
    before = conf.read_text()
    conf.write_text(f"search com example.com a.onion\n{before}")
    services.web(lab, lab.target)
    runs, endpoint = Runs(lab), overlay.serve()
    options = [endpoint.target, *endpoint.pin, "-i", overlay.identity]
    script = (
        "cat /etc/resolv.conf; dig +search +short MX alias; curl -sS http://www/; getent hosts www"
    )
    lines = runs("sh", "-c", script, options=options).stdout.splitlines()
    assert lines[1:3] == ["search example.com", "www.example.com."]
    assert lines[3] == PAGE.strip()
    assert lines[4].split()[1] == "www.example.com"
    for more in (["--allow", "*.example.com"], ["--dns", "virtual"]):
        seen = runs("cat", "/etc/resolv.conf", options=[*options, *more]).stdout
        assert "search" not in seen
    conf.write_text(before)
