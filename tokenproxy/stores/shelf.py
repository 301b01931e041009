"""
State of logins in a store of rows: sealed rows, and those of logins in use open in memory.

A request may name state, and must not wait for a disk each time. What is here is what the database says: whatever
changes a login's state drops it here. Nobody else can have a SQLite file open (``disk.py``); what other replicas
change in PostgreSQL is heard (``listening.py``), and while it is not, nothing is kept.
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
from tokenproxy.stores.engine import Engine, Value
from tokenproxy.stores.form import state_from_json, state_to_json
from tokenproxy.stores.statements import Statements

_CACHE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_BYTES: Final = 256
"""Of a name in memory beside its values, roughly; most names have no state, and that is worth knowing too."""


class Shelf:
    """The table ``state``; the store's own part for it."""

    def __init__(
        self,
        engine: Engine,
        statements: Statements,
        *,
        store_id: str,
        metrics: StoreMetrics,
    ) -> None:
        self._engine = engine
        self._sql = statements
        self.may_keep: Callable[[], bool] = lambda: True
        """Whether all that changes a login's state now is told to ``drop``."""
        self._store_id = store_id
        self._metrics = metrics
        self._open: OrderedDict[str, Mapping[str, StateValue]] = OrderedDict()
        """By login, the one that was asked for last at the end."""
        self._bytes = 0
        self._changes = 0
        """Counts what was changed, so that a read that was overtaken is not kept."""

    async def read(self, account: str, cipher: Cipher) -> Mapping[str, StateValue]:
        """By path; raises ``SealError`` where one does not open."""
        may_keep = self.may_keep()
        found = self._open.get(account)
        if found is not None and may_keep:
            self._open.move_to_end(account)
            return found
        before = self._changes
        rows = await self._engine.run("state", self._sql.read_state, {"account": account})
        try:
            found = MappingProxyType(
                {row["path"]: self._opened(row["sealed"], account, row["path"], cipher) for row in rows}
            )
        except SealError:
            self._metrics.error("state", "decrypt")
            raise
        if may_keep and before == self._changes:
            self._keep(account, found)
        return found

    async def put(self, account: str, path: str, value: StateValue | None, cipher: Cipher) -> bool:
        try:
            if value is None:
                return await self._remove(account, path)
            return bool(
                await self._engine.run(
                    "put_state",
                    self._sql.put_state,
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
            return bool(await self._engine.run("forget", self._sql.forget_state, {"account": account}))
        finally:
            self.drop(account)

    def drop(self, account: str) -> None:
        """The state of a login is about to change, or has changed."""
        self._changes += 1
        self._let_go(account)

    def drop_all(self) -> None:
        """Anything may have changed."""
        self._changes += 1
        self._open.clear()
        self._bytes = 0

    def _let_go(self, account: str) -> None:
        found = self._open.pop(account, None)
        if found is not None:
            self._bytes -= _size(account, found)

    async def to_reseal(self, cipher: Cipher) -> int:
        rows = await self._engine.run("reseal", self._sql.count_state_to_reseal, {"prefix": cipher.prefix})
        number: int = rows[0]["number"]
        return number

    async def reseal(self, cipher: Cipher, each: Callable[[], None]) -> tuple[int, list[str]]:
        """How many were sealed anew, and those that do not open; ``each`` is called after every one."""
        sealed, stuck, after = 0, list[str](), ("", "")
        while rows := await self._engine.run(
            "reseal",
            self._sql.next_state_to_reseal,
            {"prefix": cipher.prefix, "account": after[0], "path": after[1]},
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
        if not await self._engine.run("put_state", self._sql.drop_state, {"account": account, "path": path}):
            return False
        await self._engine.wipe_log()
        return True

    async def _reseal_row(self, account: str, path: str, cipher: Cipher) -> bool:
        """False: it was put anew or dropped meanwhile."""
        values: dict[str, Value] = {"account": account, "path": path, "prefix": cipher.prefix}
        place = self._place(account, path)
        while rows := await self._engine.run("reseal", self._sql.read_state_to_reseal, values):
            old = rows[0]["sealed"]
            sealed = cipher.seal(cipher.open(old, place), place)
            if await self._engine.run(
                "reseal", self._sql.reseal_state, values | {"sealed": sealed, "old_sealed": old}
            ):
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
