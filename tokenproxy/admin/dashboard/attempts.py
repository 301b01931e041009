"""Logins that were begun on the dashboard: what their page shows, for as long as they may be gone on with."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Attempt:
    key: str
    """In the address of its page; the login's own id, which is worth something, is not."""
    id: str = field(repr=False)
    account: str
    begun: Mapping[str, Any] = field(repr=False)
    """As ``Logins.begin`` gave it."""

    @property
    def device(self) -> bool:
        return "user_code" in self.begun

    @property
    def provider(self) -> str:
        """Host of the page on which the person logs in."""
        return (
            urlsplit(str(self.begun.get("authorize_url") or self.begun.get("verification_uri"))).hostname
            or ""
        )


class Attempts:
    def __init__(self) -> None:
        self._known: OrderedDict[str, Attempt] = OrderedDict()

    def add(self, begun: Mapping[str, Any]) -> Attempt:
        attempt = Attempt(secrets.token_urlsafe(12), begun["id"], begun["account"], begun)
        self._known[attempt.key] = attempt
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return attempt

    def get(self, key: str) -> Attempt | None:
        return self._known.get(key)


def is_web_address(address: str) -> bool:
    """What a provider sent may be shown as text whatever it is, and as a link only where a browser asks a server."""
    return address.startswith(("https://", "http://"))


def qr_code(text: str) -> str:
    """As an SVG; "" where the extra ``qr`` is not installed."""
    try:
        import segno
    except ImportError:
        return ""
    made = segno.make(text, error="l", micro=False)
    return str(
        made.svg_inline(border=2, omitsize=True, svgclass="qr", lineclass=None, light="#fff", dark="#000")
    )
