"""
Token sets in one SQLite file, for one process.

Each method is one statement (``disk.py`` says why), guarded by what it must not overwrite: the generation, the fence,
or the very bytes that it read. Leases are those of core.interfaces.Store; as no other process can have this file open,
a lease of another owner is one of a process that is gone, and does not hold anybody up.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.interfaces import Claim, Idle, Record, StateValue, Summary
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import SealError, StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import Cipher, Kind, Place
from tokenproxy.stores.disk import Disk, Value, open_disk
from tokenproxy.stores.form import epoch, instant, tokens_from_json, tokens_to_json
from tokenproxy.stores.shelf import Shelf

Word = TypeVar("Word", State, Reason)

_LOAD: Final = "SELECT *, sealed IS NOT NULL AS has_tokens FROM account WHERE account = :account"
_SUMMARY: Final = """
SELECT account, bound_to, state, reason, since, fails, error, retry_at, gen, expires_at, refresh_expires_at,
       renewed_at, in_flight_since, sealed IS NOT NULL AS has_tokens
  FROM account
"""
_ONE_SUMMARY: Final = f"{_SUMMARY} WHERE account = :account"
_SUMMARIES: Final = f"{_SUMMARY} WHERE account > :after ORDER BY account LIMIT :limit"
# The names of a table lie between NAME and NAME0 ("0" follows "/"), and few others do (NAME-2).
_SUMMARIES_OF_TABLE: Final = f"""{_SUMMARY}
 WHERE account > :after AND account >= :table AND account < :table || '0' AND config_table = :table
 ORDER BY account LIMIT :limit
"""
_IN_STATES: Final = f"""{_SUMMARY} INDEXED BY account_state
  JOIN json_each(:states) AS wanted ON state = wanted.value WHERE config_table = :table LIMIT :limit
"""
_TALLY: Final = "SELECT config_table, state, count(*) AS number FROM account INDEXED BY account_state GROUP BY config_table, state"
_IDLE: Final = """
SELECT account, renewed_at, expires_at FROM account INDEXED BY account_idle
 WHERE config_table = :table AND sealed IS NOT NULL AND state <> 'login_required'
   AND (renewed_at, account) > (:after_at, :after) AND {aged}
   AND (retry_at IS NULL OR retry_at <= :now)
 ORDER BY renewed_at, account LIMIT :limit
"""
_IDLE_SINCE: Final = _IDLE.format(aged="renewed_at < :before")
_HALF_SPENT: Final = _IDLE.format(aged=":now - renewed_at >= expires_at - :now")
_IN_DOUBT: Final = """
SELECT account FROM account WHERE in_flight_since IS NOT NULL ORDER BY in_flight_since DESC, account
"""
_CLAIM: Final = """
UPDATE account
   SET fence = fence + 1, lease_owner = :owner, lease_until = :lease_until,
       found_in_flight = in_flight_since, in_flight_since = :now
 WHERE account = :account AND gen = :gen
   AND (lease_until IS NULL OR lease_until <= :now OR lease_owner <> :owner)
RETURNING fence, found_in_flight
"""
# The generation after the claim's own is there when this very commit was done before and its answer got lost (every
# other writer of tokens raises the fence): then it is true again.
_COMMIT: Final = """
UPDATE account
   SET gen = :gen + 1, sealed = :sealed, prev_sealed = :prev_sealed,
       expires_at = :expires_at, refresh_expires_at = :refresh_expires_at, renewed_at = :now,
       state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at,
       lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account = :account AND fence = :fence AND gen IN (:gen, :gen + 1)
RETURNING gen
"""
_GIVE_UP: Final = """
UPDATE account
   SET state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at,
       lease_owner = NULL, lease_until = NULL,
       in_flight_since = iif(:keep_mark, in_flight_since, NULL), found_in_flight = NULL
 WHERE account = :account AND fence = :fence AND gen = :gen
RETURNING gen
"""
_ADOPT: Final = """
INSERT INTO account (account, bound_to, gen, sealed, expires_at, refresh_expires_at, renewed_at,
                     state, reason, since, fails, error, retry_at)
SELECT :account, :bound_to, :gen, :sealed, :expires_at, :refresh_expires_at, :now,
       :state, :reason, :since, :fails, :error, :retry_at
 WHERE :gen = 1 OR EXISTS (SELECT 1 FROM account WHERE account = :account)
