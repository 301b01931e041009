"""
Who is signed in to the dashboard: the admin token once, then a cookie that is worth a few hours.

A session is made at a sign-in and at no other time, under an id that nobody could have known before, so that none can be
fixed beforehand; it ends by the clock, by signing out, when it is the oldest of too many, or when the admin token changes.
"""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tokenproxy.admin.token import AdminToken

LIFE: Final = 12 * 3600.0
"""Seconds of a session, used or not."""
MOST: Final = 64
"""Sessions at once."""
TRIES: Final = 10
"""Wrong tokens that one peer may show in a row..."""
TRY_AGAIN: Final = 6.0
"""...and the seconds after which it may show another."""
PEERS: Final = 1024
"""Of whom that is remembered; the one that was heard of longest ago leaves first."""

_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Notice:
    """What came of a click, shown once."""

    kind: str
    """``good``, ``warn`` or ``bad``."""
    text: str
    next_step: str = ""


@dataclass(slots=True)
class Session:
    id: str = field(repr=False)
    form_key: str = field(repr=False)
    """What each form of this session sends back: a page elsewhere cannot know it."""
    ends: float
    """Monotonic seconds."""
    shown: str = field(repr=False)
    """The admin token that was shown for it."""
    notices: list[Notice] = field(default_factory=list)

    def told(self) -> list[Notice]:
        """What is to be shown, which is forgotten by that."""
        found, self.notices = self.notices, []
        return found

    def knows(self, form_key: str) -> bool:
        return hmac.compare_digest(form_key.encode("utf-8", "replace"), self.form_key.encode())


class Sessions:
    def __init__(self, token: Callable[[], AdminToken], monotonic: Callable[[], float]) -> None:
        """``token``: the one in force, which a reload may change."""
        self._token = token
        self._monotonic = monotonic
        self._open: OrderedDict[str, Session] = OrderedDict()

    def begin(self, shown: str) -> Session | None:
        """A new session for whoever shows the admin token; None: it is another."""
        wanted = self._token().value
        if not hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode()):
            return None
        ends = self._monotonic() + LIFE
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32), ends, wanted)
        self._open[session.id] = session
        while len(self._open) > MOST:
            self._open.popitem(last=False)
        return session

    def find(self, cookie: str | None) -> Session | None:
        session = self._open.get(cookie) if cookie and _ID.fullmatch(cookie) else None
        if session is None or self.lives(session):
            return session
        self.end(session)
        return None

    def lives(self, session: Session) -> bool:
        return (
            session.id in self._open
            and self._monotonic() < session.ends
            and hmac.compare_digest(session.shown.encode(), self._token().value.encode())
        )

    def end(self, session: Session) -> None:
        self._open.pop(session.id, None)


class Tries:
    """
    How often somebody may be wrong: a few times at once, then one every few seconds.

    Who is right is let in all the same: others behind the same address (a front, a network) must not be able to keep the
    operator out. A token has 16 characters at least and our own 256 bits: guessing leads nowhere, at any speed.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._free_at: OrderedDict[str, float] = OrderedDict()
        """Peer -> when all of its tries are forgotten."""

    def wait(self, peer: str) -> int:
        """Seconds until this peer may be wrong again; 0: now."""
        owed = self._free_at.get(peer, 0.0) - self._monotonic()
        return max(0, math.ceil(owed - (TRIES - 1) * TRY_AGAIN))

    def failed(self, peer: str) -> None:
        now = self._monotonic()
        self._free_at[peer] = max(self._free_at.pop(peer, now), now) + TRY_AGAIN
        if len(self._free_at) > PEERS:
            self._free_at.popitem(last=False)

    def succeeded(self, peer: str) -> None:
        self._free_at.pop(peer, None)
