"""
An account's life in any order, against a model of it: in one process on SQLite, and in two on one PostgreSQL.

``TOKENPROXY_TEST_LIVES`` is how many lives are lived; by default few. ``python -m benchmarks.reliability --only R24`` lives 2,000.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.oauth.house import ROUTE, House
from tests.simulators import FakeClock, PlainProvider
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.tokens import Sendable
from tokenproxy.errors import AccountError, StoreError

LIVES = int(os.environ.get("TOKENPROXY_TEST_LIVES", "0"))
CALLS = ("claim", "commit", "give_up", "load", "adopt", "settled", "forget")
"""Of the store, any of which may fail."""
WHICH = st.integers(0, 1)
NUMBERS = count(1)


class Life(RuleBasedStateMachine):
    """
    The provider takes a spent refresh token again only where its answer was lost; any other reuse ends the grant.

    ``model`` says whether there is a login that a careful client still has: ``in``, ``revoked`` at the provider, ``out``.
    """

    url = ""
    replicas = 1

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.account = f"books/{next(NUMBERS)}" if self.url else "books"
        self.provider = PlainProvider(clock=self.clock)
        self.provider.grace, self.provider.token_size = 10**9, 64
        self.houses: list[House] = []
        self.model: Literal["in", "revoked", "out"] = "out"

    def do(self, work: Awaitable[Any]) -> Any:
        """Move the clock on whenever the work waits for it."""
        return self.loop.run_until_complete(self._driven(work))

    async def _driven(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        async with asyncio.timeout(20):
            while not task.done():
                await asyncio.wait({task}, timeout=0.002)
                if not task.done() and (wake := self.clock.next_wake()) is not None:
                    await self.clock.advance(max(wake, 0.0))
        return task.result()

    @initialize()
    def begin(self) -> None:
        self.do(self.provider.__aenter__())
        for number in range(self.replicas):
            self.houses.append(self.do(self._open(number)))
        self.relogin(0)

    async def _open(self, number: int) -> House:
        path = self.folder / str(number) / "t.db"
        path.parent.mkdir(exist_ok=True)
        house = House(self.provider, path=path, url=self.url, clock=self.clock)
        await house.__aenter__()
        await house.source.recovered(patience=5)
        return house

    def house(self, which: int) -> House:
        return self.houses[which % self.replicas]

    # what happens

    @rule(which=WHICH, times=st.integers(1, 3))
    def request(self, which: int, times: int) -> None:
        self.do(self._requests([self.house(which)] * times))

    @rule()
    def request_everywhere(self) -> None:
        self.do(self._requests(self.houses * 2))

    @rule(seconds=st.sampled_from([1, 60, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.loop.run_until_complete(self.clock.advance(seconds))

    @rule()
    def expire(self) -> None:
        self.provider.revoke_all_access()

    @rule(which=WHICH)
    def background(self, which: int) -> None:
        self.do(self._background(self.house(which)))

    @rule(how=st.sampled_from([None, 503]))
    def outage(self, how: int | None) -> None:
        self.provider.outage = how

    @rule()
    def lose_an_answer(self) -> None:
        self.provider.lose_answers += 1

    @rule(which=WHICH, call=st.sampled_from(CALLS))
    def store_fault(self, which: int, call: str) -> None:
        self.house(which).store.failing[call] = 1

    @rule(which=WHICH)
    def restart(self, which: int) -> None:
        self.do(self._restart(which % self.replicas))

    @rule(which=WHICH, where=st.sampled_from(["before", "after"]))
    def crash(self, which: int, where: Literal["before", "after"]) -> None:
        """While a token call is at the provider, if there is one."""
        self.do(self._crash(which % self.replicas, where))

    @rule(which=WHICH)
    def relogin(self, which: int) -> None:
        with suppress(AccountError, StoreError):
            self.do(self.house(which).login(self.account))
            self.model = "in"

    @rule(which=WHICH)
    def logout(self, which: int) -> None:
        with suppress(AccountError, StoreError):
            self.do(self.house(which).source.forget(self.account))
            self.model = "out"

    @rule()
    def revoked_by_another(self) -> None:
        """Whoever uses our refresh token as well ends the grant."""
        for grant in self.provider.grants:
            grant.dead = True
        self.provider.revoke_all_access()
        self.model = "revoked" if self.model == "in" else self.model

    @rule(which=WHICH)
    def reload(self, which: int) -> None:
        house = self.house(which)
        house.source.configure({}, house.policy)
        house.source.configure(house.accounts, house.policy)

    # what must hold

    @invariant()
    def one_refresh_in_flight_and_none_spent_twice(self) -> None:
        assert self.provider.max_concurrent_token_calls <= 1
        assert self.provider.reuses == 0

    async def _requests(self, houses: Sequence[House]) -> None:
        await asyncio.gather(*(self._request(house) for house in houses))

    async def _request(self, house: House) -> Sendable | None:
        """What the data plane does; every token that it gets is looked at."""
        source, before = house.source, await self._stored(house)
        try:
            tokens = source.ready(self.account) or await source.current(self.account)
            await self._durable(house, tokens, before)
            if self.provider.live(tokens.access_token):
                source.worked(self.account, tokens)
                return tokens
            found = await source.renew(self.account, tokens, route=ROUTE)
        except AccountError:
            return None
        if isinstance(found, KeepAnswer):
            return None
        await self._durable(house, found, before)
        return found

    async def _stored(self, house: House) -> int:
        record = await house.store.store.load(self.account)
        return record.generation if record is not None else 0

    async def _durable(self, house: House, tokens: Sendable, before: int) -> None:
        """Nothing leaves that a crash would take, and nothing older than what the store had when it was asked for."""
        spooled = [kept.tokens.access_token for kept in await house.spool.waiting()]
        record = await house.store.store.load(self.account)
        assert record is not None
        overtaken = record.generation > tokens.generation
        if self.replicas > 1:  # a logout at another replica is heard a moment later
            overtaken = overtaken or record.tokens is None
        stored = record.tokens.access_token if record.tokens is not None else None
        assert overtaken or tokens.access_token in {stored, *spooled}
        if (
            self.replicas == 1
        ):  # another replica's news takes a moment, and its refresh token is not sent meanwhile
            assert tokens.generation >= before

    async def _background(self, house: House) -> None:
        house.source.renew_due(9)

    async def _restart(self, number: int, *, patience: float | None = None) -> None:
        house = self.houses[number]
        if patience is not None:
            await house.source.close(patience=patience)
        await house.__aexit__(None, None, None)
        self.houses[number] = await self._open(number)

    async def _crash(self, number: int, where: Literal["before", "after"]) -> None:
        provider = self.provider
        provider.gate, provider.hold = asyncio.Event(), where
        asking = asyncio.ensure_future(self._request(self.houses[number]))
        with suppress(TimeoutError):
            await provider.token_call_arrived(timeout=0.05)
        await self.houses[number].source.close(patience=0)
        asking.cancel()
        await asyncio.wait({asking})
        provider.gate.set()
        provider.gate = None
        await self._restart(number)

    def teardown(self) -> None:
        try:
            if self.houses:
                self.do(self._well())
        finally:
            for house in self.houses:
                self.do(house.__aexit__(None, None, None))
            self.do(self.provider.__aexit__(None, None, None))
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _well(self) -> None:
        """The world is well again: who is logged in has a live token everywhere, and it is the stored one."""
        self.provider.outage, self.provider.lose_answers = None, 0
        for house in self.houses:
            house.store.failing.clear()
        for _ in range(3):
            await self.clock.advance(400)
            for house in self.houses:
                house.source.renew_due(9)
                await house.idle()
        if self.model != "in":
            return
        for house in self.houses:
            tokens = None
            for _ in range(5):
                tokens = await self._request(house) or tokens
                if tokens is not None and self.provider.live(tokens.access_token):
                    break
                await self.clock.advance(40)
            assert tokens is not None
            assert self.provider.live(tokens.access_token)
            assert tokens == await house.kept(self.account)
            assert house.source.unstored == 0


def live(machine: type[Life], lives: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=lives,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_life_in_one_process() -> None:
    live(Life, LIVES or 12)


def test_any_life_in_two_replicas(dsn: str) -> None:
    class Two(Life):
        url = dsn
        replicas = 2

    live(Two, LIVES or 4)
