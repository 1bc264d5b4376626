"""The reasons why a flow is not opened, as client and server tell each other. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Failure(Enum):
    """What kept a flow from being opened; the value is the word on the wire."""

    ECONNREFUSED = "ECONNREFUSED"
    EHOSTUNREACH = "EHOSTUNREACH"
    ENETUNREACH = "ENETUNREACH"
    ETIMEDOUT = "ETIMEDOUT"
    NXDOMAIN = "NXDOMAIN"
    POLICY = "POLICY"
    UNAVAILABLE = "UNAVAILABLE"  # the session, the server's resources or its resolver
    UNSUPPORTED = "UNSUPPORTED"  # by this kind of server


READABLE: Final = {
    Failure.ECONNREFUSED: "connection refused",
    Failure.EHOSTUNREACH: "no route to host",
    Failure.ENETUNREACH: "network is unreachable",
    Failure.ETIMEDOUT: "connection timed out",
    Failure.NXDOMAIN: "name does not resolve",
    Failure.UNAVAILABLE: "the server cannot open it now",
    Failure.UNSUPPORTED: "the server has no such service",
}


@dataclass(eq=False)
class OpenFailed(Exception):  # noqa: N818 - what happened at the far end, no error here
    """A flow was not opened. `detail` is the rule for POLICY, else words for people, or empty."""

    failure: Failure
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.failure.value}: {self.detail or READABLE.get(self.failure, 'denied')}"
