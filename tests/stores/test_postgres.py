"""What only the PostgreSQL store can get wrong: several replicas, servers that restart, clocks, settings, migrations."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from typing import Any

import asyncpg
import pytest

from tests.simulators import Changes
from tests.stores.clusters import sql, with_options
from tests.stores.values import GONE, KEY, LEASE, LOST, NOW, OK, OTHER_KEY, adopt, claim, commit, tokens
from tokenproxy import __version__
from tokenproxy.core.interfaces import StateValue
from tokenproxy.core.settings import SharedStore
from tokenproxy.errors import SealError, StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores import open_store
from tokenproxy.stores.postgres import PostgresStore, migrations, open_postgres

QUICK = SharedStore(heartbeat=0.2)
YEARS = timedelta(days=9999)


@asynccontextmanager
async def opened(dsn: str, *keys: bytes, **settings: Any) -> AsyncIterator[PostgresStore]:
    store = await open_postgres(dsn, keys or [KEY], settings=replace(QUICK, **settings))
    try:
        yield store
    finally:
        await store.close()


class Heard:
    """What a store is told that others changed."""

    def __init__(self, store: PostgresStore) -> None:
        self.changes = Changes()
        self.told: list[tuple[str, int]] = []
        store.watch(self.hear)

    def hear(self, account: str, generation: int) -> None:
        self.told.append((account, generation))
        self.changes.happened()

    async def until(self, *wanted: tuple[str, int]) -> None:
        await self.changes.until(lambda: set(wanted) <= set(self.told), what=f"{wanted}, told {self.told}")


async def listening(store: PostgresStore) -> None:
    async with asyncio.timeout(10):
        while not store.listening.live:
            await asyncio.sleep(0.005)


async def cut(dsn: str) -> None:
    """Every connection of tokenproxy to the server ends, as when it restarts."""
    await sql(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tokenproxy'",
    )


# --- leases between replicas ----------------------------------------------------------------------------------------


async def test_one_claim_at_a_time_over_all_replicas(dsn: str) -> None:
    """A refresh token that two of us send may cost the login (RFC 9700 section 4.14)."""
    async with opened(dsn) as one, opened(dsn) as two:
        await adopt(one)

        claims = await asyncio.gather(
            *(
                store.claim("crm/anna", generation=1, now=NOW, lease=LEASE)
                for _ in range(10)
                for store in (one, two)
            )
        )

        assert sum(each is not None for each in claims) == 1
        (taken,) = [each for each in claims if each is not None]
        assert await commit(two, taken)
        record = await one.load("crm/anna")
        assert record is not None
        assert record.tokens == tokens(2)


async def test_the_databases_clock_decides_leases(dsn: str) -> None:
    """A replica whose clock is years ahead must not take over what another is just sending."""
    async with opened(dsn) as one, opened(dsn) as two:
        await adopt(one)
        held = await claim(one, at=NOW - YEARS)

        assert await two.claim("crm/anna", generation=1, now=NOW + YEARS, lease=LEASE) is None
        assert await two.abandoned(now=NOW + YEARS, limit=9) == []
        assert await one.prolong(held, now=NOW - YEARS, lease=timedelta(0))
        assert await two.claim("crm/anna", generation=1, now=NOW, lease=LEASE) is not None


async def test_who_is_not_heard_of_any_more_holds_no_lease(dsn: str) -> None:
    """Whoever lives must not wait 30 s for one that was killed: the provider's grace may be 10."""
    dead = await open_postgres(dsn, [KEY], settings=QUICK)
    async with opened(dsn) as store:
        await adopt(dead)
        await claim(dead)
        assert await store.abandoned(now=NOW, limit=9) == []
        assert dead._beating is not None
        dead._beating.cancel()  # as kill -9 would

        began = monotonic()
        async with asyncio.timeout(10):
            while await store.abandoned(now=NOW, limit=9) != ["crm/anna"]:
                await asyncio.sleep(0.02)
        assert monotonic() - began < 2.5 * QUICK.heartbeat + 1
        assert (await claim(store)).found_in_flight == NOW
    await dead.close()


