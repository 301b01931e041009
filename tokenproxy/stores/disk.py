"""
One SQLite file, ours alone while it is open, and the one way to it.

Rules: each durable step is ONE statement in autocommit. aiosqlite lets tasks interleave on the connection, so that a
statement of one task inside another's transaction would be rolled back with it after its caller was told that it is
safe. The only transactions are migrations, which run before anybody else has the connection, each as one script. A
caller that is cancelled therefore leaves nothing behind: its statement happens wholly or not at all.

``locking_mode=EXCLUSIVE`` keeps other processes out and the WAL's index in memory: the WAL-reset bug of SQLite 3.7 to
3.51.2 needs two connections, and file systems without shared memory work. While the file is open, nothing else in this
process may open and close it: POSIX drops all locks of a process on a file with the first descriptor that it closes.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Final

import aiosqlite

from tokenproxy.errors import StoreError, StoreLockedError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.engine import Value
from tokenproxy.stores.form import epoch
from tokenproxy.stores.hanging import Mount
from tokenproxy.stores.keyfile import sync_directory

_NEEDS: Final = (3, 37, 0)
"""STRICT tables; RETURNING came with 3.35."""
_PATIENCE: Final = 0.25
"""Seconds to wait for a lock: long enough for a process that is just closing, short enough to tell a person at once."""
PATIENCE: Final = 3.0
"""Seconds that anybody waits for a disk that hangs; the spool may then take two more."""
_UNHURRIED: Final = frozenset({"open", "migrate", "reseal", "moving", "tally"})
"""Operations that look at every row, or that nobody waits for with a request."""
_ALONE: Final = "PRAGMA locking_mode=EXCLUSIVE"
"""Before the first read and before WAL, so that there is never a shared-memory file."""
_TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table'"
_SETTINGS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # each commit is synced; 0.1 ms next to a token call of 100
    "PRAGMA secure_delete=ON",
    # Takes the lock, and finds out now, not at the first renewal, that the file cannot be written.
    "BEGIN IMMEDIATE",
    "ROLLBACK",
)


@dataclass(frozen=True, slots=True)
class _Fault:
    kind: str
    """The label in ``tokenproxy_store_errors_total``."""
    message: str
    next_step: str
    error: type[StoreError] = StoreError


_OTHER: Final = _Fault(
    "io", "the store {path} failed: {cause}", "look at the system's log, then tokenproxy check"
)
_HANGS: Final = _Fault(
    "io",
    "the disk of the store {path} does not answer; what was asked of it may be done later",
    "look at the system's log for that disk, and at its mount",
)
_CORRUPT: Final = _Fault(
    "corrupt",
    "the store {path} is damaged, or is not a SQLite file: {cause}",
    "restore the file from a backup",
)
_LOCKED: Final = _Fault(
    "locked",
    "another tokenproxy has the store {path} open",
    "ask that one: tokenproxy status; where that says the same, stop it and start it again",
    StoreLockedError,
)
_READONLY: Final = _Fault(
    "readonly",
    "the store {path} cannot be written: it or its directory is read-only",
    "make the file and its directory writable for this user",
)
_FAULTS: Final[Mapping[int, _Fault]] = {
    sqlite3.SQLITE_FULL: _Fault(
        "full", "the disk of the store {path} is full; nothing was changed", "make room on that disk"
    ),
    sqlite3.SQLITE_READONLY: _READONLY,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_IOERR: _Fault(
        "io",
        "the disk of the store {path} failed; nothing was changed: {cause}",
        "look at the system's log for that disk",
    ),
    sqlite3.SQLITE_CANTOPEN: _Fault(
        "io",
        "the store {path} cannot be opened: {cause}",
        "see that its directory is there and yours to write",
    ),
    sqlite3.SQLITE_CORRUPT: _CORRUPT,
    sqlite3.SQLITE_NOTADB: _CORRUPT,
}
"""By SQLite's primary result code (sqlite.org/rescode.html)."""


