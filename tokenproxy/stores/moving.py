"""
Copies of whole stores: a backup, a look whether all of it opens, and the way from one store to another.

A row is copied with its generation, its previous refresh token and its in-flight mark, so that a renewal that was in
doubt in the one store is repeated from the other. Two stores that both go on with one login would spend its refresh
token twice, so that a store whose logins were moved says so and is not opened any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenproxy.errors import SealError, StoreError
from tokenproxy.stores.cipher import Kind, Place
from tokenproxy.stores.engine import Row, Value
from tokenproxy.stores.form import instant
from tokenproxy.stores.rows import RowStore

_PAGE: Final = 256
_COLUMNS: Final = (
    "account",
    "bound_to",
    "state",
    "reason",
    "since",
    "fails",
    "error",
    "retry_at",
    "gen",
    "sealed",
    "prev_sealed",
    "expires_at",
    "refresh_expires_at",
    "renewed_at",
    "in_flight_since",
)
_SEALED: Final[tuple[tuple[str, Kind], ...]] = (("sealed", "tokens"), ("prev_sealed", "previous"))
_TIMES: Final = frozenset(
    {"since", "retry_at", "expires_at", "refresh_expires_at", "renewed_at", "in_flight_since"}
)

_NAMES: Final = """
SELECT account FROM account WHERE account > :after
 UNION SELECT account FROM state WHERE account > :after
 ORDER BY account LIMIT :limit
"""
_PUT: Final = f"""
INSERT INTO account ({", ".join(_COLUMNS)}) VALUES ({", ".join(f":{name}" for name in _COLUMNS)})
ON CONFLICT (account) DO UPDATE
   SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])}, fence = account.fence + 1,
       lease_owner = NULL, lease_until = NULL, found_in_flight = NULL
 WHERE account.gen < excluded.gen OR (account.gen = excluded.gen AND :fresh)
"""  # noqa: S608 - the columns above
# A move that goes on leaves alone what it has brought already: it may have been used, or logged out, there since.


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at every row found."""

    accounts: int
    with_tokens: int
    in_doubt: int
    values: int
    """Pieces of state."""
    unreadable: tuple[str, ...]
    """Accounts of which something does not open."""
    damage: str
    """What the database says of its own pages; "" where all is well, or where it does not tell."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.unreadable and not self.damage,
            "accounts": self.accounts,
            "with_tokens": self.with_tokens,
            "in_doubt": self.in_doubt,
            "values": self.values,
            "unreadable": list(self.unreadable),
            "damage": self.damage,
        }


async def verify(store: RowStore) -> Verdict:
    """Open every row under the store's keys; nothing is changed. Raises ``StoreError``."""
    damage = await store.damage()
    accounts = tokens = doubts = values = 0
    unreadable = []
    async for name in names(store):
        try:
            record = await store.load(name)
            state = await store.state(name)
        except SealError:
            unreadable.append(name)
            accounts += 1
            continue
        values += len(state)
        if record is not None:
            accounts += 1
            tokens += record.tokens is not None
            doubts += record.in_flight_since is not None
    return Verdict(accounts, tokens, doubts, values, tuple(unreadable), damage)


async def names(store: RowStore) -> AsyncIterator[str]:
    """Every account that has a row or state, by name."""
    after = ""
    while rows := await store.ask("moving", _NAMES, {"after": after, "limit": _PAGE}):
        for row in rows:
            after = row["account"]
            yield after


async def backup(store: RowStore, path: Path) -> int:
    """
    A SQLite file (0600, not there yet) that the same keys open: a store by itself; how many accounts are in it.

    Raises ``StoreError``; then the file is gone again.
    """
    from tokenproxy.stores.sqlite import open_copy

    if await asyncio.to_thread(path.exists):
        raise StoreError(f"{path} is there already", next_step="name a file that is not there")
    copy = await open_copy(path, store)
    try:
        count = 0
        async for name in names(store):
            count += await _copy(store, copy, name, lambda blob, _: blob)
    except BaseException:
        await copy.close()
        await asyncio.to_thread(_remove, path)
        raise
    await copy.close()
    return count


async def migrate(
    source: RowStore, target: RowStore, *, to: str, progress: Callable[[int], None] | None = None
) -> int:
    """
    Move every account to ``target``, sealed anew for it; how many rows there are now.

    ``to`` is the target's name for people: the source says from the beginning on that its logins are there, so that it
    is not used meanwhile, and a run that was broken off goes on. Raises ``StoreError`` before anything is changed where
    the target has newer tokens of an account, or where another process uses the source.
    """
    await source.refuse_company()
    await _refuse_newer(source, target)
    fresh = not await source.moved()
    await source.retire(to)
    count = 0

    def anew(blob: bytes, place: Place) -> bytes:
        return target.seal_for(source.open_from(blob, place), place)

    async for name in names(source):
        count += await _copy(source, target, name, anew, fresh=fresh)
        if progress is not None:
            progress(count)
    await target.retire(None)
    return count


async def _refuse_newer(source: RowStore, target: RowStore) -> None:
    newer = []
    async for name in names(source):
        here, there = await source.summary(name), await target.summary(name)
        if there is not None and there.generation > (here.generation if here is not None else 0):
            newer.append(name)
    if newer:
        raise StoreError(
            f"the target has newer tokens of {', '.join(newer[:5])}{' and others' * (len(newer) > 5)}: "
            "the older ones would take their place",
            next_step=f"tokenproxy logout {newer[0]} there first, or go on with the target as it is",
        )


async def _copy(
    source: RowStore,
    target: RowStore,
    name: str,
    seal: Callable[[bytes, Place], bytes],
    *,
    fresh: bool = True,
) -> bool:
    """The row and the state of one account; False: it has only state. ``seal`` makes a blob the target's."""
    found = False
    for row in await source.ask(
        "moving", "SELECT * FROM account WHERE account = :account", {"account": name}
    ):
        found = True
        await target.ask("moving", _PUT, {**_values(row, source, seal), "fresh": fresh})
    for row in await source.ask(
        "moving", "SELECT path, sealed FROM state WHERE account = :account", {"account": name}
    ):
        place = source.state_place(name, row["path"])
        await target.put_sealed_state(name, row["path"], seal(row["sealed"], place))
    return found


def _values(row: Row, source: RowStore, seal: Callable[[bytes, Place], bytes]) -> Mapping[str, Value]:
    values: dict[str, Value] = {
        name: instant(row[name]) if name in _TIMES else row[name] for name in _COLUMNS
    }
    for column, kind in _SEALED:
        if row[column] is not None:
            values[column] = seal(row[column], source.place(row["account"], row["gen"], kind))
    return values


def _remove(path: Path) -> None:
    for each in (path, path.with_name(f"{path.name}-wal")):
        each.unlink(missing_ok=True)
