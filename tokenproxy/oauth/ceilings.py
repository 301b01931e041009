"""
How much is asked of providers at once and in a second, so that none of them holds up the renewals of another.

Two bounds on calls under way: each provider's own (``limits.concurrent``), and one over all of them
(``renew.concurrent``), which says how many logins one crash can put in doubt. The second would let a few providers
that hang starve the rest, so nobody gets more of it than what is still free: the dynamic threshold of shared-memory
switches (Choudhury and Hahne 1998). One provider has at most half of the places, two have two thirds, and so on:
however many hang, some are left until very many do.

Whoever has a request waiting goes first; background renewals look with ``open_for`` and do not even queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tokenproxy.core.grants import traits_of
from tokenproxy.core.interfaces import Clock
from tokenproxy.core.provider import Account, Ceiling
from tokenproxy.oauth.entry import Entry
from tokenproxy.oauth.tasks import Tasks

PATIENCE: Final = 30.0
"""Seconds in the queue, twice the longest token call; then it ends, so that a hanging provider collects no requests."""
_LOOK: Final = 1.0
"""Seconds between two looks at a queue that nothing moved."""


class TurnNotHadError(Exception):
    """The queue was too long; nothing was sent."""


@dataclass(slots=True, eq=False)
class _Waiting:
    entry: Entry
    until: float
    """Monotonic seconds."""
    turn: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Gate:
    """One provider's ceiling."""

    limit: Ceiling
    at: float
    """When the allowance was right, in monotonic seconds."""
    allowance: float = 1.0
    running: int = 0
    paused_until: float = 0.0
    queue: list[_Waiting] = field(default_factory=list)
    watch: asyncio.Task[None] | None = None

    def fill(self, now: float) -> None:
        """A token bucket that holds one second's calls, or one where that is less."""
        self.allowance = min(
            self.allowance + (now - self.at) * self.limit.per_second, max(self.limit.per_second, 1.0)
        )
        self.at = now

    def has_room(self, free: int, now: float) -> bool:
        """``free``: places that nobody has, of those for all providers."""
        self.fill(now)
        slow = self.limit.per_second > 0 and self.allowance < 1.0
        return not slow and self.running < min(self.limit.concurrent, free)

    def next_look(self) -> float:
        """Seconds."""
        if self.limit.per_second > 0 and self.allowance < 1.0:
            return min(_LOOK, (1.0 - self.allowance) / self.limit.per_second)
        return _LOOK

    def first(self) -> _Waiting:
        return next((each for each in self.queue if each.entry.waiters), self.queue[0])


class Ceilings:
    """Gives out turns to call providers."""

    def __init__(self, *, concurrent: int, clock: Clock, tasks: Tasks) -> None:
        self.concurrent = concurrent
        """Calls under way at once, to all providers together; a reload may change it."""
        self._monotonic = clock.monotonic
        self._sleep = clock.sleep
        self._tasks = tasks
        self._gates: dict[tuple[str, str], _Gate] = {}
        self._running = 0

    @asynccontextmanager
    async def turn(self, entry: Entry) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises ``TurnNotHadError`` after ``PATIENCE``."""
        gate = self._gate(entry.account)
        await self._wait(gate, entry)
        try:
            yield
        finally:
            self._leave(gate)

    def open_for(self, account: Account) -> bool:
        """Whether a background renewal may begin now: it would not wait, nor take anybody's turn."""
        gate, now = self._gate(account), self._monotonic()
        return not gate.queue and now >= gate.paused_until and gate.has_room(self._free, now)

    def pause(self, account: Account, seconds: float) -> None:
        """The provider asks us to slow down: no background renewals of any of its accounts so long."""
        gate = self._gate(account)
        gate.paused_until = max(gate.paused_until, self._monotonic() + seconds)

    @property
    def _free(self) -> int:
        return self.concurrent - self._running

    def _gate(self, account: Account) -> _Gate:
        """By provider and host, since the tenants of one preset may have a server each."""
        provider = account.provider
        asks = traits_of(account).endpoint or traits_of(account).person
        key = (provider.name, provider.token_origin) if asks else ("", account.name)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(provider.limits, self._monotonic())
            gate.allowance = max(provider.limits.per_second, 1.0)
        gate.limit = provider.limits  # as the config has it now
        return gate

    async def _wait(self, gate: _Gate, entry: Entry) -> None:
        now = self._monotonic()
        turn = asyncio.get_running_loop().create_future()
        waiting = _Waiting(entry, now + PATIENCE, turn)
        gate.queue.append(waiting)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if waiting in gate.queue:
                gate.queue.remove(waiting)
            elif not turn.cancelled() and turn.exception() is None:
                self._leave(gate)
            raise

    def _leave(self, gate: _Gate) -> None:
        gate.running -= 1
        self._running -= 1
        self._let_in()

    def _let_in(self) -> None:
        """One of each provider in turn, as long as there is room."""
        moved = True
        while moved:
            moved = False
            for gate in self._queues():
                if gate.has_room(self._free, self._monotonic()):
                    self._enter(gate)
                    moved = True
        for gate in self._gates.values():
            self._watch(gate)

    def _queues(self) -> Iterator[_Gate]:
        for gate in list(self._gates.values()):
            # Cancelled tasks have their futures cancelled at once, and leave the queue only when they run again.
            gate.queue = [each for each in gate.queue if not each.turn.done()]
            if gate.queue:
                yield gate

    def _enter(self, gate: _Gate) -> None:
        waiting = gate.first()
        gate.queue.remove(waiting)
        gate.running += 1
        self._running += 1
        if gate.limit.per_second > 0:
            gate.allowance -= 1.0
        waiting.turn.set_result(None)

    def _watch(self, gate: _Gate) -> None:
        """A queue has one task that looks at it; no queue, no task."""
        if gate.queue and gate.watch is None:
            gate.watch = self._tasks.start(self._look(gate), name="ceiling")
        elif not gate.queue and gate.watch is not None:
            gate.watch.cancel()
            gate.watch = None

    async def _look(self, gate: _Gate) -> None:
        while gate.queue:
            await self._sleep(gate.next_look())
            now = self._monotonic()
            for waiting in [each for each in gate.queue if now >= each.until]:
                gate.queue.remove(waiting)
                waiting.turn.set_exception(TurnNotHadError())
            self._let_in()
