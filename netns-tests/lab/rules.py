"""Packet filters for a while: what a test makes of the packets that come to a host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from lab.host import Host

_TABLE = "for-a-while"


def arriving(host: Host, *rules: str) -> AbstractContextManager[None]:
    """Apply rules of nft(8) to what arrives at a host; they are gone afterwards in any case."""
    return _filter(host, "input", rules)


def passing(router: Host, *rules: str) -> AbstractContextManager[None]:
    """Apply them to what a router forwards."""
    return _filter(router, "forward", rules)


@contextmanager
def _filter(host: Host, hook: str, rules: Sequence[str]) -> Iterator[None]:
    chain = [f"type filter hook {hook} priority 1", *rules]
    text = "\n".join([f"table inet {_TABLE} {{ chain {hook} {{", *chain, "}", "}", ""])
    host.run(["nft", "-f", "-"], stdin=text)
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", _TABLE])
