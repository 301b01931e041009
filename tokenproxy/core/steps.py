"""What a flow may ask of whoever performs it. A flow yields steps and is sent a ``Reply`` for each (httpx's ``auth_flow``)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tokenproxy.core.replies import Reply

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One HTTP request to a provider, whole; nothing of it may be logged."""

    method: str
    url: str = field(repr=False)
    """Already percent-encoded, once."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class OriginRequest:
    """What lies at an origin (``file:...``, ``cmd:...``) now; comes back as the body of a ``Reply``."""

    origin: str = field(repr=False)
    """A command line may hold a secret of its own."""


@dataclass(frozen=True, slots=True)
class SignRequest:
    """A signature; the compact JWS (RFC 7515) comes back as the body of a ``Reply``."""

    key: str = field(repr=False)
    """PEM or JWK as JSON; with an HMAC ``alg`` the secret itself."""
    headers: Mapping[str, Any] = field(repr=False)
    """``alg`` among them."""
    claims: Mapping[str, Any] = field(repr=False)
    """Whoever signs adds a random ``jti`` where there is none."""
    nonce_of: str = ""
    """The origin of a server; the newest nonce that it handed out is added where the claims hold none (RFC 9449)."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A fresh private key for ES256; the JWK comes back as the body of a ``Reply``."""


Step = TokenRequest | OriginRequest | SignRequest | KeyRequest
Flow = Generator[Step, Reply, T]
