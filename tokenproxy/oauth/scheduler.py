"""Renews what is used before it must be, repeats what is in doubt, keeps alive what is idle; all by the one door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tokenproxy.core.interfaces import Clock
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.oauth.source import Source

TICK: Final = 1.0
"""Seconds between two looks; a look at 10,000 entries takes a millisecond, their own timers would take 3 MB."""


async def run(
    source: Source, *, clock: Clock, policy: Callable[[], RenewPolicy], heartbeat: float = 5.0
) -> None:
    """
    Look once a second, for ever; begin at most ``policy.per_second`` renewals at each look.

    Every ``heartbeat`` seconds: whether another process died within a renewal.
    """
    allowance, looked_at = 0.0, clock.monotonic()
    tick = min(TICK, heartbeat)
    while True:
        if clock.monotonic() - looked_at >= heartbeat:
            looked_at = clock.monotonic()
            await source.take_over()
        per_second = policy().per_second
        allowance = min(allowance + per_second * tick, max(per_second, 1.0))
        allowance -= source.renew_due(int(allowance))
        if allowance >= 1.0:
            allowance -= await source.keep_alive()
        source.look()
        await clock.sleep(tick)
