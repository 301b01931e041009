"""
Token sets in one SQLite file, for one process.

``rows.py`` has what is asked, ``disk.py`` the file. Leases are those of core.interfaces.Store; as no other process can
have this file open, a lease of another owner is one of a process that is gone, and does not hold anybody up.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Final

from tokenproxy.core.interfaces import Claim
from tokenproxy.errors import StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import Cipher
from tokenproxy.stores.disk import Disk, open_disk
from tokenproxy.stores.rows import RowStore, check_key, refuse_moved
from tokenproxy.stores.shelf import Shelf
from tokenproxy.stores.statements import SUMMARY, Statements

_IDLE: Final = """
SELECT account, renewed_at, expires_at FROM account INDEXED BY account_idle
 WHERE config_table = :table AND sealed IS NOT NULL AND state <> 'login_required'
   AND (renewed_at, account) > (:after_at, :after) AND {aged}
   AND (retry_at IS NULL OR retry_at <= :now)
 ORDER BY renewed_at, account LIMIT :limit
"""

STATEMENTS: Final = Statements(
    in_states=f"""{SUMMARY} INDEXED BY account_state
      JOIN json_each(:states) AS wanted ON state = wanted.value WHERE config_table = :table LIMIT :limit
    """,
    tally="""
    SELECT config_table, state, count(*) AS number FROM account INDEXED BY account_state GROUP BY config_table, state
    """,
    idle_since=_IDLE.format(aged="renewed_at < :before"),
    half_spent=_IDLE.format(aged=":now - renewed_at >= expires_at - :now"),
    # A lease that has not run out is one of ours: whoever else held one is gone.
    abandoned="""
    SELECT account FROM account
     WHERE in_flight_since IS NOT NULL AND (lease_until IS NULL OR lease_until <= :now OR lease_owner <> :owner)
       AND (retry_at IS NULL OR retry_at <= :now)
     ORDER BY in_flight_since DESC, account LIMIT :limit
    """,
    claim="""
    UPDATE account
       SET fence = fence + 1, lease_owner = :owner, lease_until = :lease_until,
           found_in_flight = in_flight_since, in_flight_since = :now
     WHERE account = :account AND gen = :gen
       AND (lease_until IS NULL OR lease_until <= :now OR lease_owner <> :owner)
    RETURNING fence, found_in_flight
    """,
    prolong="""
    UPDATE account SET lease_until = :lease_until WHERE account = :account AND fence = :fence AND gen = :gen
    RETURNING gen
    """,
    reseal="""
    UPDATE account SET sealed = :sealed, prev_sealed = :prev_sealed
     WHERE account = :account AND gen = :gen AND sealed IS :old_sealed AND prev_sealed IS :old_prev_sealed
    RETURNING gen
    """,
    check="UPDATE meta SET value = value + 1 WHERE name = 'checks' RETURNING value",
    store_id="SELECT value FROM meta WHERE name = 'store_id'",
    read_key_check="SELECT value FROM meta WHERE name = 'key_check'",
    first_key_check="""
    INSERT INTO meta (name, value) VALUES ('key_check', :value) ON CONFLICT (name) DO NOTHING
    """,
    set_key_check="""
    INSERT INTO meta (name, value) VALUES ('key_check', :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value
    """,
    read_moved="SELECT value FROM meta WHERE name = 'moved_to' AND value <> ''",
    set_moved="""
    INSERT INTO meta (name, value) VALUES ('moved_to', coalesce(:place, ''))
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
    """,
    damage="SELECT integrity_check AS value FROM pragma_integrity_check",
)

_ANY_TABLE: Final = "SELECT 1 FROM sqlite_schema LIMIT 1"
_VERSION: Final = "SELECT coalesce(max(version), 0) AS version FROM schema_version"


class SQLiteStore(RowStore):
    """``core.interfaces.Store`` in one file; made by ``open_sqlite``."""

    async def claim(self, account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
        try:
            return await super().claim(account, generation=generation, now=now, lease=lease)
        except StoreError:
            # A disk that hung may set the mark later, when nobody is at it: that lease is to hold nobody up.
            self._owner = secrets.token_hex(8)
            raise


async def open_sqlite(
    path: Path, keys: Sequence[bytes], *, metrics: StoreMetrics | None = None, retired: bool = False
) -> SQLiteStore:
    """
    Open the store, making it (0600) where there is none; ``close`` it, or its thread keeps the process from exiting.

    ``retired``: also where its logins were moved elsewhere. Raises ``StoreLockedError`` while another process has it
    open, ``SealError`` when no key fits, else ``StoreError``.
    """
    cipher = Cipher(keys)
    metrics = metrics or StoreMetrics()
    disk = await open_disk(path, metrics=metrics)
    try:
        await _migrate(disk, path)
        if not retired:
            await refuse_moved(disk, STATEMENTS, str(path))
        store_id = (await disk.run("open", STATEMENTS.store_id))[0]["value"]
        await check_key(disk, STATEMENTS, cipher, store_id)
    except BaseException:
        await disk.close()
        raise
    return SQLiteStore(
        disk,
        STATEMENTS,
        Shelf(disk, STATEMENTS, store_id=store_id, metrics=metrics),
        owner=secrets.token_hex(8),
        store_id=store_id,
        cipher=cipher,
        metrics=metrics,
    )


async def open_copy(path: Path, of: RowStore) -> SQLiteStore:
    """An empty store with the name and the keys of another, so that what that one sealed opens here."""
    disk = await open_disk(path, metrics=StoreMetrics())
    try:
        await _migrate(disk, path)
        await disk.run(
            "open", "UPDATE meta SET value = :value WHERE name = 'store_id'", {"value": of.store_id}
        )
        await disk.run("open", STATEMENTS.set_key_check, {"value": await of.key_check()})
    except BaseException:
        await disk.close()
        raise
    metrics = StoreMetrics()
    return SQLiteStore(
        disk,
        STATEMENTS,
        Shelf(disk, STATEMENTS, store_id=of.store_id, metrics=metrics),
        owner=secrets.token_hex(8),
        store_id=of.store_id,
        cipher=of.cipher,
        metrics=metrics,
    )


async def _migrate(disk: Disk, path: Path) -> None:
    """Bring the schema up to ours, each step in one transaction; a newer one is left untouched."""
    known = await asyncio.to_thread(migrations)
    present = await _version_of(disk)
    if present > len(known):
        raise StoreError(
            f"the store {path} has schema {present} and this tokenproxy knows up to {len(known)}",
            next_step="run the newer tokenproxy that wrote it, or restore the backup from before the upgrade",
        )
    for version, script in enumerate(known[present:], start=present + 1):
        await disk.transaction(
            f"{script}\n"
            f"INSERT INTO schema_version (version, applied_at) VALUES ({version}, strftime('%s', 'now'));"
        )


async def _version_of(disk: Disk) -> int:
    if not await disk.run("open", _ANY_TABLE):
        return 0
    version: int = (await disk.run("open", _VERSION))[0]["version"]
    return version


def migrations() -> list[str]:
    """The scripts in order; the first makes schema 1."""
    folder = resources.files("tokenproxy.stores") / "migrations" / "sqlite"
    files = sorted(
        (each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name
    )
    return [each.read_text(encoding="utf-8") for each in files]
