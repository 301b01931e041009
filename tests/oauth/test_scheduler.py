"""Renewals ahead of time, for accounts in use, and only for those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from tests.oauth.house import House
from tests.simulators import AskaraProvider, FakeClock, PlainProvider
from tokenproxy.core.account import State
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.oauth import scheduler


@asynccontextmanager
async def ticking(house: House) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.run(house.source, clock=house.clock, policy=lambda: house.policy))
    await asyncio.sleep(0)
    yield
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def passing(house: House, seconds: float, *, use: str | None = None) -> None:
    """So many seconds, with a request in each; what they begin ends before the next one."""
    for _ in range(int(seconds)):
        if use is not None:
            house.source.ready(use)
        await house.clock.advance(1)
        await house.idle()


async def test_a_used_account_is_renewed_when_it_is_due() -> None:
    """At two thirds of its life; no request ever waits, and none gets a stale token."""
    async with PlainProvider() as provider, House(provider) as house:
        await house.login(expires_in=300)
        provider.expires_in = 300
        async with ticking(house):
            await passing(house, 199, use="books")
            assert provider.token_calls == 0
            await passing(house, 2, use="books")
            assert provider.token_calls == 1
            for _ in range(1000):
                assert house.source.ready("books") is not None
                await house.clock.advance(1)
                await house.idle()
        assert provider.token_calls == 6
        assert house.metrics.account("books").refreshes["due", "ok"] == 6
        assert provider.validate_calls == 0


async def test_an_idle_account_is_left_alone() -> None:
    """A thousand logins that nobody uses are not a thousand token calls an hour; the next request renews."""
    async with AskaraProvider() as provider, House(provider) as house:
        provider.jwt_life = None
        await house.login(expires_in=300)
        async with ticking(house):
            await passing(house, 400)
            assert provider.token_calls == 0
            assert (await house.source.current("books")).generation == 2


async def test_an_account_that_was_used_goes_idle() -> None:
    """Used means: within the last lifetime."""
    async with PlainProvider() as provider, House(provider) as house:
        await house.login(expires_in=30)
        provider.expires_in = 30
        house.source.ready("books")
        async with ticking(house):
            await passing(house, 300)
        assert 1 <= provider.token_calls <= 2


async def test_an_outage_does_not_stop_the_clock() -> None:
    """Back-off between tries, the living token in use all the while, and a new one as soon as it works."""
    async with PlainProvider() as provider, House(provider) as house:
        await house.login(expires_in=300)
        provider.outage = 503
        async with ticking(house):
            await passing(house, 280, use="books")
            assert 4 <= provider.token_calls <= 8
            assert house.held().standing.state is State.DEGRADED
            assert house.source.ready("books") is not None
            provider.outage = None
            await passing(house, 31, use="books")
            assert house.held().standing.state is State.OK


async def test_what_needs_a_person_is_not_tried() -> None:
    """Login required, or nothing to renew with."""
    async with PlainProvider() as provider, House(provider) as house:
        await house.login("books/anna", expires_in=60)
        await house.login("books/ben", expires_in=60, refresh_token=None)
        provider.error = {"error": "invalid_grant"}
        async with ticking(house):
            for _ in range(120):
                house.source.ready("books/anna")
                house.source.ready("books/ben")
                await house.clock.advance(1)
                await house.idle()
        assert provider.token_calls == 1


async def test_never_before_the_providers_own_limit() -> None:
    """Exact Online, 30 s."""
    limit = timedelta(seconds=30)
    clock = FakeClock()
    async with (
        PlainProvider(clock=clock) as provider,
        House(provider, clock=clock, refresh_not_before_expiry=limit, jitter=lambda: -1.0) as house,
    ):
        await house.login(expires_in=600)
        async with ticking(house):
            await passing(house, 569, use="books")
            assert provider.token_calls == 0
            await passing(house, 2, use="books")
            assert provider.token_calls == 1


async def test_so_many_a_second_and_no_more() -> None:
    """After a long sleep of the machine everything is due at once."""
    async with PlainProvider() as provider, House(provider, policy=RenewPolicy(per_second=3)) as house:
        for number in range(10):
            await house.login(f"books/{number}", expires_in=300)
            house.source.ready(f"books/{number}")
        await house.clock.advance(250)
        async with ticking(house):
            await house.idle()
            for calls in (3, 6, 9, 10, 10):
                assert provider.token_calls == calls
                await passing(house, 1)


async def test_less_than_one_a_second() -> None:
    """One every two seconds is a rate, too."""
    async with PlainProvider() as provider, House(provider, policy=RenewPolicy(per_second=0.5)) as house:
        for number in range(3):
            await house.login(f"books/{number}", expires_in=300)
            house.source.ready(f"books/{number}")
        await house.clock.advance(250)
        async with ticking(house):
            await passing(house, 1)
            counts = []
            for _ in range(6):
                counts.append(provider.token_calls)
                await passing(house, 1)
        assert counts == [1, 1, 2, 2, 3, 3]
