"""How values look on a disk: times as seconds since the epoch, a token set as JSON (only ever sealed)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from tokenproxy.core.interfaces import StateValue
from tokenproxy.core.tokens import TokenSet

_TEXTS: Final = (
    "access_token",
    "refresh_token",
    "token_type",
    "scope",
    "scope_asked",
    "identity",
    "dpop_key",
    "captured",
)
_TIMES: Final = ("issued_at", "expires_at", "refresh_expires_at")


def epoch(at: datetime | None) -> float | None:
    """Seconds since the epoch, exact to the microsecond; ``ValueError`` for a time without a zone."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError("a time without a zone cannot be stored")
    return at.timestamp()


def instant(at: float | datetime | None) -> datetime | None:
    """A time as a database gives it, be it one that knows times (PostgreSQL) or seconds since the epoch (SQLite)."""
    return datetime.fromtimestamp(at, UTC) if isinstance(at, float | int) else at


def tokens_to_json(tokens: TokenSet) -> bytes:
    """Everything but the generation, which is the row's (and part of the seal)."""
    texts = {name: getattr(tokens, name) for name in _TEXTS} | {"captured": dict(tokens.captured)}
    times = {name: epoch(getattr(tokens, name)) for name in _TIMES}
    return json.dumps({**texts, **times}, separators=(",", ":")).encode()


def tokens_from_json(data: bytes, generation: int) -> TokenSet:
    """
    The token set again; a field that this release does not know is left out, one that is missing has its default.

    Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what no release wrote.
    """
    fields: dict[str, Any] = json.loads(data)
    known: dict[str, Any] = {name: fields[name] for name in _TEXTS if name in fields}
    known |= {name: instant(fields.get(name)) for name in _TIMES}
    return TokenSet(**known, generation=generation)


def state_to_json(state: StateValue) -> bytes:
    fields = {"value": state.value, "expires_at": epoch(state.expires_at), "backend": state.backend}
    return json.dumps(fields, separators=(",", ":")).encode()


def state_from_json(data: bytes) -> StateValue:
    """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what no release wrote."""
    fields: dict[str, Any] = json.loads(data)
    return StateValue(fields["value"], instant(fields["expires_at"]), bool(fields["backend"]))