async def test_a_replica_that_ends_gives_its_leases_back(dsn: str) -> None:
    """After an orderly end nobody waits at all."""
    async with opened(dsn) as one:
        await adopt(one)
        await claim(one)
    async with opened(dsn) as two:
        assert await two.abandoned(now=NOW, limit=9) == ["crm/anna"]
        assert await two.claim("crm/anna", generation=1, now=NOW, lease=LEASE) is not None


# --- hearing of each other ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [False, True], ids=["listen", "poll"])
async def test_what_one_changes_the_other_hears(dsn: str, pooled: bool) -> None:
    """New tokens, none any more, a standing, the end of a lease: each without a token in what is sent."""
    async with opened(dsn) as one, opened(dsn, pooled=pooled) as two:
        await adopt(one, "before")
        heard = Heard(two)
        async with asyncio.timeout(10):
            while not two.listening.live and two.listening._since is None:
                await asyncio.sleep(0.005)
        for name in ("new", "gone", "stood", "given up"):
            await adopt(one, name)
        await commit(one, await claim(one, "new"))
        await one.forget("gone", standing=GONE)
        await one.stand("stood", LOST)
        await one.give_up(await claim(one, "given up"), standing=OK, keep_mark=False)

        await heard.until(("new", 2), ("gone", 1), ("stood", 1), ("given up", 1))


