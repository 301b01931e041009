"""Renews what is used before it must be, repeats what is in doubt, keeps alive what is idle; all by the one door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tokenproxy.core.interfaces import Clock
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.oauth.source import Source

TICK: Final = 1.0
"""Seconds between two looks; a look at 10,000 entries takes a millisecond, their own timers would take 3 MB."""


async def run(source: Source, *, clock: Clock, policy: Callable[[], RenewPolicy]) -> None:
    """Look once a second, for ever; begin at most ``policy.per_second`` renewals at each look."""
    allowance = 0.0
    while True:
        per_second = policy().per_second
        allowance = min(allowance + per_second * TICK, max(per_second, 1.0))
        allowance -= source.renew_due(int(allowance))
        if allowance >= 1.0:
            allowance -= await source.keep_alive()
        source.look()
        await clock.sleep(TICK)
