"""One generation of an account's tokens, and when it should be replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Final, Protocol

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Freshness(Enum):
    """What a token set is good for; the name is google-auth's."""

    FRESH = "fresh"
    STALE = "stale"
    """Still good, but renewed before it is sent."""
    EXPIRED = "expired"
    """Never sent."""


class Sendable(Protocol):
    """What a request needs of a token set: never the refresh token."""

    @property
    def access_token(self) -> str: ...

    @property
    def generation(self) -> int: ...

    @property
    def captured(self) -> Mapping[str, str]: ...

    @property
    def dpop_key(self) -> str | None: ...

    @property
    def sendable(self) -> bytes:
        """The access token where that is all there is, and visible ASCII; empty: whoever sends it must look."""
        ...


@dataclass(frozen=True, slots=True)
class TokenSet:
    """One generation of an account's tokens."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    token_type: str = "Bearer"  # noqa: S105 - the name of a scheme
    scope: str | None = None
    """What was granted, as the provider wrote it."""
    scope_asked: str | None = None
    """What was asked for; a refresh repeats this one (PERSCOM's guide, RFC 6749 section 6)."""
    issued_at: datetime | None = None
    """UTC, taken before the token request was sent: ``expires_in`` counts from the provider's answer (RFC 6749 5.1)."""
    expires_at: datetime | None = None
    """UTC; None where nobody said, then a 401 tells."""
    refresh_expires_at: datetime | None = None
    identity: str | None = None
    """Whom the tokens speak for, where the provider tells (``sub``)."""
    generation: int = 1
    """Counts the token sets of one account, from 1; grows by one with each replacement."""
    captured: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    """Template variables from the token answer or the callback (``instance_url``), checked when they came."""
    dpop_key: str | None = field(default=None, repr=False)
    """The private key (JWK, as JSON) that these tokens are bound to (RFC 9449); losing it loses them."""

    @property
    def sendable(self) -> bytes:
        """Whoever sends it looks, once."""
        return b""

    @property
    def lifetime(self) -> timedelta | None:
        if self.expires_at is None or self.issued_at is None:
            return None
        return self.expires_at - self.issued_at

    def freshness(self, now: datetime, margin: timedelta) -> Freshness:
        if self.expires_at is None:  # some providers never say; a 401 will tell us
            return Freshness.FRESH
        if now >= self.expires_at:
            return Freshness.EXPIRED
        if now >= self.expires_at - margin:
            return Freshness.STALE
        return Freshness.FRESH

    def succeeded_by(self, newer: TokenSet) -> TokenSet:
        """
        The next generation: what the answer left out stays as it was.

        A refresh token that is missing or empty in the answer keeps the old one (RFC 6749 section 6); so do
        Google, Dropbox and most others mean it.
        """
        same = newer.refresh_token in {None, "", self.refresh_token}
        return replace(
            newer,
            refresh_token=newer.refresh_token or self.refresh_token,
            refresh_expires_at=newer.refresh_expires_at or (self.refresh_expires_at if same else None),
            scope=newer.scope or self.scope,
            scope_asked=newer.scope_asked or self.scope_asked,
            identity=newer.identity or self.identity,
            captured={**self.captured, **newer.captured},
            dpop_key=newer.dpop_key or self.dpop_key,
            generation=self.generation + 1,
        )
