"""Alive, ready, started: three answers for whoever runs the process, none of which a hung disk can hold up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tokenproxy.errors import TokenproxyError

Check = Callable[[], Awaitable[str | None]]
"""Gives the reason why something is not ready, or None; a ``TokenproxyError`` is a reason as well."""

FRESH: Final = 1.0
"""Seconds for which an answer is believed, so that probes cannot keep the store busy."""
PATIENCE: Final = 2.0
"""Seconds that a probe waits for a check; Kubernetes gives up after 1 s by default, most others after 5 s."""


class Health:
    """What ``app`` knows about the process; a provider's outage is none of it."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.started = False
        """Migrations and the replay of renewals in doubt are through."""
        self.draining = False
        self.checks: dict[str, Check] = {}
        """By the name shown with the reason: ``store``, ``listener``, ``spool``."""
        self.ready = False
        """What ``reasons`` last came to."""
        self._monotonic = monotonic
        self._asked: dict[str, _Asked] = {}

    async def reasons(self) -> dict[str, str]:
        """Why no requests should come here now, by the name of what is wrong; empty: ready."""
        found = {} if self.started else {"starting": "still starting"}
        if self.draining:
            found["draining"] = "shutting down"
        if self.started:
            names = list(self.checks)
            answers = await asyncio.gather(*(self._reason(name) for name in names))
            found |= {name: answer for name, answer in zip(names, answers, strict=True) if answer}
        self.ready = not found
        return found

    async def _reason(self, name: str) -> str | None:
        """All probes share one run of a check; one that hangs stays the only one."""
        now = self._monotonic()
        asked = self._asked.get(name)
        if asked is None or asked.outdated(now) or asked.check is not self.checks[name]:
            asked = self._asked[name] = _Asked(self.checks[name], now, self._monotonic)
        return await asked.answer(now)


class _Asked:
    """One run of a check."""

    def __init__(self, check: Check, now: float, monotonic: Callable[[], float]) -> None:
        self.check = check
        self._since = now
        self._done_at = now
        self._monotonic = monotonic
        self._task = asyncio.ensure_future(check())
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[str | None]) -> None:
        self._done_at = self._monotonic()
        if not task.cancelled():
            task.exception()  # seen, even where the last probe left before; else asyncio logs it as forgotten

    def outdated(self, now: float) -> bool:
        return self._task.done() and now - self._done_at >= FRESH

    async def answer(self, now: float) -> str | None:
        await asyncio.wait({self._task}, timeout=max(0.0, self._since + PATIENCE - now))
        if not self._task.done():
            return f"no answer for {self._monotonic() - self._since:.0f} s"
        if self._task.cancelled():
            return "the check was interrupted"
        error = self._task.exception()
        if error is None:
            return self._task.result()
        if isinstance(error, TokenproxyError):
            return error.message
        return f"the check failed unexpectedly ({type(error).__name__})"
