"""
Tokens that callers prove themselves with: what is read of one before and after its signature is checked (RFC 7519, 8725).

An issuer here is one that callers' tokens come from; the issuer of a provider's metadata is ``core.discovery``'s.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from tokenproxy.core.discovery import NoMetadataError, WrongMetadataError, trusted_address
from tokenproxy.core.interfaces import BadTokenError
from tokenproxy.core.outgoing import Way
from tokenproxy.core.replies import Reply

KEY_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
"""
Algorithms that count -> the kind of key: those with two halves (RFC 7518 section 3.1, RFC 8037). With the others whoever
can check a token could make one, and a public key could be taken for a secret (RFC 8725 section 2.1).
"""
_KINDS: Final = frozenset(KEY_TYPES.values())
_CURVES: Final[Mapping[str, str]] = {
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
}
LONGEST_TOKEN: Final = 16 * 1024
LARGEST_KEYS: Final = 256 * 1024
MOST_KEYS: Final = 100
LEEWAY: Final = 30.0
"""Seconds that another machine's clock may be off."""
_TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Of tokens; another word means that this one was made for something else (RFC 8725 section 3.11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A table ``[issuers.NAME]``."""

    name: str
    issuer: str
    """What ``iss`` is, letter by letter."""
    audiences: tuple[str, ...]
    """``aud`` holds one of these."""
    jwks_url: str = ""
    """Empty: the issuer's metadata says where its keys are."""
    jwks_file: str = ""
    algorithms: tuple[str, ...] = tuple(KEY_TYPES)
    token: str = field(default="", repr=False)
    """Where a token lies that its keys are asked for with (``file:...``); empty: none is needed."""
    way: Way = field(default_factory=Way)


@dataclass(frozen=True, slots=True)
class Opened:
    """A token as it came, before anybody knows whether it is one."""

    algorithm: str
    key_id: str | None
    issuer: str
    claims: Mapping[str, Any] = field(repr=False)


def opened(token: bytes) -> Opened:
    """Raises ``BadTokenError``."""
    if len(token) > LONGEST_TOKEN:
        raise BadTokenError("it is too long")
    parts = token.split(b".")
    if len(parts) != 3 or not all(parts):
        raise BadTokenError("it is no signed JWT")
    header, claims = _object(parts[0]), _object(parts[1])
    if not _is_exact(parts[2]):
        raise BadTokenError("its signature is spelled wrongly")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None) or not isinstance(kind, str):
        raise BadTokenError("its header makes no sense")
    if "crit" in header or "b64" in header:  # RFC 7515 section 4.1.11, RFC 7797: we understand none of these
        raise BadTokenError("its header asks for what is not known here")
    if kind.lower() not in _TYPES:
        raise BadTokenError("it is a token for something else")
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise BadTokenError("it names no issuer")
    return Opened(algorithm, key_id, issuer, claims)


def _is_exact(part: bytes) -> bool:
    """Whether this is the one spelling (RFC 7515 section 2) of bytes that no signature covers: a token has one, not many."""
    try:
        return urlsafe_b64encode(urlsafe_b64decode(part + b"=" * (-len(part) % 4))).rstrip(b"=") == part
    except ValueError:
        return False


def _object(part: bytes) -> dict[str, Any]:
    try:
        found = json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadTokenError("it is no signed JWT")
    return found


def seconds_left(claims: Mapping[str, Any], issuer: Issuer, now: float) -> float:
    """
    How long a token still counts, if its signature is good. ``now``: seconds since 1970.

    Raises ``BadTokenError`` where it does not (RFC 7519 section 4.1, RFC 8725 section 3.9).
    """
    audience = claims.get("aud")
    meant = audience if isinstance(audience, list) else [audience]
    if not any(each in issuer.audiences for each in meant if isinstance(each, str)):
        raise BadTokenError("it is for another audience")
    ends, begins = claims.get("exp"), claims.get("nbf", 0)
    if ends is None or not _is_time(ends) or not _is_time(begins):
        raise BadTokenError("it does not say how long it counts")
    if begins > now + LEEWAY:
        raise BadTokenError("it does not count yet")
    left = float(ends) + LEEWAY - now
    if left <= 0:
        raise BadTokenError("it has ended")
    return left


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def read_keys(body: bytes) -> tuple[Mapping[str, Any], ...]:
    """The keys of a set that tokens may be signed with (RFC 7517); raises ``NoMetadataError``."""
    try:
        found = json.loads(body) if len(body) <= LARGEST_KEYS else None
    except (ValueError, RecursionError):
        found = None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise NoMetadataError("its keys are no JWKS of at most 256 KiB and 100 keys")
    good = tuple(key for key in keys if isinstance(key, dict) and _signs(key))
    if not good:
        raise NoMetadataError("its JWKS holds no key that tokens could be signed with")
    return good


def _signs(key: Mapping[str, Any]) -> bool:
    """A public key for signatures; secrets (``oct``) are none that a token of somebody else's is checked with."""
    kind = key.get("kty")
    return isinstance(kind, str) and kind in _KINDS and key.get("use", "sig") == "sig"


def fitting(keys: Sequence[Mapping[str, Any]], algorithm: str, key_id: str | None) -> list[int]:
    """Which of the keys may have signed a token: the one that it names, or of its kind where it names none."""
    return [
        number
        for number, key in enumerate(keys)
        if key.get("kty") == KEY_TYPES.get(algorithm)
        and key.get("alg", algorithm) == algorithm
        and key.get("crv") == _CURVES.get(algorithm)
        and (key_id is None or key.get("kid") == key_id)
    ]


def metadata_url(issuer: str) -> str:
    """OpenID Connect Discovery 1.0 section 4.1, which Kubernetes follows too."""
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def keys_url(reply: Reply, issuer: str) -> str:
    """Raises ``NoMetadataError``, or ``WrongMetadataError`` for what must not be followed."""
    try:
        found = json.loads(reply.body) if len(reply.body) <= LARGEST_KEYS else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NoMetadataError("its metadata is no JSON object")
    if found.get("issuer") != issuer:
        raise WrongMetadataError("its metadata is that of another issuer")
    address = found.get("jwks_uri")
    if not isinstance(address, str) or not trusted_address(address, issuer):
        raise WrongMetadataError("jwks_uri in its metadata is no https address")
    return address


def same_origin(one: str, other: str) -> bool:
    """Whether a token that is meant for the one may be shown to the other."""
    a, b = urlsplit(one), urlsplit(other)
    return (a.scheme, a.netloc.lower()) == (b.scheme, b.netloc.lower())
