"""Look-ups at once: a name whose resolvers are silent takes no thread of one that is known."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from dns.resolv_conf import ResolvConf, parse
from vpn.server.dialer import MAX_LOOKUPS, Found
from vpn.server.services import getaddrinfo as module
from vpn.server.services.getaddrinfo import MAX_SLOW, Lookups

V4 = socket.AF_INET


class Machine:
    """Its resolvers say nothing about names that begin with `silent`; getaddrinfo(3) waits."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.gate = asyncio.Event()
        self.all_taken = asyncio.Event()

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[Found]:
        self.running.append(host)
        if len(self.running) == MAX_SLOW:
            self.all_taken.set()
        if host.startswith("silent"):
            await self.gate.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "again")
        return [(family, ("192.0.2.1", port))]

    def settings(self) -> ResolvConf:
        return parse("")

    async def ask(self, labels: tuple[bytes, ...], rtype: int) -> bytes | None:
        if labels[0].startswith(b"silent"):
            await asyncio.sleep(60)
        return b"any answer"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUICK_S", 0.05)


def test_silent_names_leave_threads_to_others(run: Callable) -> None:
    async def dialogue() -> None:
        machine = Machine()
        lookups = Lookups(machine.resolve, machine)
        silent = [
            asyncio.create_task(lookups.resolve(f"silent{n}.example", 0, V4))
            for n in range(MAX_LOOKUPS)
        ]
        await machine.all_taken.wait()
        # Who waits no longer does not give back a thread that is still taken.
        silent.pop(0).cancel()
        assert await lookups.resolve("www.example", 0, V4)
        assert len(machine.running) == MAX_SLOW + 1
        machine.gate.set()
        found = await asyncio.gather(*silent, return_exceptions=True)
        assert {type(one) for one in found} == {socket.gaierror}

    run(dialogue())


def test_name_that_no_resolver_is_asked_for_is_looked_up_at_once(run: Callable) -> None:
    async def dialogue() -> None:
        machine = Machine()
        assert await Lookups(machine.resolve, machine).resolve("a..b", 0, V4)

    run(dialogue())
