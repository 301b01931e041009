"""
State of logins in the SQLite store: sealed rows, and those of logins in use open in memory.

A request may name state, and must not wait for a disk each time. What is here is what the file says: nobody else can
have the file open (``disk.py``), and whatever changes a login's state drops it here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from tokenproxy.core.interfaces import MOST_STATE, StateValue
from tokenproxy.errors import SealError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import Cipher, Place
from tokenproxy.stores.disk import Disk, Value
from tokenproxy.stores.form import state_from_json, state_to_json

_CACHE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_BYTES: Final = 256
"""Of a name in memory beside its values, roughly; most names have no state, and that is worth knowing too."""

_READ: Final = "SELECT path, sealed FROM state WHERE account = :account ORDER BY path"
_PUT: Final = """
INSERT INTO state (account, path, sealed)
SELECT :account, :path, :sealed
 WHERE (SELECT count(*) FROM state WHERE account = :account AND path <> :path) < :most
ON CONFLICT (account, path) DO UPDATE SET sealed = excluded.sealed
RETURNING path
"""
_DROP: Final = "DELETE FROM state WHERE account = :account AND path = :path RETURNING path"
_FORGET: Final = "DELETE FROM state WHERE account = :account RETURNING path"

# The first five bytes of a seal tell its version and key (cipher.py).
_COUNT_TO_RESEAL: Final = "SELECT count(*) AS number FROM state WHERE substr(sealed, 1, 5) <> :prefix"
_NEXT_TO_RESEAL: Final = """
SELECT account, path FROM state
 WHERE (account, path) > (:account, :path) AND substr(sealed, 1, 5) <> :prefix
 ORDER BY account, path LIMIT 256
"""
_READ_TO_RESEAL: Final = """
SELECT sealed FROM state WHERE account = :account AND path = :path AND substr(sealed, 1, 5) <> :prefix
"""
_RESEAL: Final = """
UPDATE state SET sealed = :sealed WHERE account = :account AND path = :path AND sealed = :old_sealed RETURNING path
"""


class Shelf:
    """The table ``state``; the store's own part for it."""

    def __init__(self, disk: Disk, *, store_id: str, metrics: StoreMetrics) -> None:
        self._disk = disk
        self._store_id = store_id
        self._metrics = metrics
        self._open: OrderedDict[str, Mapping[str, StateValue]] = OrderedDict()
        """By login, the one that was asked for last at the end."""
        self._bytes = 0
        self._changes = 0
        """Counts what was changed, so that a read that was overtaken is not kept."""

    async def read(self, account: str, cipher: Cipher) -> Mapping[str, StateValue]:
        """By path; raises ``SealError`` where one does not open."""
        found = self._open.get(account)
        if found is not None:
            self._open.move_to_end(account)
            return found
        before = self._changes
        rows = await self._disk.run("state", _READ, {"account": account})
        try:
            found = MappingProxyType(
                {row["path"]: self._opened(row["sealed"], account, row["path"], cipher) for row in rows}
            )
        except SealError:
            self._metrics.error("state", "decrypt")
            raise
        if before == self._changes:
            self._keep(account, found)
        return found

    async def put(self, account: str, path: str, value: StateValue | None, cipher: Cipher) -> bool:
        try:
            if value is None:
                return await self._remove(account, path)
            return bool(
                await self._disk.run(
                    "put_state",
                    _PUT,
                    {
                        "account": account,
                        "path": path,
                        "sealed": cipher.seal(state_to_json(value), self._place(account, path)),
                        "most": MOST_STATE,
                    },
                )
            )
        finally:
            self.drop(account)  # what a read found meanwhile is older

    async def forget(self, account: str) -> bool:
        """What a login without a row of its own has; False: nothing."""
        try:
            return bool(await self._disk.run("forget", _FORGET, {"account": account}))
        finally:
            self.drop(account)

    def drop(self, account: str) -> None:
        """The state of a login is about to change, or has changed."""
        self._changes += 1
        self._let_go(account)

    def _let_go(self, account: str) -> None:
        found = self._open.pop(account, None)
        if found is not None:
            self._bytes -= _size(account, found)

    async def to_reseal(self, cipher: Cipher) -> int:
        rows = await self._disk.run("reseal", _COUNT_TO_RESEAL, {"prefix": cipher.prefix})
        number: int = rows[0]["number"]
        return number

    async def reseal(self, cipher: Cipher, each: Callable[[], None]) -> tuple[int, list[str]]:
        """How many were sealed anew, and those that do not open; ``each`` is called after every one."""
        sealed, stuck, after = 0, list[str](), ("", "")
        while rows := await self._disk.run(
            "reseal", _NEXT_TO_RESEAL, {"prefix": cipher.prefix, "account": after[0], "path": after[1]}
        ):
            for row in rows:
                after = row["account"], row["path"]
                try:
                    sealed += await self._reseal_row(*after, cipher)
                except SealError:
                    self._metrics.error("reseal", "decrypt")
                    stuck.append(after[0])
                each()
        return sealed, stuck

    async def _remove(self, account: str, path: str) -> bool:
        if not await self._disk.run("put_state", _DROP, {"account": account, "path": path}):
            return False
        await self._disk.wipe_log()
        return True

    async def _reseal_row(self, account: str, path: str, cipher: Cipher) -> bool:
        """False: it was put anew or dropped meanwhile."""
        values: dict[str, Value] = {"account": account, "path": path, "prefix": cipher.prefix}
        place = self._place(account, path)
        while rows := await self._disk.run("reseal", _READ_TO_RESEAL, values):
            old = rows[0]["sealed"]
            sealed = cipher.seal(cipher.open(old, place), place)
            if await self._disk.run("reseal", _RESEAL, values | {"sealed": sealed, "old_sealed": old}):
                return True
        return False

    def _opened(self, sealed: bytes, account: str, path: str, cipher: Cipher) -> StateValue:
        place = self._place(account, path)
        data = cipher.open(sealed, place)
        try:
            return state_from_json(data)
        except (ValueError, KeyError, TypeError):
            # ``from None``: the cause may quote the value.
            raise SealError(
                f"{place} was written by a tokenproxy that this one does not understand",
                next_step="run the newer tokenproxy that wrote it",
            ) from None

    def _place(self, account: str, path: str) -> Place:
        return Place(self._store_id, account, 0, "state", path)

    def _keep(self, account: str, found: Mapping[str, StateValue]) -> None:
        self._let_go(account)
        self._open[account] = found
        self._bytes += _size(account, found)
        while self._bytes > _CACHE_BYTES:
            oldest, gone = self._open.popitem(last=False)
            self._bytes -= _size(oldest, gone)


def _size(account: str, found: Mapping[str, StateValue]) -> int:
    return sum(
        (len(path) + len(value.value) + _ENTRY_BYTES for path, value in found.items()),
        len(account) + _ENTRY_BYTES,
    )