ON CONFLICT (account) DO UPDATE
   SET bound_to = excluded.bound_to, gen = excluded.gen, sealed = excluded.sealed, prev_sealed = NULL,
       expires_at = excluded.expires_at, refresh_expires_at = excluded.refresh_expires_at,
       renewed_at = excluded.renewed_at, state = excluded.state, reason = excluded.reason, since = excluded.since,
       fails = excluded.fails, error = excluded.error, retry_at = excluded.retry_at,
       fence = fence + 1, lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account.gen = excluded.gen - 1
RETURNING gen
"""
_STAND: Final = """
UPDATE account
   SET state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at
 WHERE account = :account
"""
# Only where there is no token set: what a store holds is never lost to a mere look.
_PREPARE: Final = """
INSERT INTO account (account, bound_to, gen, state, reason, since, fails, error, retry_at)
VALUES (:account, :bound_to, 0, :state, :reason, :since, :fails, :error, :retry_at)
ON CONFLICT (account) DO UPDATE
   SET bound_to = excluded.bound_to, state = excluded.state, reason = excluded.reason, since = excluded.since,
       fails = excluded.fails, error = excluded.error, retry_at = excluded.retry_at, fence = fence + 1,
       lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account.sealed IS NULL
"""
_REBIND: Final = """
UPDATE account
   SET bound_to = :bound_to,
       state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at
 WHERE account = :account
"""
_SETTLED: Final = """
UPDATE account SET prev_sealed = NULL WHERE account = :account AND gen = :gen AND prev_sealed IS NOT NULL
"""
_FORGET: Final = """
UPDATE account
   SET sealed = NULL, prev_sealed = NULL, expires_at = NULL, refresh_expires_at = NULL,
       state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at,
       fence = fence + 1, lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account = :account AND (sealed IS NOT NULL OR in_flight_since IS NOT NULL)
RETURNING gen
"""

# The first five bytes of a seal tell its version and key (cipher.py).
_COUNT_TO_RESEAL: Final = """
SELECT count(*) AS number FROM account
 WHERE substr(sealed, 1, 5) <> :prefix OR substr(prev_sealed, 1, 5) <> :prefix
"""
_NEXT_TO_RESEAL: Final = """
SELECT account FROM account
 WHERE account > :after AND (substr(sealed, 1, 5) <> :prefix OR substr(prev_sealed, 1, 5) <> :prefix)
 ORDER BY account LIMIT 256
"""
_READ_TO_RESEAL: Final = """
SELECT gen, sealed, prev_sealed FROM account
 WHERE account = :account AND (substr(sealed, 1, 5) <> :prefix OR substr(prev_sealed, 1, 5) <> :prefix)
"""
_RESEAL: Final = """
UPDATE account SET sealed = :sealed, prev_sealed = :prev_sealed
 WHERE account = :account AND gen = :gen AND sealed IS :old_sealed AND prev_sealed IS :old_prev_sealed