async def test_what_no_release_of_ours_says_is_not_heard(dsn: str) -> None:
    """Whoever may use the database may speak on the channel; it must cost neither an error nor what is said behind it."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with opened(dsn) as one, opened(dsn) as two:
        heard = Heard(two)
        await listening(two)
        for said in (
            "",
            "account",
            "account x y",
            "account 1",
            "state 1",
            "other 7 books",
            f"account {9**30} z",
        ):
            await sql(dsn, f"SELECT pg_notify('tokenproxy_{two.store_id}', '{said}')")
        await adopt(one, "books")

        await heard.until(("books", 1))
        assert heard.told == [("books", 1)]
    assert not faults


async def test_what_we_did_ourselves_is_no_news(dsn: str) -> None:
    """Else every renewal would make its own replica read what it has just written."""
    async with opened(dsn) as one, opened(dsn) as two:
        heard = Heard(one)
        await listening(one)
        await adopt(one, "mine")
        await commit(one, await claim(one, "mine"))
        await adopt(two, "theirs")

        await heard.until(("theirs", 1))
        assert heard.told == [("theirs", 1)]


async def test_what_was_missed_while_the_line_was_cut_is_told_after_it(dsn: str) -> None:
    """A notice is sent once and to those who listen then; a logout must take effect all the same."""
    async with opened(dsn) as one, opened(dsn) as two:
        await adopt(one)
        heard = Heard(two)
        await listening(two)
        await cut(dsn)
        assert await one.forget("crm/anna", standing=GONE)

        await heard.until(("crm/anna", 1))
        await listening(two)


async def test_state_that_another_replica_put_is_seen(dsn: str) -> None:
    """What is kept in memory for requests must not outlive what the database says."""
    async with opened(dsn) as one, opened(dsn) as two:
        two.watch(lambda _, __: None)
        await two.state("crm/anna")
        await listening(two)
        for value in ("1", "2", None):
            await two.state("crm/anna")
            await one.put_state("crm/anna", "a", StateValue(value) if value else None)
            async with asyncio.timeout(10):
                while await two.state("crm/anna") != ({"a": StateValue(value)} if value else {}):
                    await asyncio.sleep(0.005)


async def test_who_does_not_listen_keeps_no_state(dsn: str) -> None:
    """Behind a pooler, or while the line is cut, each look is at the database."""
    async with opened(dsn) as one, opened(dsn, pooled=True) as two:
        for value in ("1", "2"):
            await one.put_state("crm/anna", "a", StateValue(value))
            assert await two.state("crm/anna") == {"a": StateValue(value)}


# --- a server that fails --------------------------------------------------------------------------------------------


async def test_a_restart_of_the_server_is_not_noticed(dsn: str) -> None:
    """Connections that it cut are made anew, and the statement is said once more."""
    async with opened(dsn) as store:
        await adopt(store)
        claimed = await claim(store)
        for _ in range(3):
            await cut(dsn)
            assert await commit(store, claimed)
        await store.check()


async def test_a_claim_whose_answer_was_lost_is_no_doubt(dsn: str) -> None:
    """Said again, it is the same claim: it must not find its own mark and take it for a renewal that was sent."""
    async with opened(dsn) as store:
        await adopt(store)
        store._claimant = lambda: f"{store._owner}/same"  # type: ignore[method-assign]
        await claim(store)

        assert (await claim(store)).found_in_flight is None


async def test_a_standby_in_the_place_of_the_primary_is_one_sentence(dsn: str) -> None:
    """A failed-over address leads to a server that takes no changes; nothing is lost, and it is said what to do."""
    async with opened(dsn):
        pass
    async with opened(with_options(dsn, default_transaction_read_only="on")) as store:
        with pytest.raises(StoreError, match="takes no changes") as refused:
            await adopt(store)
    assert "primary" in refused.value.next_step


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("postgresql://anna:planted-password@127.0.0.1:1/x", "postgresql://127.0.0.1:1/x cannot be reached"),
        ("postgresql://anna:planted-password@127.0.0.1:no/x", "is no PostgreSQL address"),
        ("postgresql://anna:1234/planted@127.0.0.1:1/x", "cannot be read"),
        ("postgresql://anna:1234#planted@127.0.0.1:1/x", "cannot be read"),
        ("postgresql://anna:1@planted@127.0.0.1:1/x", "cannot be read"),
        ("postgresql:///x", "must name a host"),
        (
            "postgresql://anna:planted-password@127.0.0.1/x?sslmode=planted-password",
            "is no PostgreSQL address",
        ),
    ],
)
async def test_an_address_that_does_not_work_is_told_without_its_password(
    address: str, sentence: str
) -> None:
    """Errors are logged and shown to whoever asks."""
    with pytest.raises(StoreError, match=sentence) as refused:
        await open_store(address, [KEY])
    assert "planted" not in f"{refused.value} {refused.value.next_step}"
    assert "password" not in str(refused.value)


async def test_a_server_that_says_nothing_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A black hole: connected, and no answer. Requests with a live token in memory never come here."""
    monkeypatch.setattr("tokenproxy.stores.server.PATIENCE", 0.3)
    held: list[asyncio.StreamWriter] = []

    async def swallow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = monotonic()
    try:
        with pytest.raises(StoreError, match="did not answer"):
            await open_store(f"postgresql://anna@127.0.0.1:{port}/x", [KEY])
        assert monotonic() - began < 2
    finally:
        for each in held:
            each.close()
        server.close()
        await server.wait_closed()


