"""
Whether an upstream's answer means that the token is dead.

By its status alone (401), unless its challenge says that another token of the same kind would do no better; and by
what a provider's profile says of status, fields and body (Slack: 200 with ``ok: false``; Netatmo: 403).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tokenproxy.core.challenges import challenges
from tokenproxy.core.provider import Signal

Fields = Sequence[tuple[bytes, bytes]]
"""An answer's header fields as they came."""

NOT_DEAD: Final = frozenset(
    {
        "insufficient_scope",  # RFC 6750 section 3.1
        "insufficient_user_authentication",  # RFC 9470 section 3
        "insufficient_claims",  # Microsoft's claims challenge
        "use_dpop_nonce",  # RFC 9449 section 9
        "invalid_dpop_proof",  # RFC 9449 section 7.1
    }
)
"""Errors of a challenge that no renewal cures."""
_DEAD: Final = "invalid_token"
_PLAIN: Final = re.compile(rb"application/(?:[a-z0-9.+_-]+\+)?json|text/(?!event-stream)[a-z0-9.+_-]+")
"""Content types whose body is looked at; a stream of events has no end to wait for."""
_BODYLESS: Final = frozenset({204, 304})
_WORD: Final = re.compile(r"[A-Za-z0-9._-]+")
EVERY_STATUS: Final = range(100, 1000)


class Verdict(Enum):
    DEAD = "dead"
    LIVE = "live"
    UNTOLD = "untold"
    """The body decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """From the account's provider."""

    statuses: tuple[int, ...] = (401,)
    when: tuple[Signal, ...] = ()
    unless: tuple[Signal, ...] = ()

    @property
    def suspects(self) -> Collection[int]:
        """Statuses of answers that must be looked at; any other answer says nothing about the token."""
        if not all(signal.status for signal in self.when):
            return EVERY_STATUS
        return frozenset(self.statuses).union(*(signal.status for signal in self.when))

    @property
    def by_body(self) -> bool:
        """Whether any answer's body may have to be looked at."""
        return any(signal.json or signal.body for signal in (*self.when, *self.unless))

    def at_head(self, status: int, fields: Fields) -> Verdict:
        """What status and fields tell."""
        said = _Said(status, fields)
        unless = _any(said.shows(signal) for signal in self.unless)
        if unless is True:
            return Verdict.LIVE
        when = _any((self._by_status(said), *(said.shows(signal) for signal in self.when)))
        if when is False:
            return Verdict.LIVE
        if when is None or unless is None:
            return Verdict.UNTOLD if _readable(said) else self.with_body(status, fields, None)
        return Verdict.DEAD

    def with_body(self, status: int, fields: Fields, body: bytes | None) -> Verdict:
        """What the whole answer tells; ``body`` is None where it could not be had: then it shows nothing."""
        said = _Said(status, fields, _Body(body))
        if any(said.shows(signal) for signal in self.unless):
            return Verdict.LIVE
        dead = self._by_status(said) or any(said.shows(signal) for signal in self.when)
        return Verdict.DEAD if dead else Verdict.LIVE

    def _by_status(self, said: _Said) -> bool:
        return said.status in self.statuses and not _beyond_renewal(said.values(b"www-authenticate"))


class _Body:
    """What can be asked of a body; parsed once, and only where it holds the words that are looked for."""

    def __init__(self, body: bytes | None) -> None:
        self.text = body or b""
        self._read = False
        self._data: Any = None

    def shows(self, signal: Signal) -> bool:
        if signal.body and signal.body.encode() not in self.text:
            return False
        return all(self._holds(path, value) for path, value in signal.json.items())

    def _holds(self, path: str, value: str) -> bool:
        if _WORD.fullmatch(value) and value.encode() not in self.text:
            return False
        if not self._read:
            self._read, self._data = True, _parsed(self.text)
        found = self._data
        for part in path.split("."):
            found = _step(found, part)
        return found is not _NOTHING and _as_text(found) == value


class _Said:
    """An answer, as far as it is known."""

    def __init__(self, status: int, fields: Fields, body: _Body | None = None) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def values(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for each, value in self.fields if each.lower() == name]

    def shows(self, signal: Signal) -> bool | None:
        """None: the head fits, and the body is not here."""
        if signal.status and self.status not in signal.status:
            return False
        for name, part in signal.header.items():
            given = self.values(name.lower().encode())
            if not any(part.lower() in value.lower() for value in given):
                return False
        if not (signal.json or signal.body):
            return True
        return None if self.body is None else self.body.shows(signal)


def _any(answers: Iterable[bool | None]) -> bool | None:
    """``any`` where an answer may still be unknown."""
    unknown = False
    for answer in answers:
        if answer:
            return True
        unknown = unknown or answer is None
    return None if unknown else False


def _beyond_renewal(fields: Iterable[str]) -> bool:
    errors = {challenge.params.get("error", "").lower() for challenge in challenges(fields)}
    return bool(errors & NOT_DEAD) and _DEAD not in errors


def _readable(said: _Said) -> bool:
    """Whether the body is there, of a kind that is looked at, and not compressed: we decode nothing."""
    if said.status in _BODYLESS:
        return False
    coded = [value.strip().lower() for value in said.values(b"content-encoding")]
    if any(value not in {"", "identity"} for value in coded):
        return False
    kinds = said.values(b"content-type")
    if not kinds:
        return True
    kind = kinds[0].partition(";")[0].strip().lower()
    return _PLAIN.fullmatch(kind.encode("latin-1")) is not None


_NOTHING: Final = object()


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _step(data: Any, part: str) -> Any:
    """One step of a dotted path; a number steps into a list (``errors.0.code``)."""
    if isinstance(data, Mapping):
        return data.get(part, _NOTHING)
    if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
        return data[int(part)]
    return _NOTHING


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return None
