"""One login in memory."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tokenproxy.core.account import Reason, State
from tokenproxy.core.grants import can_renew, traits_of
from tokenproxy.core.interfaces import Claim, Clock, KeepAnswer, Record, Unstored
from tokenproxy.core.provider import ACCESS_TOKEN, Account, table_of
from tokenproxy.core.schedule import due_at, margin, next_hold
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import AccountError

Outcome = TokenSet | KeepAnswer | AccountError
"""What a renewal comes to; an error is given back and not raised, since nobody may be waiting for it."""


_BESIDE: Final = 1100
"""Bytes of resident memory that a login costs beside its tokens; ``benchmarks.accounts`` shows it."""

_LONGEST_PAUSE: Final = timedelta(days=1)
"""What ``Retry-After`` may ask for at most (``core.replies``)."""


def size_of(tokens: TokenSet) -> int:
    """Roughly what an entry with these costs, in bytes."""
    return len(tokens.access_token) + len(tokens.refresh_token or "") + _BESIDE


@dataclass(slots=True)
class Hold:
    """No renewals after a 401 of one route until ``until`` (monotonic seconds)."""

    until: float
    seconds: float
    asked: float
    """When the hold began, or when the validate call was last asked about it."""


_NO_HOLDS: Final[Mapping[str, Hold]] = MappingProxyType({})


class Entry:
    """
    The one place in memory where a login's tokens are.

    ``fresh_until`` and ``due_at`` are seconds of ``Clock.monotonic``; everything else about time is UTC.
    """

    __slots__ = (
        "account",
        "bound_to",
        "dead",
        "due_at",
        "fresh_until",
        "holds",
        "in_doubt",
        "live_generation",
        "live_until",
        "name",
        "outdated",
        "owed",
        "pause",
        "renewal",
        "renewed_at",
        "settled",
        "stamp",
        "standing",
        "tokens",
        "unstored",
        "used_at",
        "waiters",
    )

    def __init__(self, account: Account, record: Record, tokens: TokenSet) -> None:
        self.account = account
        self.name = record.account
        self.bound_to = sys.intern(record.bound_to)  # the same for all logins of a registration
        self.tokens = tokens
        self.standing = record.standing
        self.renewed_at = record.renewed_at
        self.in_doubt = record.in_flight_since is not None
        """A renewal was sent and its answer never came."""
        self.dead = False
        """The provider's validate call said that the access token is dead: it is not sent again."""
        self.outdated = False
        """The config asks for other tokens than these, or somebody may have made newer ones: asked for before use."""
        self.stamp: object = None
        """Of the origin, right before it was read the last time."""
        self.fresh_until = -math.inf
        self.due_at = math.inf
        self.used_at = -math.inf
        self.renewal: asyncio.Task[Outcome] | None = None
        self.waiters = 0
        self.live_generation = 0
        self.live_until = -math.inf
        self.holds = _NO_HOLDS
        """By route."""
        self.unstored: Unstored | None = None
        self.owed: Claim | None = None
        """A lease of ours that the store did not take back."""
        self.pause: tuple[datetime, float] | None = None
        """A ``retry_at``, and when that is in monotonic seconds."""
        self.settled = record.previous is None
        """Whether the previous refresh token need not be kept any longer."""

    def take(self, record: Record, tokens: TokenSet) -> None:
        """Put what the store has in the place of what is here."""
        self.bound_to, self.tokens, self.standing = sys.intern(record.bound_to), tokens, record.standing
        self.renewed_at = record.renewed_at
        self.in_doubt = record.in_flight_since is not None
        self.dead, self.settled = False, record.previous is None
        self.outdated = False

    def bury(self) -> None:
        """The access token is dead: it is not given out any more, whatever its expiry says, and no hold stands."""
        self.dead, self.fresh_until = True, -math.inf
        self.holds = _NO_HOLDS

    @property
    def table(self) -> str:
        return table_of(self.name)

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        return size_of(self.tokens)

    @property
    def wanted(self) -> bool:
        """Whether it must stay in memory: somebody waits for it, or it holds what is nowhere else."""
        waited_for = self.renewal is not None or self.waiters > 0
        return waited_for or self.unstored is not None or self.owed is not None

    @property
    def renewable(self) -> bool:
        """Whether there is anything to renew with."""
        return can_renew(self.account, self.tokens)

    def in_use(self, now: float) -> bool:
        """Whether it is renewed in the background: used within the last lifetime, or not to be left alone."""
        lifetime = self.tokens.lifetime
        if lifetime is None or now - self.used_at <= lifetime.total_seconds():
            return True
        return self.in_doubt or self.account.provider.refresh_with == ACCESS_TOKEN

    def may_be_kept_alive(self, clock: Clock) -> bool:
        """Whether to renew it although nobody uses it is possible, and not refused for now."""
        now = clock.monotonic()
        early, ends = self.account.provider.refresh_not_before_expiry, self.tokens.expires_at
        too_early = early is not None and ends is not None and ends - clock.now() > early
        return self.renewable and not too_early and not any(now < hold.until for hold in self.holds.values())

    @property
    def sendable(self) -> bool:
        """Whether the tokens belong to the registration of the config."""
        return self.standing.reason is not Reason.REGISTRATION_CHANGED

    def schedule(self, clock: Clock, policy: RenewPolicy, *, jitter: float) -> None:
        """Work out anew until when ``ready`` may give the tokens out and when they are due."""
        now, zero = clock.now(), clock.monotonic()

        def seconds(at: datetime) -> float:
            return zero + (at - now).total_seconds()

        provider, retry_at = self.account.provider, self.standing.retry_at
        self._time_pause(now, zero)
        self.fresh_until, self.due_at = math.inf, math.inf
        if self.tokens.expires_at is not None:
            expires = seconds(self.tokens.expires_at)
            self.fresh_until = expires - margin(self.tokens, policy, provider).total_seconds()
            if retry_at is not None:  # an early renewal failed: the living token goes on being used meanwhile
                self.fresh_until = min(expires, max(self.fresh_until, seconds(retry_at)))
            if self.standing.state is State.LOGIN_REQUIRED:  # nothing to renew with: use it up
                self.fresh_until = expires
        due = due_at(self.tokens, policy, provider, jitter=jitter)
        if due is not None:
            self.due_at = seconds(max(due, retry_at) if retry_at is not None else due)
        elif retry_at is not None and not traits_of(self.account).person:
            self.due_at = seconds(retry_at)  # asking again spends nothing, and mends what ``status`` says
        if self.in_doubt:
            self.due_at = seconds(retry_at) if retry_at is not None else zero
        if self.standing.state is State.LOGIN_REQUIRED or not self.renewable:
            self.due_at = math.inf
        if self.dead or self.outdated or not self.sendable:
            self.fresh_until = -math.inf

    def _time_pause(self, now: datetime, zero: float) -> None:
        """``zero`` is ``now`` in monotonic seconds."""
        retry_at = self.standing.retry_at
        if retry_at is None or (self.pause is not None and self.pause[0] == retry_at):
            return
        # One that the longest ``Retry-After`` cannot explain was written by a clock that was wrong.
        wait = retry_at - now
        self.pause = retry_at, zero + (wait.total_seconds() if wait <= _LONGEST_PAUSE else 0.0)

    def moment(self, clock: Clock) -> datetime:
        """Now, as a pause sees it: one that ran out is over, wherever the wall clock was set meanwhile."""
        now, pause = clock.now(), self.pause
        if pause is None or pause[0] != self.standing.retry_at or clock.monotonic() < pause[1]:
            return now
        return max(now, pause[0])

    def held(self, route: str, now: float) -> Hold | None:
        hold = self.holds.get(route)
        return hold if hold is not None and now < hold.until else None

    def hold(self, route: str, now: float, policy: RenewPolicy) -> float | None:
        """Hold 401-renewals of this route; the seconds, or None where they are held already."""
        last = self.holds.get(route)
        if last is not None and now < last.until:
            return None
        recent = last is not None and now < last.until + 2 * last.seconds
        seconds = next_hold(last.seconds if last is not None and recent else None, policy)
        self.holds = {**self.holds, route: Hold(until=now + seconds, seconds=seconds, asked=now)}
        return seconds
