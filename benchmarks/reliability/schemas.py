"""R28: stores of every earlier schema are opened with everything in them; a newer one is refused before anything is touched."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.reliability.result import Result
from tests.stores.test_moving import contents, filled
from tests.stores.values import KEY, claim, commit
from tokenproxy.core.interfaces import Store
from tokenproxy.errors import StoreError
from tokenproxy.stores import open_store, verify_store
from tokenproxy.stores.sqlite import migrations

_STATE_CAME_WITH: Final = 3


def store_of_schema(version: int, path: Path, *, like: Path) -> None:
    """A file as the release of that schema left it: its own tables, and the rows of ``like`` as far as they fit."""
    with closing(sqlite3.connect(path)) as old:
        for number, script in enumerate(migrations()[:version], start=1):
            old.executescript(script)
            old.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, 0.0)", (number,))
        old.execute("ATTACH ? AS newer", (str(like),))
        old.execute("DELETE FROM meta")
        for table in ("meta", "account", "state"):
            columns = ", ".join(
                row[1] for row in old.execute(f"PRAGMA main.table_info({table})") if row[1] != "config_table"
            )
            if columns:
                old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
        old.commit()
    path.chmod(0o600)


async def every_schema(folder: Path) -> Result:
    """R28."""
    newest, faults = len(migrations()), list[str]()
    like = folder / "like.db"
    store = await open_store(f"sqlite:{like}", [KEY])
    await filled(store)
    before = await contents(store)
    await store.close()
    for version in range(1, newest):
        path = folder / f"schema-{version}.db"
        store_of_schema(version, path, like=like)
        store = await open_store(f"sqlite:{path}", [KEY])
        records, states = await contents(store)
        if records != before[0] or (version >= _STATE_CAME_WITH and states != before[1]):
            faults.append(f"schema {version}: not everything is there")
        if not (await verify_store(store))["ok"]:
            faults.append(f"schema {version}: damaged")
        if not await _goes_on(store):
            faults.append(f"schema {version}: no renewal is stored")
        await store.close()
    faults += await _newer_is_refused(like, newest)
    figures = {"earlier schemas opened": newest - 1, "newer one refused": int(not faults)}
    return Result("R28", "upgrade from every earlier schema, and the way back", figures, faults)


async def _goes_on(store: Store) -> bool:
    return await commit(store, await claim(store, "crm/anna", generation=2))


async def _newer_is_refused(path: Path, newest: int) -> list[str]:
    """The release before sees its own schema plus one."""
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, 0.0)", (newest + 1,))
        newer.commit()
    before = path.read_bytes()
    try:
        store = await open_store(f"sqlite:{path}", [KEY])
    except StoreError as error:
        told = f"has schema {newest + 1} and this tokenproxy knows up to {newest}" in error.message
        faults = [] if told and "backup" in error.next_step else [f"told as: {error}"]
    else:
        await store.close()
        faults = ["a newer store was opened"]
    return faults if path.read_bytes() == before else [*faults, "a newer store was changed"]