async def test_a_cut_statement_ends_in_time(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another transaction holds the row: the step ends with a sentence, and the store goes on."""
    metrics = StoreMetrics()
    store = await open_postgres(dsn, [KEY], settings=QUICK, metrics=metrics)
    await adopt(store)
    blocking = await asyncpg.connect(dsn)
    try:
        transaction = blocking.transaction()
        await transaction.start()
        await blocking.execute("SELECT * FROM account FOR UPDATE")
        monkeypatch.setattr("tokenproxy.stores.server.PATIENCE", 0.3)
        with pytest.raises(StoreError, match="did not answer"):
            await store.stand("crm/anna", LOST)
        assert metrics.errors == {("stand", "unreachable"): 1}
        await transaction.rollback()
        monkeypatch.undo()
        await store.stand("crm/anna", LOST)
    finally:
        await blocking.close()
        await store.close()


# --- settings and schema --------------------------------------------------------------------------------------------


async def test_a_server_that_forgets_what_it_confirmed_needs_an_explicit_word(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewed token that is lost is a login that is lost; ``synchronous_commit = off`` loses half a second."""
    lossy = with_options(dsn, synchronous_commit="off")

    with pytest.raises(StoreError, match="synchronous_commit = off") as refused:
        await open_store(lossy, [KEY])
    assert "store.allow_unsafe = true" in refused.value.next_step
    async with opened(lossy, allow_unsafe=True) as store:
        await adopt(store)
    assert [record.message for record in caplog.records] == ["store_warning"]


async def test_a_newer_schema_is_left_alone(dsn: str) -> None:
    """An older replica in a rolling upgrade must not touch what it does not know."""
    async with opened(dsn):
        pass
    await sql(dsn, "INSERT INTO schema_version (version) VALUES (99)")

    with pytest.raises(
        StoreError, match=f"has schema 99 and this tokenproxy knows up to {len(migrations())}"
    ):
        await open_store(dsn, [KEY])


async def test_replicas_that_start_together_make_one_schema(dsn: str) -> None:
    """The lock lets one of them do it; the key of the first is the key of all."""
    stores = await asyncio.gather(*(open_postgres(dsn, [KEY], settings=QUICK) for _ in range(4)))
    try:
        assert len({store.store_id for store in stores}) == 1
        assert await sql(dsn, "SELECT version FROM schema_version") == [(1,)]
    finally:
        for store in stores:
            await store.close()
    with pytest.raises(SealError):
        await open_store(dsn, [OTHER_KEY])


async def test_somebody_elses_tables_are_left_alone(dsn: str) -> None:
    """``account`` is a name that other programs use too."""
    await sql(dsn, "CREATE TABLE account (id int)")

    with pytest.raises(StoreError, match="a table account of another program") as refused:
        await open_store(dsn, [KEY])
    assert "search_path" in refused.value.next_step


async def test_nothing_readable_is_in_the_database(dsn: str) -> None:
    """A dump without the key is worth nothing."""
    async with opened(dsn) as store:
        await adopt(store)
        await commit(store, await claim(store))
        await store.put_state("crm/anna", "a", StateValue("planted-state"))
        rows = [
            str(row)
            for table in ("account", "state", "store", "replica")
            for row in await sql(dsn, f"SELECT * FROM {table}")
        ]

    assert rows
    assert not any("planted" in row for row in rows)


async def test_a_key_can_be_changed_while_others_write(dsn: str) -> None:
    """Other replicas go on: they have both keys by then."""
    async with opened(dsn, KEY, OTHER_KEY) as one, opened(dsn, KEY, OTHER_KEY) as two:
        for number in range(30):
            await adopt(one, f"crm/{number}")
        await one.use_keys([OTHER_KEY, KEY])

        async def write() -> None:
            for number in range(30):
                await commit(two, await claim(two, f"crm/{number}"))

        await asyncio.gather(one.reseal(), write())
        await two.use_keys([OTHER_KEY, KEY])
        await one.reseal()
    async with opened(dsn, OTHER_KEY) as store:
        for number in range(30):
            assert (await store.load(f"crm/{number}")) is not None


async def test_without_the_package_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """``pip install tokenproxy`` alone does not bring it."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for name in ("postgres", "server", "listening"):
        monkeypatch.delitem(sys.modules, f"tokenproxy.stores.{name}", raising=False)

    with pytest.raises(StoreError, match="is not installed") as refused:
        await open_store("postgresql://127.0.0.1/x", [KEY])
    assert refused.value.next_step == "pip install 'tokenproxy[postgres]'"


# --- who is there, for people ---------------------------------------------------------------------------------------


async def test_replicas_and_the_holder_of_a_lease_are_known_by_name(dsn: str) -> None:
    """At three in the morning: which of them is at it?"""
    async with opened(dsn) as one:
        await adopt(one)
        assert await one.holder("crm/anna") == ""
        held = await claim(one)
        async with opened(dsn) as two:
            two.watch(lambda *_: None)
            async with asyncio.timeout(10):
                while len(await two.replicas()) < 2:
                    await asyncio.sleep(0.005)
            names = {each.name for each in await two.replicas()}
            assert len(names) == 1, "host and process are the same here"
            assert await two.holder("crm/anna") in names
            assert {each.version for each in await two.replicas()} == {__version__}
        await commit(one, held)
        assert await one.holder("crm/anna") == ""
