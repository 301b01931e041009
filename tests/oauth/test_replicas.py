"""Several processes, one PostgreSQL, one provider that takes each refresh token once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.oauth.house import ROUTE, House
from tests.simulators import AskaraProvider
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import LoginRequiredError
from tokenproxy.stores.postgres import PostgresStore


@asynccontextmanager
async def replicas(provider: AskaraProvider, dsn: str, count: int = 2) -> AsyncIterator[list[House]]:
    """All of them listening."""
    houses = [House(provider, url=dsn) for _ in range(count)]
    try:
        for house in houses:
            await house.__aenter__()
            await until(lambda house=house: store_of(house).listening.live)
        yield houses
    finally:
        for house in houses:
            await house.__aexit__(None, None, None)


def store_of(house: House) -> PostgresStore:
    store = house.store.store
    assert isinstance(store, PostgresStore)
    return store


async def until(true: object) -> None:
    async with asyncio.timeout(10):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.002)


async def refused(house: House, rejected: TokenSet) -> TokenSet:
    outcome = await house.source.renew("books", rejected, route=ROUTE)
    assert isinstance(outcome, TokenSet)
    return outcome


async def test_a_401_everywhere_is_one_token_call(dsn: str) -> None:
    """Twenty requests in each of three replicas, all with the same dead token."""
    async with AskaraProvider() as provider, replicas(provider, dsn, 3) as houses:
        first = await houses[0].login()
        for house in houses:
            assert await house.source.current("books") == first
        provider.revoke_access(first.access_token)
        provider.gate = asyncio.Event()
        waiting = [asyncio.create_task(refused(house, first)) for house in houses for _ in range(20)]
        await provider.token_call_arrived()
        provider.gate.set()

        tokens = await asyncio.gather(*waiting)

        assert {each.access_token for each in tokens} == {(await houses[1].kept()).access_token}
        assert (provider.token_calls, provider.reuses) == (1, 0)


async def test_what_one_renewed_is_used_everywhere(dsn: str) -> None:
    """A provider may end the old access token with the new one: nobody sends it any longer than a notice takes."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        await one.login()
        await two.source.current("books")
        newer = await one.source.refresh("books")

        await until(lambda: two.source.ready("books") is None)
        assert await two.source.current("books") == newer
        assert provider.token_calls == 1


async def test_a_logout_is_one_everywhere(dsn: str) -> None:
    """Logged out means logged out, also where the token lies in memory."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        await one.login()
        await two.source.current("books")
        await one.source.forget("books")

        await until(lambda: two.source.ready("books") is None)
        with pytest.raises(LoginRequiredError):
            await two.source.current("books")
        again = await one.login()
        assert await two.source.current("books") == again


async def test_a_refusal_is_known_everywhere(dsn: str) -> None:
    """The second replica need not ask a provider that has ended the grant."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        first = await one.login()
        await two.source.current("books")
        provider.revoke_grant()
        with pytest.raises(LoginRequiredError):
            await one.source.renew("books", first, route=ROUTE)
        calls = provider.token_calls
        await until(lambda: two.source.entry("books") is None)
        with pytest.raises(LoginRequiredError):
            await two.source.renew("books", first, route=ROUTE)
        assert provider.token_calls == calls


async def test_what_a_dead_replica_had_sent_is_asked_again_at_once(dsn: str) -> None:
    """Within a few heartbeats, as the provider's grace is short; the lease alone would take 30 s."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        provider.grace = 30.0
        first = await one.login()
        await two.source.current("books")
        provider.gate = asyncio.Event()
        sent = asyncio.create_task(refused(one, first))
        await provider.token_call_arrived()
        await kill(one)
        sent.cancel()
        provider.gate.set()

        async with asyncio.timeout(10):
            while (await two.stored()).generation < 2:
                await two.source.take_over()
                await asyncio.sleep(0.05)
        assert (await two.source.current("books")).generation == 2
        assert provider.reuses == 0


async def kill(house: House) -> None:
    """What is left of a process after ``kill -9``: nothing, and no word of it."""
    store = store_of(house)
    assert store._beating is not None
    store._beating.cancel()
    for task in house.source._tasks.running:
        task.cancel()
    for name in ("give_up", "commit"):
        house.store.failing[name] = 1000
    store._beating = None
    store._settings = replace(store._settings, heartbeat=1e9)
