"""Backups, a look whether all opens, and the way from one store to another and back."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.stores.values import GONE, KEY, LEASE, NOW, OTHER_KEY, adopt, claim, commit, tokens
from tokenproxy.core.interfaces import Record, StateValue, Store
from tokenproxy.errors import StoreError
from tokenproxy.stores import backup_store, migrate_store, open_store, verify_store

KINDS = ["sqlite", "postgresql"]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'store.db'}"
    address: str = request.getfixturevalue("dsn")
    return address


async def filled(store: Store) -> None:
    """One of each: renewed, in doubt, logged out, with state alone."""
    for name in ("crm/anna", "crm/bert", "crm/carl"):
        await adopt(store, name)
    await commit(store, await claim(store, "crm/anna"))
    await claim(store, "crm/bert")
    await store.forget("crm/carl", standing=GONE)
    await store.put_state("crm/anna", "a/b", StateValue("planted-state", NOW, backend=True))
    await store.put_state("crm/dora", "c", StateValue("1"))


async def contents(store: Store) -> tuple[dict[str, Record | None], dict[str, Mapping[str, StateValue]]]:
    names = ("crm/anna", "crm/bert", "crm/carl", "crm/dora")
    return (
        {name: await store.load(name) for name in names},
        {name: dict(await store.state(name)) for name in names},
    )


@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_a_backup_is_a_store_of_its_own(url: str, tmp_path: Path) -> None:
    """Whatever the store is; only we may read it, and it is opened by the same key and by no other."""
    path = tmp_path / "backup.db"
    store = await open_store(url, [KEY])
    await filled(store)
    before = await contents(store)
    assert await backup_store(store, path) == 3
    with pytest.raises(StoreError, match="is there already"):
        await backup_store(store, path)
    await store.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"planted" not in path.read_bytes()
    with pytest.raises(StoreError):
        await open_store(f"sqlite:{path}", [OTHER_KEY])
    copy = await open_store(f"sqlite:{path}", [KEY])
    assert await contents(copy) == before
    assert (await verify_store(copy))["ok"]
    await copy.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_logins_move_to_a_database_and_back(url: str, tmp_path: Path) -> None:
    """With what a renewal in doubt needs; and who still has the old store's address is told where they are."""
    file = f"sqlite:{tmp_path / 'store.db'}"
    one, two = await open_store(file, [KEY]), await open_store(url, [KEY])
    await filled(one)
    before = await contents(one)
    assert await migrate_store(one, two, to="postgresql://db/x") == 3
    assert await contents(two) == before
    await commit(two, await claim(two, "crm/anna", 2))
    await two.forget("crm/bert", standing=GONE)
    after = await contents(two)
    await one.close()
    with pytest.raises(StoreError, match="were moved to postgresql://db/x"):
        await open_store(file, [KEY])

    back = await open_store(file, [KEY], retired=True)
    await migrate_store(two, back, to=file)
    await two.close()
    await back.close()
    again = await open_store(file, [KEY])
    assert await contents(again) == after
    await again.close()
    with pytest.raises(StoreError, match="were moved to"):
        await open_store(url, [KEY])


@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_newer_tokens_at_the_target_are_not_overwritten(url: str, tmp_path: Path) -> None:
    """Nothing is changed then, and the source goes on."""
    one, two = await open_store(f"sqlite:{tmp_path / 'one.db'}", [KEY]), await open_store(url, [KEY])
    for store in (one, two):
        await adopt(store)
    await commit(two, await claim(two))

    with pytest.raises(StoreError, match="the target has newer tokens of crm/anna"):
        await migrate_store(one, two, to="there")
    await one.close()
    await two.close()
    await (await open_store(f"sqlite:{tmp_path / 'one.db'}", [KEY])).close()


async def test_a_move_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    """What arrived may have been renewed there since; the source is not used from the first row on."""
    file = tmp_path / "one.db"
    one, two = (
        await open_store(f"sqlite:{file}", [KEY]),
        await open_store(f"sqlite:{tmp_path / 'two.db'}", [KEY]),
    )
    await filled(one)
    put, count = two.ask, 0  # type: ignore[attr-defined]

    async def breaking(operation: str, sql: str, values: Mapping[str, Any]) -> Any:
        nonlocal count
        count += "INSERT" in sql
        if count == 2:
            raise StoreError("the disk is full")
        return await put(operation, sql, values)

    two.ask = breaking  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="full"):
        await migrate_store(one, two, to="two")
    await one.close()
    with pytest.raises(StoreError, match="were moved to two"):
        await open_store(f"sqlite:{file}", [KEY])
    del two.ask  # type: ignore[attr-defined]
    one = await open_store(f"sqlite:{file}", [KEY], retired=True)
    assert await migrate_store(one, two, to="two") == 3
    assert await contents(two) == await contents(one)
    await one.close()
    await two.close()


async def test_a_row_that_does_not_open_is_found(tmp_path: Path) -> None:
    """Before somebody needs it at night."""
    store = await open_store(f"sqlite:{tmp_path / 'one.db'}", [KEY])
    await filled(store)
    await store.ask(  # type: ignore[attr-defined]
        "test", "UPDATE account SET sealed = :value WHERE account = 'crm/bert'", {"value": b"\x01nothing"}
    )

    verdict = await verify_store(store)

    assert not verdict["ok"]
    assert verdict["unreadable"] == ["crm/bert"]
    assert (verdict["accounts"], verdict["with_tokens"], verdict["values"]) == (3, 1, 2)
    await store.close()


async def test_replicas_that_still_run_keep_a_database_from_moving(dsn: str, tmp_path: Path) -> None:
    """They would go on with what is spent elsewhere."""
    one, other = await open_store(dsn, [KEY]), await open_store(dsn, [KEY])
    await adopt(one)
    assert await other.claim("crm/anna", generation=1, now=NOW, lease=LEASE) is not None
    target = await open_store(f"sqlite:{tmp_path / 'two.db'}", [KEY])

    with pytest.raises(StoreError, match="is in use by"):
        await migrate_store(one, target, to="two")
    await other.close()
    assert await migrate_store(one, target, to="two") == 1
    record = await target.load("crm/anna")
    assert record is not None
    assert record.tokens == tokens()
    await one.close()
    await target.close()
