"""What the services of the machine are asked, and in which order."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from shim.protocol import POOL4, POOL6
from shim.resolved import methods as calls


def arguments(suffixes: tuple[str, ...], method: str) -> tuple[object, ...]:
    (found,) = (call for call in calls.set_up(7, suffixes) if call.method == method)
    return found.arguments


def test_everything_is_the_default_route_of_all_names() -> None:
    assert arguments((), "SetLinkDomains") == (7, [(".", True)])
    assert arguments((), "SetLinkDefaultRoute") == (7, True)


def test_suffixes_route_themselves_and_the_names_of_virtual_addresses() -> None:
    _, domains = arguments(("corp.example",), "SetLinkDomains")
    assert isinstance(domains, list)
    assert domains[0] == ("corp.example", True)
    assert all(is_for_routing_only for _, is_for_routing_only in domains)
    assert arguments(("corp.example",), "SetLinkDefaultRoute") == (7, False)
    zones = [name for name, _ in domains[1:]]
    for pool in (POOL4, POOL6):
        network = ip_network(pool)
        for address in (network[0], network[-1]):
            assert any(address.reverse_pointer.endswith(f".{zone}") for zone in zones)
    assert not any(ip_address("198.17.255.255").reverse_pointer.endswith(zone) for zone in zones)


def test_server_comes_after_its_domains() -> None:
    methods = [call.method for call in calls.set_up(7, ())]
    assert methods.index("SetLinkDNS") > methods.index("SetLinkDomains")


def test_what_matters_is_not_missed_in_silence() -> None:
    needed = {call.method for call in calls.set_up(7, ()) if not call.may_lack}
    assert needed == {"SetLinkDomains", "SetLinkDNS"}


def test_all_of_it_is_about_our_link() -> None:
    for call in (*calls.set_up(7, ("corp.example",)), *calls.revert(7)):
        assert call.method == "FlushCaches" or call.arguments[0] == 7
