"""The table of services: a handler for each reserved destination, `*.overlay-vpn.internal`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from vpn.protocol.failure import Failure, OpenFailed
from vpn.ssh.login.grant import comparable
from vpn.ssh.login.login import Login

Handlers = Mapping[tuple[str, int], Callable[[Login], asyncio.Protocol]]
"""A protocol for each channel of a login to a service, by the service's name and port."""


def protocol_for(handlers: Handlers, login: Login, host: str, port: int) -> asyncio.Protocol:
    """Return a protocol which gives a service. Raises OpenFailed if there is no such service."""
    handler = handlers.get((comparable(host), port))
    if handler is None:
        raise OpenFailed(Failure.POLICY, "reserved")
    return handler(login)