RETURNING gen
"""

_ANY_TABLE: Final = "SELECT 1 FROM sqlite_schema LIMIT 1"
_VERSION: Final = "SELECT coalesce(max(version), 0) AS version FROM schema_version"
_META: Final = "SELECT value FROM meta WHERE name = :name"
_SET_META: Final = "INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_CHECK: Final = "UPDATE meta SET value = value + 1 WHERE name = 'checks' RETURNING value"


class SQLiteStore:
    """``core.interfaces.Store`` in one file; made by ``open_sqlite``."""

    def __init__(self, disk: Disk, *, store_id: str, cipher: Cipher, metrics: StoreMetrics) -> None:
        self._disk = disk
        self._store_id = store_id
        self._cipher = cipher
        self._metrics = metrics
        self._owner = secrets.token_hex(8)
        self._shelf = Shelf(disk, store_id=store_id, metrics=metrics)

    async def load(self, account: str) -> Record | None:
        rows = await self._disk.run("load", _LOAD, {"account": account})
        if not rows:
            return None
        try:
            return self._record(rows[0])
        except SealError:
            self._metrics.error("load", "decrypt")
            raise

    async def summary(self, account: str) -> Summary | None:
        rows = await self._disk.run("summaries", _ONE_SUMMARY, {"account": account})
        return _summary(rows[0]) if rows else None

    async def summaries(self, *, table: str = "", after: str = "", limit: int = -1) -> Sequence[Summary]:
        values: dict[str, Value] = {"table": table, "after": after, "limit": limit}
        if not table:
            del values["table"]
        sql = _SUMMARIES_OF_TABLE if table else _SUMMARIES
        return [_summary(row) for row in await self._disk.run("summaries", sql, values)]

    async def in_states(self, table: str, states: Collection[State], *, limit: int) -> Sequence[Summary]:
        values: dict[str, Value] = {
            "table": table,
            "states": json.dumps([state.value for state in states]),
            "limit": limit,
        }
        return [_summary(row) for row in await self._disk.run("in_states", _IN_STATES, values)]

    async def tally(self) -> Mapping[str, Mapping[State, int]]:
        counts: dict[str, dict[State, int]] = {}
        for row in await self._disk.run("tally", _TALLY):
            counts.setdefault(row["config_table"], {})[_state(row["state"], row["config_table"])] = row[
                "number"
            ]
        return counts

    async def idle(
        self, table: str, *, before: datetime | None, now: datetime, limit: int, after: Idle | None = None
    ) -> Sequence[Idle]:
        values: dict[str, Value] = {
            "table": table,
            "after_at": epoch(after.renewed_at) if after is not None else 0.0,
            "after": after.account if after is not None else "",
            "now": epoch(now),
            "limit": limit,
        }
        if before is not None:
            values["before"] = epoch(before)
        sql = _HALF_SPENT if before is None else _IDLE_SINCE
        return [_idle(row) for row in await self._disk.run("idle", sql, values)]

    async def in_doubt(self) -> Sequence[str]:
        return [row["account"] for row in await self._disk.run("in_doubt", _IN_DOUBT)]

    async def claim(self, account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
        values: dict[str, Value] = {
            "account": account,
            "gen": generation,
            "owner": self._owner,
            "now": epoch(now),
            "lease_until": epoch(now + lease),
        }
        for row in await self._disk.run("claim", _CLAIM, values):
            return Claim(account, generation, row["fence"], instant(row["found_in_flight"]))
        return None

    async def commit(
        self, claim: Claim, tokens: TokenSet, *, previous: str | None, standing: Standing, now: datetime
    ) -> bool:
        """A repeat of the same commit, after an answer that never came, is True again."""
        if tokens.generation != claim.generation + 1:
            raise ValueError(f"generation {tokens.generation} does not succeed {claim.generation}")
        values = {
            **_claimed(claim),
            **self._sealed(claim.account, tokens),
            **_standing_values(standing),
            "prev_sealed": self._seal_previous(claim.account, tokens.generation, previous),
            "now": epoch(now),
        }
        return bool(await self._disk.run("commit", _COMMIT, values))

    async def give_up(self, claim: Claim, *, standing: Standing, keep_mark: bool) -> bool:
        values = {**_claimed(claim), **_standing_values(standing), "keep_mark": keep_mark}
        return bool(await self._disk.run("give_up", _GIVE_UP, values))

    async def adopt(
        self, account: str, tokens: TokenSet, *, bound_to: str, standing: Standing, now: datetime
    ) -> bool:
        values = {
            **self._sealed(account, tokens),
            **_standing_values(standing),
            "account": account,
            "gen": tokens.generation,
            "bound_to": bound_to,
            "now": epoch(now),
        }
        return bool(await self._disk.run("adopt", _ADOPT, values))

    async def stand(self, account: str, standing: Standing) -> None:
        """An account without a row stays without one: only tokens make rows."""
        await self._disk.run("stand", _STAND, {**_standing_values(standing), "account": account})

    async def prepare(self, account: str, *, bound_to: str, standing: Standing) -> None:
        values = {**_standing_values(standing), "account": account, "bound_to": bound_to}
        await self._disk.run("prepare", _PREPARE, values)

    async def rebind(self, account: str, *, bound_to: str, standing: Standing) -> None:
        values = {**_standing_values(standing), "account": account, "bound_to": bound_to}
        await self._disk.run("rebind", _REBIND, values)

    async def settled(self, account: str, *, generation: int) -> None:
        await self._disk.run("settled", _SETTLED, {"account": account, "gen": generation})

    async def forget(self, account: str, *, standing: Standing) -> bool:
        """A renewal under way loses its lease, so that its answer does not bring the account back."""
        values = {**_standing_values(standing), "account": account}
        try:
            found = bool(await self._disk.run("forget", _FORGET, values))
        finally:
            self._shelf.drop(account)
        # A row takes its state along (schema 3); without one there may be state all the same.
        found = found or await self._shelf.forget(account)
        if found:
            await self._disk.wipe_log()
        return found

    async def state(self, account: str) -> Mapping[str, StateValue]:
        return await self._shelf.read(account, self._cipher)

    async def put_state(self, account: str, path: str, value: StateValue | None) -> bool:
        return await self._shelf.put(account, path, value, self._cipher)

    async def use_keys(self, keys: Sequence[bytes]) -> None:
        """Seal under the first of these from now on; all open. ``SealError`` unless one of them opens the store."""
        cipher = Cipher(keys)
        await _check_key(self._disk, cipher, self._store_id)
        self._cipher = cipher

    async def reseal(self, progress: Callable[[int, int], None] | None = None) -> int:
        """
        Rows that are under the first key already are left alone, so that one that was broken off goes on.

        Raises ``SealError`` after all others are done when a row does not open; the old key is needed until then.
        """
        prefix = self._cipher.prefix
        total = (await self._disk.run("reseal", _COUNT_TO_RESEAL, {"prefix": prefix}))[0]["number"]
        total += await self._shelf.to_reseal(self._cipher)
        done = 0

        def one_more() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(min(done, total), total)

        sealed, stuck = await self._reseal_rows(prefix, one_more)
        more_sealed, more_stuck = await self._shelf.reseal(self._cipher, one_more)
        sealed, stuck = sealed + more_sealed, [*stuck, *more_stuck]
        if stuck:
            raise SealError(
                f"{len(stuck)} of {total} rows cannot be opened and stay as they are: {', '.join(stuck[:10])}",
                next_step=f"tokenproxy logout {stuck[0]}, or give back the key that opens it; then key rotate again",
            )
        await self._disk.run(
            "reseal", _SET_META, {"name": "key_check", "value": _key_check(self._cipher, self._store_id)}
        )
        await self._disk.wipe_log()
        return sealed

    async def check(self) -> None:
        if not await self._disk.run("check", _CHECK):
            raise StoreError("the store has lost its own page", next_step="restore the store from a backup")
        await self._disk.refuse_lost()

    async def close(self) -> None:
        await self._disk.close()

    async def _reseal_rows(self, prefix: bytes, each: Callable[[], None]) -> tuple[int, list[str]]:
        sealed, stuck, after = 0, list[str](), ""
        while rows := await self._disk.run("reseal", _NEXT_TO_RESEAL, {"prefix": prefix, "after": after}):
            for row in rows:
                after = row["account"]
                try:
                    sealed += await self._reseal_row(after)
                except SealError:
                    self._metrics.error("reseal", "decrypt")
                    stuck.append(after)
                each()
        return sealed, stuck

    async def _reseal_row(self, account: str) -> bool:
        """False: a renewal was quicker and has sealed the row itself, or it was forgotten."""
        while rows := await self._disk.run(
            "reseal", _READ_TO_RESEAL, {"account": account, "prefix": self._cipher.prefix}
        ):
            row = rows[0]
            values = {
                "account": account,
                "gen": row["gen"],
                "old_sealed": row["sealed"],
                "old_prev_sealed": row["prev_sealed"],
                "sealed": self._anew(row["sealed"], account, row["gen"], "tokens"),
                "prev_sealed": self._anew(row["prev_sealed"], account, row["gen"], "previous"),
            }
            if await self._disk.run("reseal", _RESEAL, values):
                return True
        return False

    def _anew(self, blob: bytes | None, account: str, generation: int, kind: Kind) -> bytes | None:
        if blob is None:
            return None
        place = self._place(account, generation, kind)
        return self._cipher.seal(self._cipher.open(blob, place), place)

    def _place(self, account: str, generation: int, kind: Kind) -> Place:
        return Place(self._store_id, account, generation, kind)

    def _sealed(self, account: str, tokens: TokenSet) -> dict[str, Value]:
        place = self._place(account, tokens.generation, "tokens")
        return {
            "sealed": self._cipher.seal(tokens_to_json(tokens), place),
            "expires_at": epoch(tokens.expires_at),
            "refresh_expires_at": epoch(tokens.refresh_expires_at),
        }

    def _seal_previous(self, account: str, generation: int, previous: str | None) -> bytes | None:
        """Bound to the generation that replaced it, the row's: it is put back together with that one or not at all."""
        if previous is None:
            return None
        return self._cipher.seal(previous.encode(), self._place(account, generation, "previous"))

    def _record(self, row: sqlite3.Row) -> Record:
        summary = _summary(row)
        return Record(
            account=summary.account,
            bound_to=summary.bound_to,
            generation=summary.generation,
            tokens=self._open_tokens(summary, row["sealed"]),
            standing=summary.standing,
            in_flight_since=summary.in_flight_since,
            renewed_at=summary.renewed_at,
            previous=self._open_previous(summary, row["prev_sealed"]),
        )

    def _open_tokens(self, summary: Summary, sealed: bytes | None) -> TokenSet | None:
        if sealed is None:
            return None
        place = self._place(summary.account, summary.generation, "tokens")
        data = self._cipher.open(sealed, place)
        try:
            return tokens_from_json(data, summary.generation)
        except (ValueError, KeyError, TypeError):
            # ``from None``: the cause may quote a token.
            raise SealError(
                f"{place} were written by a tokenproxy that this one does not understand",
                next_step="run the newer tokenproxy that wrote them",
            ) from None

    def _open_previous(self, summary: Summary, sealed: bytes | None) -> str | None:
        if sealed is None:
            return None
        return self._cipher.open(
            sealed, self._place(summary.account, summary.generation, "previous")
        ).decode()


