"""Where a token goes in a request for an upstream: the fields and the query parameter that a profile asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from tokenproxy.core.provider import Inject
from tokenproxy.core.templates import filled


@dataclass(frozen=True, slots=True)
class Placed:
    """What a request carries for its token."""

    fields: tuple[tuple[str, str], ...] = field(repr=False)
    query: str = field(default="", repr=False)
    """``name=value``, percent-encoded once; empty where the token is in a field."""


def placed(inject: Inject, values: Mapping[str, str], *, bound: bool = False) -> Placed:
    """
    Put ``values["access_token"]`` where the profile says; ``values`` fill its templates too.

    ``bound``: the token belongs to a key, so that its scheme is ``DPoP`` whatever the profile's template says (RFC 9449
    section 7.1). Raises ``KeyError`` with the name of a value that is not there.
    """
    token = values["access_token"]
    fields = [(name, filled(value, values)) for name, value in inject.headers.items()]
    if inject.query:
        # RFC 6750 section 2.3 asks for the field: what a URL holds must not be kept on the way.
        fields.append(("Cache-Control", "no-store"))
        return Placed(tuple(fields), f"{quote(inject.query, safe='')}={quote(token, safe='')}")
    if inject.header:
        scheme = bound and inject.header.lower() == "authorization"
        fields.append((inject.header, f"DPoP {token}" if scheme else filled(inject.value, values)))
    return Placed(tuple(fields))
