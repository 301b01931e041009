"""What DPoP says in an upstream's answer (RFC 9449 sections 8 and 9)."""

from __future__ import annotations

import re
from typing import Final

from tokenproxy.core.challenges import challenges
from tokenproxy.proxy.plain import Answer

_NONCE: Final = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")
"""RFC 9449 section 8.1, and a bound."""


def nonce_of(answer: Answer) -> str:
    """The nonce that the next proof shall carry; "" where the answer gives none."""
    given = [value for name, value in answer.raw_headers if name.lower() == b"dpop-nonce"]
    return given[0].decode("ascii") if len(given) == 1 and _NONCE.fullmatch(given[0]) else ""


def wants_nonce(answer: Answer) -> bool:
    """Whether the request was refused for its proof's nonce alone: nothing was looked at, nothing executed."""
    if answer.code != 401:
        return False
    fields = [
        value.decode("latin-1") for name, value in answer.raw_headers if name.lower() == b"www-authenticate"
    ]
    return any(
        challenge.scheme == "dpop" and challenge.params.get("error") == "use_dpop_nonce"
        for challenge in challenges(fields)
    )