def _claimed(claim: Claim) -> dict[str, Value]:
    return {"account": claim.account, "gen": claim.generation, "fence": claim.fence}


def _standing_values(standing: Standing) -> dict[str, Value]:
    return {
        "state": standing.state.value,
        "reason": standing.reason.value,
        "since": epoch(standing.since),
        "fails": standing.fails,
        "error": standing.error,
        "retry_at": epoch(standing.retry_at),
    }


def _summary(row: sqlite3.Row) -> Summary:
    return Summary(
        account=row["account"],
        bound_to=row["bound_to"],
        generation=row["gen"],
        standing=_standing(row),
        expires_at=instant(row["expires_at"]),
        refresh_expires_at=instant(row["refresh_expires_at"]),
        in_flight_since=instant(row["in_flight_since"]),
        renewed_at=instant(row["renewed_at"]),
        has_tokens=bool(row["has_tokens"]),
    )


def _standing(row: sqlite3.Row) -> Standing:
    return Standing(
        state=_state(row["state"], row["account"]),
        reason=_known(Reason, row["reason"], row["account"]),
        since=instant(row["since"]),
        fails=row["fails"],
        error=row["error"],
        retry_at=instant(row["retry_at"]),
    )


def _state(value: str, account: str) -> State:
    return _known(State, value, account)


