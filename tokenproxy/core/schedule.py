"""When a token set is renewed, when a failed renewal is tried again, how long a hold lasts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from tokenproxy.core.interfaces import Idle
from tokenproxy.core.provider import ACCESS_TOKEN, Provider
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import TokenSet

LONGEST_BACKOFF: Final = 30.0
LONGEST_HOLD: Final = 300.0
MISCONFIGURED_PAUSE: Final = timedelta(minutes=5)
"""A refused client registration does not mend itself; a reload ends the pause."""
LIVE_FOR: Final = 10.0
"""Seconds for which the validate call's "live" is believed."""


def margin(tokens: TokenSet, policy: RenewPolicy, provider: Provider) -> timedelta:
    """How long before its expiry a token set is stale: min(60 s, 10 % of its life), never before the provider allows."""
    stale = timedelta(seconds=policy.stale)
    if tokens.lifetime is not None:
        stale = min(stale, tokens.lifetime / 10)
    if provider.refresh_not_before_expiry is not None:
        stale = min(stale, provider.refresh_not_before_expiry)
    return stale


def due_at(tokens: TokenSet, policy: RenewPolicy, provider: Provider, *, jitter: float) -> datetime | None:
    """
    When a token set is renewed in the background; None where its expiry is unknown.

    At half of its life where the access token renews itself, else at 2/3 (cert-manager's default), give or take 10 % of
    it, at most ``policy.due`` ahead, and never before the provider allows. ``jitter`` is from -1 to 1.
    """
    if tokens.expires_at is None:
        return None
    if provider.refresh_with == ACCESS_TOKEN and tokens.issued_at is not None:
        # Late is too late here: a dead access token renews nothing, and then somebody must log in.
        return tokens.issued_at + (tokens.expires_at - tokens.issued_at) * (0.5 + 0.1 * jitter)
    earliest = tokens.expires_at - timedelta(seconds=policy.due)
    if provider.refresh_not_before_expiry is not None:
        earliest = max(earliest, tokens.expires_at - provider.refresh_not_before_expiry)
    if tokens.issued_at is None or tokens.lifetime is None:
        return earliest
    two_thirds = tokens.issued_at + tokens.lifetime * (2 / 3 + 0.1 * jitter)
    latest = tokens.expires_at - margin(tokens, policy, provider)
    # Spread out also what the limit of 15 minutes would bring together: a mass login makes a mass renewal.
    spread = timedelta(seconds=policy.due) * 0.1 * (jitter + 1) / 2
    return min(max(two_thirds, earliest + spread), max(latest, earliest))


KEEP_ALIVE_LOOK: Final = 60.0
"""Seconds between two looks for idle logins where there are none; also the longest pause between two renewals."""


def keep_alive_pause(provider: Provider, oldest: Idle, *, logins: int, now: datetime, jitter: float) -> float:
    """
    Seconds between two keep-alive renewals of one account table that has so many logins.

    All of them within a quarter of what ``oldest`` has left, which is an eighth of the whole at first; one that has
    nothing left hurries nobody. ``jitter`` is from -1 to 1.
    """
    ends, whole = oldest.expires_at or now, (oldest.expires_at or now) - oldest.renewed_at
    if provider.refresh_with != ACCESS_TOKEN and provider.refresh_idle is not None:
        ends, whole = oldest.renewed_at + provider.refresh_idle, provider.refresh_idle
    left = (ends - now).total_seconds()
    within = max(left / 4 if left > 0 else whole.total_seconds() / 8, KEEP_ALIVE_LOOK)
    return min(within / max(logins, 1), KEEP_ALIVE_LOOK) * (1 + 0.1 * jitter)


def backoff(fails: int, *, jitter: float, asked: float | None = None) -> timedelta:
    """
    How long to wait after the ``fails``-th failure in a row: 1 s doubling to 30 s, half of it random.

    ``asked`` is the provider's ``Retry-After`` in seconds and is never undercut. ``jitter`` is from -1 to 1.
    """
    longest = min(LONGEST_BACKOFF, 2.0 ** min(fails - 1, 10))
    seconds = longest * (0.75 + 0.25 * jitter)
    return timedelta(seconds=max(seconds, asked or 0.0))


def next_hold(last: float | None, policy: RenewPolicy) -> float:
    """Seconds of the next hold: ``policy.hold``, doubling to 300."""
    return policy.hold if last is None else min(last * 2, max(LONGEST_HOLD, policy.hold))
