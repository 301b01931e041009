"""Every store keeps the same contract, and on random histories all of them say the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores.clusters import schema
from tests.stores.contract import StoreContract
from tests.stores.values import BOUND, GONE, KEY, LEASE, LOST, NOW, OK, tokens
from tokenproxy.core.interfaces import Claim, StateValue, Store
from tokenproxy.stores import open_store
from tokenproxy.stores.postgres import open_postgres


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind: str = request.param
    if kind == "postgresql":
        address: str = request.getfixturevalue("dsn")
        return address
    return {"memory": "memory:", "sqlite": f"sqlite:{tmp_path / 'store.db'}"}[kind]


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await opened_at(url)
    yield opened
    await opened.close()


async def opened_at(url: str) -> Store:
    """With leases by the times of the test; that a database goes by its own is ``test_postgres``'s matter."""
    if url.startswith("postgresql:"):
        return await open_postgres(url, [KEY], clock=":now")
    return await open_store(url, [KEY])


@pytest.mark.parametrize("url", ["memory", "sqlite", "postgresql"], indirect=True)
class TestContract(StoreContract):
    """The suite, once per store."""


Step = tuple[str, str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "claim",
                "commit",
                "give_up",
                "prolong",
                "adopt",
                "forget",
                "settled",
                "stand",
                "rebind",
                "reseal",
                "put",
                "drop",
            ]
        ),
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),  # a generation
        st.integers(0, 90),  # seconds since the start; also picks one of the claims
    ),
    max_size=40,
)


class Actor:
    """Does the same steps to one store, with the claims that it got from it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.claims: list[Claim] = []

    async def do(self, step: Step) -> object:
        """What the store answered, in a form that can be compared between stores."""
        what, account, generation, number = step
        now = NOW + timedelta(seconds=number)
        match what:
            case "claim":
                claimed = await self.store.claim(account, generation=generation, now=now, lease=LEASE)
                self.claims += [claimed] if claimed else []
                return claimed and replace(claimed, fence=0)
            case "commit" | "give_up" if self.claims:
                return await self.finish(what, self.claims[number % len(self.claims)])
            case "prolong" if self.claims:
                claimed = self.claims[number % len(self.claims)]
                return await self.store.prolong(claimed, now=now, lease=LEASE)
            case "adopt":
                return await self.store.adopt(
                    account, tokens(generation + 1), bound_to=BOUND, standing=OK, now=now
                )
            case "forget":
                return await self.store.forget(account, standing=GONE)
            case "put":
                return await self.store.put_state(account, f"p/{generation}", StateValue(str(number)))
            case "drop":
                return await self.store.put_state(account, f"p/{generation}", None)
            case "settled":
                await self.store.settled(account, generation=generation)
            case "stand":
                await self.store.stand(account, replace(LOST, fails=number))
            case "rebind":
                await self.store.rebind(account, bound_to=str(number), standing=OK)
            case "reseal":
                await self.store.reseal()
        return None

    async def finish(self, what: str, claimed: Claim) -> bool:
        if what == "give_up":
            return await self.store.give_up(claimed, standing=LOST, keep_mark=claimed.fence % 2 == 0)
        return await self.store.commit(
            claimed, tokens(claimed.generation + 1), previous="spent", standing=OK, now=NOW
        )

    async def seen(self) -> object:
        accounts = [await self.store.load(account) for account in ("a", "b")]
        state = [dict(await self.store.state(account)) for account in ("a", "b")]
        later = NOW + timedelta(seconds=45)
        idle = [await self.store.idle("a", before=before, now=later, limit=9) for before in (later, None)]
        tally = {table: dict(counts) for table, counts in (await self.store.tally()).items()}
        free = await self.store.abandoned(now=later, limit=9)
        return accounts, state, await self.store.summaries(), await self.store.in_doubt(), free, idle, tally


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_stores_agree_on_any_history(steps: list[Step]) -> None:
    """The plain store in memory says what is right; the one with SQL in it must say the same at every step."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(compare(f"sqlite:{folder}/store.db", steps))


@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_a_database_agrees_on_any_history(steps: list[Step]) -> None:
    """The same SQL means the same to another server."""
    with schema() as address:
        asyncio.run(compare(address, steps))


async def compare(url: str, steps: list[Step]) -> None:
    actors = [Actor(await opened_at(each)) for each in ("memory:", url)]
    try:
        for step in steps:
            plain, sql = [await actor.do(step) for actor in actors]
            assert plain == sql, step
            plain, sql = [await actor.seen() for actor in actors]
            assert plain == sql, step
    finally:
        for actor in actors:
            await actor.store.close()