def _known(kind: type[Word], value: str, account: str) -> Word:
    try:
        return kind(value)
    except ValueError as error:
        raise StoreError(
            f"account {account} is in a state that this tokenproxy does not know",
            next_step="run the newer tokenproxy that wrote it",
        ) from error


def _idle(row: sqlite3.Row) -> Idle:
    renewed_at = datetime.fromtimestamp(row["renewed_at"], UTC)
    return Idle(row["account"], renewed_at, instant(row["expires_at"]))


async def open_sqlite(
    path: Path, keys: Sequence[bytes], *, metrics: StoreMetrics | None = None
) -> SQLiteStore:
    """
    Open the store, making it (0600) where there is none; ``close`` it, or its thread keeps the process from exiting.

    Raises ``StoreLockedError`` while another process has it open, ``SealError`` when no key fits, else ``StoreError``.
    """
    cipher = Cipher(keys)
    metrics = metrics or StoreMetrics()
    disk = await open_disk(path, metrics=metrics)
    try:
        await _migrate(disk, path)
        store_id = (await disk.run("open", _META, {"name": "store_id"}))[0]["value"]
        await _check_key(disk, cipher, store_id)
    except BaseException:
        await disk.close()
        raise
    return SQLiteStore(disk, store_id=store_id, cipher=cipher, metrics=metrics)


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


async def _check_key(disk: Disk, cipher: Cipher, store_id: str) -> None:
    """Tell a wrong key at once, not at the first renewal: the store keeps one seal of its own to try."""
    rows = await disk.run("open", _META, {"name": "key_check"})
    if not rows:
        await disk.run("open", _SET_META, {"name": "key_check", "value": _key_check(cipher, store_id)})
        return
    cipher.open(rows[0]["value"], _key_check_place(store_id))


def _key_check(cipher: Cipher, store_id: str) -> bytes:
    return cipher.seal(b"", _key_check_place(store_id))


def _key_check_place(store_id: str) -> Place:
    return Place(store_id, account="", generation=0, kind="check")
