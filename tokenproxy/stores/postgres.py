"""
Token sets in a PostgreSQL database, for any number of replicas.

``rows.py`` has what is asked, ``server.py`` the connections, ``listening.py`` what others change. A lease is two columns
of the account's row; the database's clock decides it, and a replica that was not seen for two and a half heartbeats
holds none, so that whoever lives need not wait for the lease of one that was killed. Whoever could not reach the database
itself for a while judges nobody until the others have had the time to give a sign of life, and to store what they have:
they had no database either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from importlib import resources
from time import monotonic
from typing import Any, Final

from tokenproxy import __version__, log
from tokenproxy.core.interfaces import Claim, Replica
from tokenproxy.core.settings import SharedStore
from tokenproxy.errors import StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import Cipher
from tokenproxy.stores.engine import ServerFacts, Value
from tokenproxy.stores.listening import Listening
from tokenproxy.stores.rows import RowStore, check_key, refuse_moved
from tokenproxy.stores.server import Server, open_server
from tokenproxy.stores.shelf import Shelf
from tokenproxy.stores.statements import SUMMARY, Statements

_log = logging.getLogger("tokenproxy.stores")

_OLDEST: Final = 130000
"""PostgreSQL 13, for gen_random_uuid()."""
_LOCK: Final = 0x746F6B656E  # "token"
"""Of pg_advisory_xact_lock: one replica at a time brings the schema up."""

_DATABASE_CLOCK: Final = "clock_timestamp()"
_IDLE: Final = """
SELECT account, renewed_at, expires_at FROM account
 WHERE config_table = :table AND sealed IS NOT NULL AND state <> 'login_required'
   AND (renewed_at, account) > (:after_at, :after) AND {aged}
   AND (retry_at IS NULL OR retry_at <= :now)
 ORDER BY renewed_at, account LIMIT :limit
"""
_MISSED: Final = 2.5
"""Heartbeats without a sign of life after which a replica is taken for dead."""
_SEEN: Final = f"seen_at + {_MISSED} * beat > clock_timestamp()"
_LIVES: Final = f"EXISTS (SELECT 1 FROM replica WHERE id = split_part(lease_owner, '/', 1) AND {_SEEN})"  # noqa: S608 - our own words
_SUMMARIES: Final = "LIMIT nullif(:limit, -1)"
# The first time, or again after a connection broke: then the mark that it found is the one that it found before.
_CLAIM: Final = """
UPDATE account
   SET fence = fence + 1, lease_owner = :owner, lease_until = {clock} + :lease,
       found_in_flight = CASE WHEN lease_owner = :owner THEN found_in_flight ELSE in_flight_since END,
       in_flight_since = :now
 WHERE account = :account AND gen = :gen
   AND (lease_until IS NULL OR lease_owner = :owner OR (:may_judge AND (lease_until <= {clock} OR NOT {lives})))
RETURNING fence, found_in_flight
"""
_PROLONG: Final = """
UPDATE account SET lease_until = {clock} + :lease WHERE account = :account AND fence = :fence AND gen = :gen
RETURNING gen
"""
_ABANDONED: Final = """
SELECT account FROM account
 WHERE in_flight_since IS NOT NULL
   AND (lease_until IS NULL OR (:may_judge AND (lease_until <= {clock} OR NOT {lives})))
   AND (retry_at IS NULL OR retry_at <= :now)
 ORDER BY in_flight_since DESC, account LIMIT nullif(:limit, -1)
