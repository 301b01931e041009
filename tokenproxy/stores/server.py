"""
A PostgreSQL server, and the one way to it: a few connections, one statement at a time, an end to every wait.

Each durable step is ONE statement in autocommit: no transaction stays open, so that a transaction pooler may sit between
(``pooler = "transaction"``), and a connection that breaks leaves nothing behind. A statement whose connection broke is
said once more: every one of ours is guarded so that the second time changes nothing (``statements.py``).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import asyncpg

from tokenproxy.core.database import place_of
from tokenproxy.errors import StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.engine import Row, Value

T = TypeVar("T")

PATIENCE: Final = 5.0
"""Seconds for one step, waiting for a connection and a second try included."""
_CONNECTIONS: Final = 4

_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("sealed", "prev_sealed", "old_sealed", "old_prev_sealed", "prefix", "value"), "bytea"),
    **dict.fromkeys(("gen", "fence", "limit", "most"), "bigint"),
    **dict.fromkeys(
        ("now", "since", "retry_at", "expires_at", "refresh_expires_at", "renewed_at", "in_flight_since"),
        "timestamptz",
    ),
    **dict.fromkeys(("before", "after_at"), "timestamptz"),
    **dict.fromkeys(("lease", "beat"), "interval"),
    "keep_mark": "boolean",
    "may_judge": "boolean",
    "fresh": "boolean",
    "fails": "integer",
}
"""Of values by name; all others are text. PostgreSQL would guess, and not always right."""
_NAME: Final = re.compile(r"(?<![:\w]):([a-z_]+)")


@dataclass(frozen=True, slots=True)
class _Fault:
    kind: str
    """The label in ``tokenproxy_store_errors_total``."""
    message: str
    next_step: str


_ADDRESS: Final = "write postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_RESTARTS: Final = "wait: it is tried again by itself; if it lasts, look at the database server's log"
_UNREACHABLE: Final = _Fault(
    "unreachable",
    "the database {place} cannot be reached: {cause}",
    "see that it runs and that store.url is right",
)
_SLOW: Final = _Fault(
    "unreachable",
    f"the database {{place}} did not answer within {PATIENCE:.0f} s",
    "see that it runs, is not overloaded, and that nothing between drops the connection",
)
_CERTIFICATE: Final = _Fault(
    "unreachable",
    "the database {place} shows a certificate that is not trusted: {cause}",
    "name the authority's certificate with sslrootcert=FILE in store.url, and the host as the certificate has it",
)
_OTHER: Final = _Fault("io", "the database {place} failed: {cause}", "look at the database server's log")
_READONLY: Final = _Fault(
    "readonly",
    "the database {place} takes no changes: it is a standby, or was made read-only",
    "let store.url name the primary (several hosts, with target_session_attrs=read-write, follow a fail-over)",
)
_CONFLICT: Final = _Fault(
    "locked",
    "the database {place} could not order two changes: {cause}",
    "nothing: it is tried again by itself",
)
_FORBIDDEN: Final = _Fault(
    "io",
    "the database {place} does not let us: {cause}",
    "give the role of store.url all rights on the tables of tokenproxy, and CREATE in its schema for an upgrade",
)
_REFUSED: Final = _Fault(
    "unreachable",
    "the database {place} does not let us in",
    "see user, password and pg_hba.conf; store.url names them",
)
_FAULTS: Final[Mapping[str, _Fault]] = {
    "25006": _READONLY,
    "28000": _REFUSED,
    "28P01": _REFUSED,
    "3D000": _Fault(
        "unreachable", "the server has no database of the name in {place}", "create it: createdb NAME"
    ),
    "40001": _CONFLICT,
    "40P01": _CONFLICT,
    "42501": _FORBIDDEN,
    "53100": _Fault(
        "full", "the disk of the database {place} is full; nothing was changed", "make room on that disk"
    ),
    "53300": _Fault(
        "unreachable",
        "the database {place} has no connection left for us",
        f"raise max_connections (a replica takes {_CONNECTIONS + 1}), or put a pooler in front",
    ),
    "57014": _SLOW,
    "57P01": _Fault("unreachable", "the database {place} shuts down", _RESTARTS),
    "57P02": _Fault("unreachable", "the database {place} crashed", _RESTARTS),
    "57P03": _Fault("unreachable", "the database {place} is starting", _RESTARTS),
}
"""By SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html)."""
_AGAIN: Final = frozenset({"40001", "40P01"})
"""Nothing was done, and the same statement will be taken."""
_ELSEWHERE: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
"""The connections of the pool lead to a server that is no longer the right one."""

_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection says that is cut in the middle of a step
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    OSError,
)
FAILED: Final = (*_LOST, asyncpg.PostgresError, TimeoutError)


class Server:
    """An ``engine.Engine``; made by ``open_server``."""

    def __init__(self, pool: asyncpg.Pool, pids: set[int], *, place: str, metrics: StoreMetrics) -> None:
        """``place`` names the database in errors, without user and password."""
        self._pool = pool
        self.pids = pids
        """Of our own sessions there: what they change is no news to us."""
        self.place = place
        self._metrics = metrics
        self._tasks = _Tasks()

    async def run(
        self, operation: str, sql: str, parameters: Mapping[str, Value] | None = None
    ) -> Sequence[Row]:
        """Goes on when the caller is cancelled: it happens wholly or not at all."""
        text, names = _translated(sql)
        values = [(parameters or {})[name] for name in names]
        began = perf_counter()
        try:
            rows = await asyncio.shield(self._tasks.start(self._twice(text, values)))
        except FAILED as error:
            raise self._explained(operation, error) from error
        if operation in self._metrics.seconds:
            self._metrics.seconds[operation].observe(perf_counter() - began)
        return rows

    async def _twice(self, text: str, values: Sequence[Value]) -> Sequence[Row]:
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._once(text, values)
            except _LOST:
                await self._pool.expire_connections()  # the others are cut as well, and do not know it yet
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _AGAIN:
                    raise
            return await self._once(text, values)

    async def _once(self, text: str, values: Sequence[Value]) -> Sequence[Row]:
        connection = await self._pool.acquire()
        try:
            rows: Sequence[Row] = await connection.fetch(text, *values)
        except (TimeoutError, asyncio.CancelledError):
            connection.terminate()  # to ask the server to stop would take as long again
            raise
        finally:
            await self._pool.release(connection)
        return rows

    async def transaction(self, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        """What it does happens together or not at all, before anybody else has this server. Raises ``StoreError``."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await work(connection)
        except FAILED as error:
            raise self._explained("migrate", error) from error

    async def wipe_log(self) -> None:
        """Its write-ahead log is the server's own; what it keeps is sealed."""

    async def refuse_lost(self) -> None:
        """A server whose files were taken away says so by itself."""

    async def settle(self) -> None:
        """Until nothing that was begun is under way any more."""
        await self._tasks.finish()

    async def close(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._tasks.finish()
                await self._pool.close()
        except FAILED:
            self._pool.terminate()

    def _explained(self, operation: str, error: BaseException) -> StoreError:
        state = getattr(error, "sqlstate", None)
        if state in _ELSEWHERE:
            self._tasks.start(self._pool.expire_connections())
        return explained(error, place=self.place, operation=operation, metrics=self._metrics)


class _Tasks:
    """Held until they end, and their failures are nobody's surprise: whoever waits for one is told."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self) -> None:
        if self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()


def explained(error: BaseException, *, place: str, operation: str, metrics: StoreMetrics) -> StoreError:
    """In a sentence, with the next step; without anything that PostgreSQL quotes of a row."""
    state = getattr(error, "sqlstate", None) or ""
    fault = _FAULTS.get(state)
    if fault is None and isinstance(error, ssl.SSLCertVerificationError):
        fault = _CERTIFICATE
    if fault is None and isinstance(error, TimeoutError):
        fault = _SLOW
    if fault is None:
        fault = _UNREACHABLE if isinstance(error, _LOST) else _OTHER
    metrics.error(operation, fault.kind)
    return StoreError(fault.message.format(place=place, cause=_cause(error)), next_step=fault.next_step)


def _cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    first, *_ = str(error).splitlines() or [""]
    return first.rstrip(".") or type(error).__name__


@lru_cache(maxsize=256)
def _translated(sql: str) -> tuple[str, tuple[str, ...]]:
    """``:name`` as ``$1::type``, and the names in their order."""
    names: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        name = found[1]
        number = names.setdefault(name, len(names) + 1)
        return f"${number}::{_TYPES.get(name, 'text')}"

    return _NAME.sub(numbered, sql), tuple(names)


async def open_server(dsn: str, *, pooled: bool, metrics: StoreMetrics) -> Server:
    """
    Connections to the server that the DSN names, as libpq reads it. Raises ``StoreError``.

    ``pooled``: a transaction pooler sits between, which knows no prepared statements.
    """
    pids = set[int]()
    try:
        place = place_of(dsn)
    except ValueError as wrong:
        raise StoreError(f"store.url {wrong}", next_step=_ADDRESS) from None

    async def begun(connection: asyncpg.Connection) -> None:
        pid = connection.get_server_pid()
        pids.add(pid)
        connection.add_termination_listener(lambda _: pids.discard(pid))

    try:
        async with asyncio.timeout(PATIENCE):
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=_CONNECTIONS,
                init=begun,
                reset=_as_it_is,
                **settings_of(pooled=pooled),
            )
    except asyncpg.ClientConfigurationError as error:
        raise StoreError(
            f"store.url is no PostgreSQL address: {_without(dsn, error)}",
            next_step=_ADDRESS,
        ) from None
    except FAILED as error:
        raise explained(error, place=place, operation="open", metrics=metrics) from None
    except ValueError:  # what it says may quote a part of the password
        raise StoreError(
            "store.url is no PostgreSQL address: it cannot be read",
            next_step="write postgresql://USER:PASSWORD@HOST:5432/DATABASE, with what is special in a password as %XX",
        ) from None
    return Server(pool, pids, place=place, metrics=metrics)


async def _as_it_is(_: asyncpg.Connection) -> None:
    """We change no session, so that there is nothing to set back: a round trip less for every step."""


def settings_of(*, pooled: bool) -> dict[str, Any]:
    """Of every connection; a pooler takes no settings at its start but the name."""
    cache = {"statement_cache_size": 0} if pooled else {}
    return {
        "server_settings": {"application_name": "tokenproxy"},
        "timeout": PATIENCE,
        "command_timeout": PATIENCE,
        **cache,
    }


def _without(dsn: str, error: ValueError) -> str:
    """What asyncpg says, unless it quotes the address, which holds the password."""
    text = str(error)
    parts = urlsplit(dsn) if "://" in dsn else None
    quoted = parts is not None and any(each in text for each in (dsn, parts.netloc) if each)
    return "it cannot be read" if quoted else text
