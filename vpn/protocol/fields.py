"""Fields that messages to and from more than one service of our server have. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

MAX_HOST: Final = 253

Octet = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Host = Annotated[str, msgspec.Meta(max_length=MAX_HOST, pattern=r"^[!-~]*\Z")]
"""As many octets as characters: ASCII without spaces, as `dns.names.to_text` has it."""
