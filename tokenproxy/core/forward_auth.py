"""What another proxy is given for its requests when it asks (forward-auth), and what it may say about it later."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tokenproxy.core.routes import Route
from tokenproxy.core.tokens import Sendable

_TICKET: Final = re.compile(rb"([0-9]{1,18})\.([0-9a-f]{32})")

PROBATION: Final = 60.0
"""
Seconds after a renewal in which a second refusal means that renewing does not help.

We do not see the upstream's answers: a new token that nobody complained about for so long has worked.
"""
MOST_KEPT: Final = 4096


class Verdict(Enum):
    """What a token is that is given out (``Tokenproxy-Answer``)."""

    TOKEN = "token"  # noqa: S105 - a word
    """The one in use; nobody complained, or not in a way that we believe."""
    NEWER = "newer"
    """Another than the one that was refused."""
    LIVE = "live"
    """The refused one: the provider says that it lives."""
    HELD = "held"
    """The refused one: a new one was refused a moment ago as well."""


def unfit(route: Route) -> str:
    """Why fields alone cannot serve a route's requests; empty where they can."""
    reasons = (
        (route.targets, "has targets, whose requests only this proxy can send"),
        (route.placeholders, "has placeholders = true, which only this proxy can replace"),
        (route.tokenless, "has an account that only captures: there is no token to give"),
        (route.inject.query, "sends its token in the query, and another proxy takes only headers from here"),
        (route.dpop, "proves each request by DPoP, which only who sends it can do"),
        (route.upstream.template, "leads where each login's tokens say, which another proxy cannot be told"),
    )
    return next((why for found, why in reasons if found), "")


def ticket(tokens: Sendable, account: str, route: str) -> bytes:
    """
    Names the generation to who was given its token (``Tokenproxy-Generation``).

    It can be made only of the token itself, so that a caller who writes the field cannot set off renewals; every
    replica knows the token and can check it.
    """
    named = f"forward-auth\0{route}\0{account}\0{tokens.generation}".encode()
    digest = hmac.digest(tokens.access_token.encode("utf-8", "surrogateescape"), named, "sha256")
    return b"%d.%b" % (tokens.generation, digest[:16].hex().encode())


def generation_of(ticket: bytes) -> int | None:
    """Of something that may be a ticket; not checked."""
    found = _TICKET.fullmatch(ticket)
    return int(found[1]) if found else None


@dataclass(slots=True)
class Given:
    """The newest generation that was given out for an account on a route."""

    generation: int
    since: float
    after_refusal: bool
    """It was obtained since the one before was refused."""
    refused: bool = False


class History:
    """What was given out, and when: nobody tells us whether an upstream took it."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], Given] = {}

    def gave(
        self, route: str, account: str, generation: int, now: float, *, after_refusal: bool = False
    ) -> bool:
        """Whether it has been in use for so long without a complaint that it has worked."""
        key = route, account
        given = self._given.get(key)
        if given is None or given.generation != generation:
            if given is None and len(self._given) >= MOST_KEPT:
                del self._given[next(iter(self._given))]
            self._given[key] = Given(generation, now, after_refusal)
            return False
        given.after_refusal |= after_refusal
        return now - given.since >= PROBATION and not given.refused

    def refused(self, route: str, account: str, generation: int, now: float) -> bool:
        """An upstream refused this generation; whether that follows the refusal of the one before."""
        given = self._given.get((route, account))
        if given is None or given.generation != generation:
            return False
        given.refused = True
        return given.after_refusal and now - given.since < PROBATION