class Disk:
    """An open SQLite file; ``run`` is the one way to it, so that a test can make the n-th call fail."""

    def __init__(self, connection: aiosqlite.Connection, path: Path, metrics: StoreMetrics) -> None:
        self._connection = connection
        self._path = path
        self._metrics = metrics
        self._opened = path.stat()
        self._mount = Mount(f"the store {path}", patience=PATIENCE, next_step=_HANGS.next_step)
        self._closed = False
        self._hung: asyncio.Task[object] | None = None
        """Ends when a disk that hung answers again."""

    async def run(
        self, operation: str, sql: str, parameters: Mapping[str, Value] | None = None
    ) -> list[sqlite3.Row]:
        """
        One statement: its rows, and what it changed is on the disk. Raises ``StoreError``, then nothing has changed.

        ``operation`` is the label of the metrics.
        """
        if self._hangs:
            raise self._told(operation, _HANGS)
        began = perf_counter()
        try:
            async with asyncio.timeout(None if operation in _UNHURRIED else PATIENCE):
                rows = await self._connection.execute_fetchall(sql, _bound(parameters or {}))
        except TimeoutError:
            self._await_answer()
            raise self._told(operation, _HANGS) from None
        except sqlite3.Error as error:
            raise self._explained(operation, error) from error
        except ValueError as error:  # how aiosqlite says that it is closed
            raise StoreError(
                f"the store {self._path} is closed", next_step="start tokenproxy again"
            ) from error
        if operation in self._metrics.seconds:
            self._metrics.seconds[operation].observe(perf_counter() - began)
        return list(rows)

    async def transaction(self, script: str) -> None:
        """Statements that happen together or not at all; only while nobody else has this disk (see the rules above)."""
        try:
            await self._connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nCOMMIT;")
        except sqlite3.Error as error:
            await self._connection.rollback()
            raise self._explained("migrate", error) from error

    async def refuse_lost(self) -> None:
        """
        Raise ``StoreError`` where the file's name leads elsewhere by now.

        SQLite goes on writing to a file that was deleted, and nothing of it is there at the next start.
        """
        if not await self._mount.run(self._is_there):
            self._metrics.error("check", "io")
            raise StoreError(
                f"the file of the store {self._path} was deleted or replaced; what is stored now ends with this process",
                next_step="put the file back from a backup, or import the accounts again after a restart of serve",
            )

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), self._opened)
        except FileNotFoundError:
            return False
        except OSError:  # a folder that may not be looked at for now says nothing about the file
            return True

    async def wipe_log(self) -> None:
        """
        Overwrite what the write-ahead log still has of rows that are gone.

        Says nothing when it fails: what was asked for is on the disk, and what the log keeps is sealed.
        """
        with suppress(StoreError):
            await self.run("checkpoint", "PRAGMA wal_checkpoint(TRUNCATE)")

    async def close(self) -> None:
        """End the connection and its thread, which would otherwise keep the process from exiting."""
        if not self._closed:
            self._closed = True
            stopped = self._connection.stop()  # ``close`` would wait for the disk, however long
            if stopped is not None:
                await asyncio.wait({stopped}, timeout=PATIENCE)

    @property
    def _hangs(self) -> bool:
        return self._hung is not None and not self._hung.done()

    def _await_answer(self) -> None:
        """Whoever comes meanwhile is told at once: what would queue up behind would be done when nobody wants it any more."""
        if not self._hangs:
            self._hung = asyncio.ensure_future(self._connection.execute_fetchall("SELECT 1"))
            self._hung.add_done_callback(_seen)

    def _explained(self, operation: str, error: sqlite3.Error) -> StoreError:
        return self._told(operation, _fault_of(error), error)

    def _told(self, operation: str, fault: _Fault, cause: sqlite3.Error | None = None) -> StoreError:
        self._metrics.error(operation, fault.kind)
        return fault.error(fault.message.format(path=self._path, cause=cause), next_step=fault.next_step)


def _seen(task: asyncio.Task[object]) -> None:
    """Else asyncio logs an error of a disk that came back as forgotten."""
    if not task.cancelled():
        task.exception()


def _bound(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Times are seconds since the epoch here."""
    return {
        name: epoch(value) if isinstance(value, datetime) else value for name, value in parameters.items()
    }


def _fault_of(error: sqlite3.Error) -> _Fault:
    # Errors of the module itself ("Cannot operate on a closed database") have no code.
    return _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, _OTHER)


async def open_disk(path: Path, *, metrics: StoreMetrics) -> Disk:
    """Open the file, making it with 0600 where there is none, and keep all others out. Raises ``StoreError``."""
    if sqlite3.sqlite_version_info < _NEEDS:
        raise StoreError(
            f"this Python's SQLite is {sqlite3.sqlite_version} where {'.'.join(map(str, _NEEDS))} is needed",
            next_step="use a Python built with a newer SQLite, or the container image",
        )
    await asyncio.to_thread(_prepare_file, path)
    connection = aiosqlite.connect(path, isolation_level=None, timeout=_PATIENCE)
    connection._thread.daemon = True  # noqa: SLF001 - a disk that hangs must not keep the process from exiting
    disk = Disk(await connection, path, metrics)
    connection.row_factory = sqlite3.Row
    try:
        await disk.run("open", _ALONE)
        await _refuse_foreign(disk, path)
        for setting in _SETTINGS:
            await disk.run("open", setting)
    except BaseException:
        await disk.close()
        raise
    return disk


async def _refuse_foreign(disk: Disk, path: Path) -> None:
    """Before anything is written: the switch to WAL alone would change another program's file."""
    tables = {row["name"] for row in await disk.run("open", _TABLES)}
    if tables and "schema_version" not in tables:
        raise StoreError(
            f"{path} is the SQLite file of another program", next_step="give store.url a name of its own"
        )


def _prepare_file(path: Path) -> None:
    try:
        _create(path)
        _refuse_unsafe(path)
    except OSError as error:
        raise StoreError(
            f"the store {path} cannot be opened: {(error.strerror or 'unknown error').lower()}",
            next_step=f"see that the directory {path.parent} is there and yours to write",
        ) from error


def _create(path: Path) -> None:
    """SQLite would make the file readable for everybody; its log copies this one's permissions."""
    if path.exists():
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:  # another process was quicker; the lock decides
        return
    os.close(descriptor)
    sync_directory(path.parent)


def _refuse_unsafe(path: Path) -> None:
    """By ``stat`` alone: opening a file that this process has open already would drop its lock."""
    for each in (path, path.with_name(f"{path.name}-wal")):
        if not each.exists():
            continue
        mode = each.stat().st_mode
        if not stat.S_ISREG(mode):
            raise StoreError(f"the store {each} is not a file", next_step="give store.url the name of a file")
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoreError(f"others may write to the store {each}", next_step=f"chmod 600 {each}")
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        raise _READONLY.error(_READONLY.message.format(path=path), next_step=_READONLY.next_step)