"""

_STATEMENTS: Final = Statements(
    in_states=f"""{SUMMARY}
     WHERE config_table = :table AND state IN (SELECT jsonb_array_elements_text(:states::jsonb)) LIMIT :limit
    """,
    tally="SELECT config_table, state, count(*) AS number FROM account GROUP BY config_table, state",
    idle_since=_IDLE.format(aged="renewed_at < :before"),
    half_spent=_IDLE.format(aged=":now - renewed_at >= expires_at - :now"),
    abandoned=_ABANDONED,
    claim=_CLAIM,
    prolong=_PROLONG,
    reseal="""
    UPDATE account SET sealed = :sealed, prev_sealed = :prev_sealed
     WHERE account = :account AND gen = :gen
       AND sealed IS NOT DISTINCT FROM :old_sealed AND prev_sealed IS NOT DISTINCT FROM :old_prev_sealed
    RETURNING gen
    """,
    check="UPDATE store SET checks = checks + 1 RETURNING checks",
    store_id="SELECT id AS value FROM store",
    read_key_check="SELECT key_check AS value FROM store",
    first_key_check="UPDATE store SET key_check = :value WHERE key_check IS NULL",
    set_key_check="UPDATE store SET key_check = :value",
    read_moved="SELECT moved_to AS value FROM store WHERE moved_to IS NOT NULL",
    set_moved="UPDATE store SET moved_to = :place",
    damage="SELECT 'ok' AS value",  # pages are the server's business (data checksums, amcheck)
)

_BEAT: Final = """
INSERT INTO replica (id, name, version, beat) VALUES (:owner, :name, :version, :beat)
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), beat = excluded.beat
"""
_BURY: Final = "DELETE FROM replica WHERE seen_at < clock_timestamp() - interval '1 day'"
_COMPANY: Final = f"SELECT name FROM replica WHERE id <> :owner AND {_SEEN} ORDER BY name"  # noqa: S608 - our own words
_REPLICAS: Final = f"SELECT name, version, started_at, seen_at FROM replica WHERE {_SEEN} ORDER BY name"  # noqa: S608 - our own words
_HOLDER: Final = f"""
SELECT name FROM account JOIN replica ON id = split_part(lease_owner, '/', 1)
 WHERE account = :account AND lease_until > clock_timestamp() AND {_SEEN}
"""  # noqa: S608 - our own words
_LEAVE: Final = "DELETE FROM replica WHERE id = :owner"

_TABLES: Final = """
SELECT coalesce(bool_or(relname = 'schema_version'), false) AS ours, min(relname::text) AS found
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS space ON space.oid = relnamespace
 WHERE nspname = ANY (current_schemas(false)) AND relkind IN ('r', 'p')
   AND relname IN ('schema_version', 'account', 'state', 'store', 'replica')
"""
_VERSION: Final = "SELECT coalesce(max(version), 0) AS version FROM schema_version"
_SETTINGS: Final = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages,
       current_setting('synchronous_commit') AS commits,
       count(pid) AS copies, count(sync_state) AS seen, count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS safe
  FROM (SELECT 1) AS one LEFT JOIN pg_stat_replication ON true
"""


