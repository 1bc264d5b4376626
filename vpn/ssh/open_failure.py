"""Why a flow could not be opened: words on the wire, and what other servers' words mean.

RFC 4254, section 5.1 gives a refused channel a reason code and a text. The code alone says
little (everything that goes wrong with a destination is 2, "connect failed"), so our server puts
a stable word first in the text, and the texts of other servers are matched against `_WORDINGS`:

- OpenSSH sends strerror(errno) in the words of its C library, gai_strerror() for a name that
  does not resolve, and the literal "open failed" whenever connect(2) fails at once, which on
  Linux means that there is no route;
- asyncssh sends `str(OSError)`; several attempts are joined into one text;
- Go servers send "dial tcp ...: connect: connection refused", "no such host", "i/o timeout".

A refusal by policy is recognised by its code, never by its text.
"""

from __future__ import annotations

import re

from asyncssh.constants import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)

from vpn.protocol.failure import READABLE, Failure, OpenFailed
from vpn.text import printable

# Order matters where one text contains another's words. Texts are compared in lower case.
_WORDINGS: tuple[tuple[str, Failure], ...] = (
    ("connection refused", Failure.ECONNREFUSED),
    ("[errno 111]", Failure.ECONNREFUSED),
    ("actively refused", Failure.ECONNREFUSED),  # Windows
    ("connection reset", Failure.ECONNREFUSED),
    ("no route to host", Failure.EHOSTUNREACH),
    ("[errno 113]", Failure.EHOSTUNREACH),
    ("host is unreachable", Failure.EHOSTUNREACH),  # musl
    ("host is down", Failure.EHOSTUNREACH),
    ("unreachable host", Failure.EHOSTUNREACH),  # Windows
    ("network is unreachable", Failure.ENETUNREACH),
    ("[errno 101]", Failure.ENETUNREACH),
    ("network unreachable", Failure.ENETUNREACH),  # musl
    ("network is down", Failure.ENETUNREACH),
    ("unreachable network", Failure.ENETUNREACH),  # Windows
    ("assign requested address", Failure.ENETUNREACH),  # no address of that family: both libcs
    ("[errno 99]", Failure.ENETUNREACH),
    ("permission denied", Failure.POLICY),  # a firewall of the far machine
    ("operation not permitted", Failure.POLICY),
    ("temporary failure in name resolution", Failure.UNAVAILABLE),
    ("name could not be resolved at this time", Failure.UNAVAILABLE),  # FreeBSD
    ("non-recoverable", Failure.UNAVAILABLE),
    ("try again", Failure.UNAVAILABLE),  # musl
    ("name or service not known", Failure.NXDOMAIN),  # glibc
    ("no address associated with", Failure.NXDOMAIN),
    ("address family for hostname not supported", Failure.NXDOMAIN),
    ("name does not resolve", Failure.NXDOMAIN),  # musl, FreeBSD
    ("name has no usable address", Failure.NXDOMAIN),  # musl
    ("nodename nor servname provided", Failure.NXDOMAIN),  # macOS
    ("hostname nor servname provided", Failure.NXDOMAIN),  # older BSDs
    ("no such host", Failure.NXDOMAIN),  # Go, Windows
    ("host not found", Failure.NXDOMAIN),
    ("timed out", Failure.ETIMEDOUT),
    ("timeout", Failure.ETIMEDOUT),  # Go
    ("[errno 110]", Failure.ETIMEDOUT),
    ("open failed", Failure.ENETUNREACH),
)

_OWN_WORD = re.compile(r"(?P<word>[A-Z]+)(?::\s*(?P<detail>.*))?", re.DOTALL)

MAX_DETAIL = 200


def classify(code: int, reason: str) -> OpenFailed:
    """Return what a server means by the code and text of SSH_MSG_CHANNEL_OPEN_FAILURE."""
    reason = printable(reason[:MAX_DETAIL]).strip()  # it could be a novel
    word, detail = _own_word(reason)
    if code == OPEN_ADMINISTRATIVELY_PROHIBITED:
        return OpenFailed(Failure.POLICY, detail if word is Failure.POLICY else reason)
    if code != OPEN_CONNECT_FAILED:
        return OpenFailed(Failure.UNAVAILABLE, reason)
    if word is not None:
        return OpenFailed(word, detail)
    text = reason.casefold()
    for wording, failure in _WORDINGS:
        if wording in text:
            return OpenFailed(failure, reason)
    return OpenFailed(Failure.UNAVAILABLE, reason)


def to_wire(failed: OpenFailed) -> tuple[int, str]:
    """Return the reason code and text which `classify` turns back into `failed`."""
    if failed.failure is Failure.POLICY:
        return OPEN_ADMINISTRATIVELY_PROHIBITED, f"POLICY:{failed.detail}"
    if failed.failure is Failure.UNAVAILABLE:
        return OPEN_RESOURCE_SHORTAGE, failed.detail or READABLE[failed.failure]
    readable = failed.detail or READABLE[failed.failure]
    return OPEN_CONNECT_FAILED, f"{failed.failure.value}: {readable}"


def _own_word(reason: str) -> tuple[Failure | None, str]:
    match = _OWN_WORD.fullmatch(reason)
    if match is None or match["word"] not in Failure.__members__:
        return None, ""
    return Failure(match["word"]), (match["detail"] or "").strip()
