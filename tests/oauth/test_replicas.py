"""Several processes, one PostgreSQL, one provider that takes each refresh token once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.oauth.house import ROUTE, House
from tests.simulators import AskaraProvider
from tests.stores.clusters import sql
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import LoginRequiredError
from tokenproxy.stores.postgres import PostgresStore


@asynccontextmanager
async def replicas(provider: AskaraProvider, dsn: str, count: int = 2) -> AsyncIterator[list[House]]:
    """All of them listening, each with a spool of its own."""
    spools = tempfile.TemporaryDirectory()
    houses = [House(provider, url=dsn, path=Path(spools.name) / str(number) / "-") for number in range(count)]
    try:
        for house in houses:
            await house.__aenter__()
            await until(lambda house=house: store_of(house).listening.live)
        yield houses
    finally:
        for house in houses:
            await house.__aexit__(None, None, None)
        spools.cleanup()


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


async def test_a_pair_that_waits_for_the_store_gives_way_to_a_newer_one(dsn: str) -> None:
    """Another replica took this one for dead; what the provider gave there ended what waits here."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        provider.grace, provider.grace_answer = 30.0, "new"
        first = await one.login()
        await two.source.current("books")
        one.store.failing["commit"] = 1000
        fall_silent(one)
        ours = await refused(one, first)
        async with asyncio.timeout(10):
            while (await two.stored()).generation < 2:
                await two.source.take_over()
                await asyncio.sleep(0.05)
        theirs = await two.source.current("books")
        assert theirs != ours

        one.store.failing["commit"] = 0
        async with asyncio.timeout(10):
            while one.source.unstored:
                await one.clock.advance(one.clock.next_wake() or 0.0)
                await asyncio.sleep(0.002)

        assert await one.source.current("books") == theirs
        assert (await refused(one, theirs)).generation == 3
        assert provider.reuses == 0


async def test_a_pair_that_waits_is_stored_where_who_took_over_was_refused(dsn: str) -> None:
    """A provider that forgives nothing refused the other; then there is only this pair."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        provider.kill_on_reuse = False
        first = await one.login()
        await two.source.current("books")
        one.store.failing["commit"] = 1000
        fall_silent(one)
        ours = await refused(one, first)
        async with asyncio.timeout(10):
            while provider.reuses == 0:
                await two.source.take_over()
                await asyncio.sleep(0.05)
        await two.idle()

        one.store.failing["commit"] = 0
        async with asyncio.timeout(10):
            while one.source.unstored:
                await one.clock.advance(one.clock.next_wake() or 0.0)
                await asyncio.sleep(0.002)

        assert await two.kept() == ours


async def test_what_the_store_forgot_is_put_back(dsn: str) -> None:
    """As after a fail-over to a copy that lacks the last commit: the refresh token that it has is spent."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        first = await one.login()
        await two.source.current("books")
        await sql(dsn, "CREATE TABLE copy AS SELECT * FROM account")
        newer = await refused(one, first)
        assert await refused(two, first) == newer
        await sql(
            dsn,
            "UPDATE account SET gen = copy.gen, fence = copy.fence, sealed = copy.sealed, prev_sealed = copy.prev_sealed FROM copy",
        )

        newest = [await refused(house, newer) for house in (two, one)]

        assert newest[0] == newest[1]
        assert await one.kept() == newest[0]
        assert (provider.token_calls, provider.reuses) == (2, 0)


async def test_while_the_store_is_away_tokens_in_memory_are_used_on(dsn: str) -> None:
    """A notice came that something changed, and nobody can tell what; it is looked at as soon as somebody can."""
    async with AskaraProvider() as provider, replicas(provider, dsn) as (one, two):
        first = await one.login()
        assert await two.source.current("books") == first
        two.store.failing["summary"] = 1
        two.store.failing["load"] = 1000
        two.source._changed("books", first.generation)
        await two.idle()
        assert await two.source.current("books") == first

        two.store.failing["load"] = 0
        calls = two.store.calls["summary"]
        await two.source.take_over()
        await two.store.called("summary", calls + 1)


def fall_silent(house: House) -> None:
    """It gives no sign of life any more."""
    store = store_of(house)
    assert store._beating is not None
    store._beating.cancel()


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