class PostgresStore(RowStore):
    """``core.interfaces.Store`` in a database; made by ``open_postgres``."""

    _beating: asyncio.Task[None] | None = None
    _hearing: asyncio.Task[None] | None = None
    _beaten_at = float("-inf")
    _cut_off = False
    """The last sign of life did not get through."""
    _judges_from = float("-inf")

    def __init__(self, server: Server, dsn: str, settings: SharedStore, **rest: Any) -> None:
        """``rest`` is what ``RowStore`` takes."""
        super().__init__(server, **rest)
        self._server = server
        self._settings = settings
        self._on_change: Callable[[str, int], None] = lambda _, __: None
        self.listening = Listening(
            server,
            dsn,
            channel=f"tokenproxy_{self.store_id}",
            every=settings.heartbeat,
            pooled=settings.pooled,
            on_account=self._account_changed,
            on_state=self._state_changed,
        )
        self._shelf.may_keep = lambda: self.listening.live

    def watch(self, on_change: Callable[[str, int], None]) -> None:
        self._on_change = on_change
        if self._hearing is None:
            self._hearing = asyncio.get_running_loop().create_task(self.listening.run(), name="listening")
        self._show_life()

    async def claim(self, account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
        """First of all others must see that we live, or they would not respect the lease."""
        if monotonic() - self._beaten_at > 1.5 * self._settings.heartbeat:
            await self._beat()
        self._show_life()
        return await super().claim(account, generation=generation, now=now, lease=lease)

    async def refuse_company(self) -> None:
        found = [row["name"] for row in await self._run("moving", _COMPANY, {"owner": self._owner})]
        if found:
            raise StoreError(
                f"the database {self._server.place} is in use by {', '.join(found)}",
                next_step="stop every replica first; two stores must not go on with the same logins",
            )

    async def replicas(self) -> Sequence[Replica]:
        return [
            Replica(row["name"], row["version"], row["started_at"], row["seen_at"])
            for row in await self._run("replicas", _REPLICAS)
        ]

    async def holder(self, account: str) -> str:
        rows = await self._run("holder", _HOLDER, {"account": account})
        return rows[0]["name"] if rows else ""

    async def close(self) -> None:
        """Leases that we still hold end with us."""
        for task in (self._beating, self._hearing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._beating is not None:
            await self._server.settle()  # a last sign of life must not come after the farewell
            with suppress(StoreError):
                await self._run("leave", _LEAVE, {"owner": self._owner})
        await super().close()

    def _claimant(self) -> str:
        return f"{self._owner}/{secrets.token_hex(4)}"

    def _may_judge(self) -> bool:
        return not self._cut_off and monotonic() >= self._judges_from

    def _account_changed(self, account: str, generation: int) -> None:
        self._on_change(account, generation)

    def _state_changed(self, account: str | None) -> None:
        if account is None:
            self._shelf.drop_all()
        else:
            self._shelf.drop(account)

    def _show_life(self) -> None:
        if self._beating is None:
            self._beating = asyncio.get_running_loop().create_task(self._beat_on(), name="heartbeat")

    async def _beat_on(self) -> None:
        beats = 0
        while True:
            with suppress(StoreError):  # counted; what it means is told by whoever needs the store
                await self._beat()
                if beats % 1000 == 0:
                    await self._run("beat", _BURY)
                beats += 1
            await asyncio.sleep(self._settings.heartbeat)

    async def _beat(self) -> None:
        began = monotonic()
        values: dict[str, Value] = {
            "owner": self._owner,
            "name": f"{socket.gethostname()} {os.getpid()}",
            "version": __version__,
            "beat": timedelta(seconds=self._settings.heartbeat),
        }
        try:
            await self._run("beat", _BEAT, values)
        except StoreError:
            self._cut_off = True
            raise
        if self._cut_off:
            self._cut_off = False
            self._judges_from = monotonic() + _MISSED * self._settings.heartbeat
        self._beaten_at = began


def statements(clock: str = _DATABASE_CLOCK) -> Statements:
    """``clock`` decides leases: the database's, in tests a value."""

    def told(sql: str) -> str:
        return sql.format(clock=clock, lives=_LIVES)

    return replace(
        _STATEMENTS,
        claim=told(_CLAIM),
        prolong=told(_PROLONG),
        abandoned=told(_ABANDONED),
        summaries=_STATEMENTS.summaries.replace("LIMIT :limit", _SUMMARIES),
        summaries_of_table=_STATEMENTS.summaries_of_table.replace("LIMIT :limit", _SUMMARIES),
    )


async def open_postgres(
    dsn: str,
    keys: Sequence[bytes],
    *,
    metrics: StoreMetrics | None = None,
    settings: SharedStore | None = None,
    clock: str = _DATABASE_CLOCK,
    retired: bool = False,
) -> PostgresStore:
    """
    Open the store, making its tables where there are none. Raises ``StoreError``, ``SealError`` when no key fits.

    ``dsn``: what libpq takes, as an address; ``clock``: see ``statements``; ``retired``: also where its logins were
    moved elsewhere.
    """
    cipher = Cipher(keys)
    metrics, settings = metrics or StoreMetrics(), settings or SharedStore()
    server = await open_server(dsn, pooled=settings.pooled, metrics=metrics)
    try:
        await _judge(server, settings)
        await _migrate(server)
        sql = statements(clock)
        if not retired:
            await refuse_moved(server, sql, server.place)
        store_id = (await server.run("open", sql.store_id))[0]["value"]
        await check_key(server, sql, cipher, store_id)
    except BaseException:
        await server.close()
        raise
    return PostgresStore(
        server,
        dsn,
        settings,
        statements=sql,
        shelf=Shelf(server, sql, store_id=store_id, metrics=metrics),
        owner=secrets.token_hex(8),
        store_id=store_id,
        cipher=cipher,
        metrics=metrics,
    )


async def _judge(server: Server, settings: SharedStore) -> None:
    """Refuse a server that forgets what it said it has; tell what else may cost a login."""
    row = (await server.run("open", _SETTINGS))[0]
    if row["version"] < _OLDEST:
        raise StoreError(
            f"the database {server.place} is PostgreSQL {row['version'] // 10000} where 13 is needed",
            next_step="upgrade the server",
        )
    if row["standby"]:
        raise StoreError(
            f"the database {server.place} takes no changes: it is a standby",
            next_step="let store.url name the primary",
        )
    lossy = _lossy(row)
    if lossy and not settings.allow_unsafe:
        raise StoreError(
            f"the database {server.place} may lose what it confirmed: {' and '.join(lossy)} = off, and a renewed token "
            f"that is lost is a login that is lost",
            next_step=f"set {lossy[0]} = on there (for this role: ALTER ROLE ... SET), or store.allow_unsafe = true",
        )
    for detail in _doubts(server.place, row, lossy):
        log.event(_log, "store_warning", detail=detail)


async def look_at(dsn: str, settings: SharedStore) -> ServerFacts:
    """What a server keeps of what it confirms; nothing is changed there. Raises ``StoreError``."""
    server = await open_server(dsn, pooled=settings.pooled, metrics=StoreMetrics())
    try:
        row = (await server.run("open", _SETTINGS))[0]
    finally:
        await server.close()
    doubts = list(_doubts(server.place, row, ()))
    if row["standby"]:
        doubts.append(f"the database {server.place} takes no changes: it is a standby")
    return ServerFacts(
        version=str(row["version"] // 10000),
        lossy=_lossy(row),
        doubts=tuple(doubts),
        standbys=row["copies"],
        synchronous=row["safe"],
    )


def _lossy(row: Any) -> tuple[str, ...]:
    """Settings by which the server forgets what it said it has."""
    columns = (("fsync", "fsync"), ("synchronous_commit", "commits"))
    return tuple(name for name, column in columns if row[column] == "off")


def _doubts(place: str, row: Any, lossy: Sequence[str]) -> Sequence[str]:
    found = [f"the database {place} may lose what it confirmed: {name} = off" for name in lossy]
    if row["pages"] == "off":
        found.append(f"full_page_writes = off at {place}: right only where the disk writes whole pages")
    if row["copies"] and row["seen"] == row["copies"] and not row["safe"]:
        found.append(
            f"no standby of {place} is synchronous: a fail-over to one may bring back a refresh token that was spent"
        )
    return found


async def _migrate(server: Server) -> None:
    """Bring the schema up to ours, all of it in one transaction; a newer one is left untouched."""
    known = await asyncio.to_thread(migrations)
    if await _version_of(server) == len(known):
        return

    async def work(connection: Any) -> None:
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = await connection.fetchrow(_TABLES)
        present = await connection.fetchval(_VERSION) if found["ours"] else 0
        for version, script in enumerate(known[present:], start=present + 1):
            await connection.execute(script)
            await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", version)

    await server.transaction(work)


async def _version_of(server: Server) -> int:
    known = len(await asyncio.to_thread(migrations))
    found = (await server.run("open", _TABLES))[0]
    if not found["ours"]:
        if found["found"] is not None:
            raise StoreError(
                f"the database {server.place} has a table {found['found']} of another program",
                next_step="give tokenproxy a database of its own, or a schema: store.url with ?search_path=NAME",
            )
        return 0
    version: int = (await server.run("open", _VERSION))[0]["version"]
    if version > known:
        raise StoreError(
            f"the database {server.place} has schema {version} and this tokenproxy knows up to {known}",
            next_step="run the newer tokenproxy that wrote it, or restore the backup from before the upgrade",
        )
    return version


def migrations() -> list[str]:
    """The scripts in order; the first makes schema 1."""
    folder = resources.files("tokenproxy.stores") / "migrations" / "postgres"
    files = sorted(
        (each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name
    )
    return [each.read_text(encoding="utf-8") for each in files]
