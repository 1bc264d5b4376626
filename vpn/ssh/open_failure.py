"""SSH_MSG_CHANNEL_OPEN_FAILURE: the code and text of a failure, and the failure of a code and text.

RFC 4254, section 5.1 gives a refused channel a reason code and a text. The code alone says
little (everything that goes wrong with a destination is 2, "connect failed"), so our server puts
a stable word first in the text, and the texts of other servers are matched against the wordings
of `vpn.protocol.failure`:

- OpenSSH sends strerror(errno) in the words of its C library, gai_strerror() for a name that
  does not resolve, and the literal "open failed" whenever connect(2) fails at once, which on
  Linux means that there is no route;
- asyncssh sends `str(OSError)`; several attempts are joined into one text;
- Go servers send "dial tcp ...: connect: connection refused", "no such host", "i/o timeout".

A refusal by policy is recognised by its code, never by its text.
"""

from __future__ import annotations

import re
from typing import Final

from asyncssh.constants import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)

from vpn.protocol.failure import CAUSES, Failure, OpenFailed
from vpn.text import printable

_WORDINGS: Final = (
    *(
        (wording, failure)
        for failure, cause in CAUSES.items()
        for wording in (*cause.wordings, *(f"[errno {number}]" for number in cause.errnos))
    ),
    ("open failed", Failure.ENETUNREACH),
)
"""Parts of texts in lower case; the first that is found decides."""

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
        return OPEN_RESOURCE_SHORTAGE, failed.detail or CAUSES[failed.failure].text
    readable = failed.detail or CAUSES[failed.failure].text
    return OPEN_CONNECT_FAILED, f"{failed.failure.value}: {readable}"


def _own_word(reason: str) -> tuple[Failure | None, str]:
    match = _OWN_WORD.fullmatch(reason)
    if match is None or match["word"] not in Failure.__members__:
        return None, ""
    return Failure(match["word"]), (match["detail"] or "").strip()
