"""
Token sets in rows of a database that speaks SQL: what every such store does alike, and in what words it asks.

Each method is one statement, guarded by what it must not overwrite: the generation, the fence, or the very bytes that
it read. A caller that is cancelled therefore leaves nothing behind: its step happens wholly or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.interfaces import MOST_STATE, Claim, Idle, Record, Replica, StateValue, Summary
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import SealError, StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import Cipher, Kind, Place
from tokenproxy.stores.engine import Engine, Row, Value
from tokenproxy.stores.form import instant, tokens_from_json, tokens_to_json
from tokenproxy.stores.shelf import Shelf
from tokenproxy.stores.statements import Statements

Word = TypeVar("Word", State, Reason)
_BEGINNING: Final = datetime.fromtimestamp(0, UTC)


class RowStore:
    """``core.interfaces.Store`` over an ``Engine``."""

    def __init__(
        self,
        engine: Engine,
        statements: Statements,
        shelf: Shelf,
        *,
        owner: str,
        store_id: str,
        cipher: Cipher,
        metrics: StoreMetrics,
    ) -> None:
        """``owner`` is this process in leases, another at every start."""
        self._engine = engine
        self._sql = statements
        self._shelf = shelf
        self._owner = owner
        self.store_id = store_id
        self.cipher = cipher
        self._metrics = metrics

    async def load(self, account: str) -> Record | None:
        rows = await self._run("load", self._sql.load, {"account": account})
        if not rows:
            return None
        try:
            return self._record(rows[0])
        except SealError:
            self._metrics.error("load", "decrypt")
            raise

    async def summary(self, account: str) -> Summary | None:
        rows = await self._run("summaries", self._sql.summary, {"account": account})
        return _summary(rows[0]) if rows else None

    async def summaries(self, *, table: str = "", after: str = "", limit: int = -1) -> Sequence[Summary]:
        values: dict[str, Value] = {"table": table, "after": after, "limit": limit}
        sql = self._sql.summaries_of_table if table else self._sql.summaries
        return [_summary(row) for row in await self._run("summaries", sql, values)]

    async def in_states(self, table: str, states: Collection[State], *, limit: int) -> Sequence[Summary]:
        values: dict[str, Value] = {
            "table": table,
            "states": json.dumps([state.value for state in states]),
            "limit": limit,
        }
        return [_summary(row) for row in await self._run("in_states", self._sql.in_states, values)]

    async def tally(self) -> Mapping[str, Mapping[State, int]]:
        counts: dict[str, dict[State, int]] = {}
        for row in await self._run("tally", self._sql.tally):
            counts.setdefault(row["config_table"], {})[_state(row["state"], row["config_table"])] = row[
                "number"
            ]
        return counts

    async def idle(
        self, table: str, *, before: datetime | None, now: datetime, limit: int, after: Idle | None = None
    ) -> Sequence[Idle]:
        values: dict[str, Value] = {
            "table": table,
            "after_at": after.renewed_at if after is not None else _BEGINNING,
            "after": after.account if after is not None else "",
            "now": now,
            "limit": limit,
        }
        if before is not None:
            values["before"] = before
        sql = self._sql.half_spent if before is None else self._sql.idle_since
        return [_idle(row) for row in await self._run("idle", sql, values)]

    async def in_doubt(self) -> Sequence[str]:
        return [row["account"] for row in await self._run("in_doubt", self._sql.in_doubt)]

    async def abandoned(self, *, now: datetime, limit: int) -> Sequence[str]:
        values: dict[str, Value] = {
            "now": now,
            "limit": limit,
            "owner": self._owner,
            "may_judge": self._may_judge(),
        }
        rows = await self._run("in_doubt", self._sql.abandoned, values)
        return [row["account"] for row in rows]

    async def claim(self, account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
        values: dict[str, Value] = {
            "account": account,
            "gen": generation,
            "owner": self._claimant(),
            "now": now,
            "lease": lease,
            "lease_until": now + lease,
            "may_judge": self._may_judge(),
        }
        for row in await self._run("claim", self._sql.claim, values):
            return Claim(account, generation, row["fence"], instant(row["found_in_flight"]))
        return None

    async def prolong(self, claim: Claim, *, now: datetime, lease: timedelta) -> bool:
        values = {**_claimed(claim), "now": now, "lease": lease, "lease_until": now + lease}
        return bool(await self._run("prolong", self._sql.prolong, values))

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
            "now": now,
        }
        return await self._found_again("commit", self._sql.commit, values)

    async def give_up(self, claim: Claim, *, standing: Standing, keep_mark: bool) -> bool:
        values = {**_claimed(claim), **_standing_values(standing), "keep_mark": keep_mark}
        return bool(await self._run("give_up", self._sql.give_up, values))

    async def adopt(
        self, account: str, tokens: TokenSet, *, bound_to: str, standing: Standing, now: datetime
    ) -> bool:
        values = {
            **self._sealed(account, tokens),
            **_standing_values(standing),
            "account": account,
            "gen": tokens.generation,
            "bound_to": bound_to,
            "now": now,
        }
        return await self._found_again("adopt", self._sql.adopt, values)

    async def stand(self, account: str, standing: Standing) -> None:
        """An account without a row stays without one: only tokens make rows."""
        await self._run("stand", self._sql.stand, {**_standing_values(standing), "account": account})

    async def prepare(self, account: str, *, bound_to: str, standing: Standing) -> None:
        values = {**_standing_values(standing), "account": account, "bound_to": bound_to}
        await self._run("prepare", self._sql.prepare, values)

    async def rebind(self, account: str, *, bound_to: str, standing: Standing) -> None:
        values = {**_standing_values(standing), "account": account, "bound_to": bound_to}
        await self._run("rebind", self._sql.rebind, values)

    async def settled(self, account: str, *, generation: int) -> None:
        await self._run("settled", self._sql.settled, {"account": account, "gen": generation})

    async def forget(self, account: str, *, standing: Standing) -> bool:
        """A renewal under way loses its lease, so that its answer does not bring the account back."""
        values = {**_standing_values(standing), "account": account}
        try:
            found = bool(await self._run("forget", self._sql.forget, values))
        finally:
            self._shelf.drop(account)
        # A row takes its state along (schema 3); without one there may be state all the same.
        found = found or await self._shelf.forget(account)
        if found:
            await self._engine.wipe_log()
        return found

    async def state(self, account: str) -> Mapping[str, StateValue]:
        return await self._shelf.read(account, self.cipher)

    async def put_state(self, account: str, path: str, value: StateValue | None) -> bool:
        return await self._shelf.put(account, path, value, self.cipher)

    async def use_keys(self, keys: Sequence[bytes]) -> None:
        """Seal under the first of these from now on; all open. ``SealError`` unless one of them opens the store."""
        cipher = Cipher(keys)
        await check_key(self._engine, self._sql, cipher, self.store_id)
        self.cipher = cipher

    async def reseal(self, progress: Callable[[int, int], None] | None = None) -> int:
        """
        Rows that are under the first key already are left alone, so that one that was broken off goes on.

        Raises ``SealError`` after all others are done when a row does not open; the old key is needed until then.
        """
        prefix = self.cipher.prefix
        total = (await self._run("reseal", self._sql.count_to_reseal, {"prefix": prefix}))[0]["number"]
        total += await self._shelf.to_reseal(self.cipher)
        done = 0

        def one_more() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(min(done, total), total)

        sealed, stuck = await self._reseal_rows(prefix, one_more)
        more_sealed, more_stuck = await self._shelf.reseal(self.cipher, one_more)
        sealed, stuck = sealed + more_sealed, [*stuck, *more_stuck]
        if stuck:
            raise SealError(
                f"{len(stuck)} of {total} rows cannot be opened and stay as they are: {', '.join(stuck[:10])}",
                next_step=f"tokenproxy logout {stuck[0]}, or give back the key that opens it; then key rotate again",
            )
        await self._run("reseal", self._sql.set_key_check, {"value": _key_check(self.cipher, self.store_id)})
        await self._engine.wipe_log()
        return sealed

    async def check(self) -> None:
        if not await self._run("check", self._sql.check):
            raise StoreError("the store has lost its own page", next_step="restore the store from a backup")
        await self._engine.refuse_lost()

    async def replicas(self) -> Sequence[Replica]:
        return ()

    async def holder(self, account: str) -> str:  # noqa: ARG002 - one process, which knows it itself
        return ""

    async def close(self) -> None:
        await self._engine.close()

    # -- what ``moving`` asks ------------------------------------------------------------------------------------

    async def ask(self, operation: str, sql: str, values: Mapping[str, Value]) -> Sequence[Row]:
        """A statement of its own, as the engine takes it."""
        return await self._run(operation, sql, values)

    async def key_check(self) -> bytes:
        """The seal that tells whether a key is the right one."""
        seal: bytes = (await self._run("moving", self._sql.read_key_check))[0]["value"]
        return seal

    async def damage(self) -> str:
        """What is wrong with the database's own pages; "": nothing that it tells."""
        said = [str(row["value"]) for row in await self._run("moving", self._sql.damage)]
        return "" if said == ["ok"] else "; ".join(said[:3])

    async def moved(self) -> bool:
        """Whether the logins are elsewhere, or on the way."""
        return bool(await self._run("moving", self._sql.read_moved))

    async def retire(self, to: str | None) -> None:
        """The logins are at ``to`` from now on, and this store is not to be opened; None: they are here."""
        await self._run("moving", self._sql.set_moved, {"place": to})

    async def refuse_company(self) -> None:
        """Raise ``StoreError`` where another process has this store open; for most, opening it has told that."""

    def place(self, account: str, generation: int, kind: Kind) -> Place:
        return self._place(account, generation, kind)

    def state_place(self, account: str, path: str) -> Place:
        return Place(self.store_id, account, 0, "state", path)

    def open_from(self, blob: bytes, place: Place) -> bytes:
        """Raises ``SealError``."""
        return self.cipher.open(blob, place)

    def seal_for(self, plain: bytes, place: Place) -> bytes:
        """Here, what was sealed for the same place of another store."""
        return self.cipher.seal(plain, replace(place, store=self.store_id))

    async def put_sealed_state(self, account: str, path: str, sealed: bytes) -> None:
        values: dict[str, Value] = {"account": account, "path": path, "sealed": sealed, "most": MOST_STATE}
        await self._run("moving", self._sql.put_state, values)
        self._shelf.drop(account)

    def watch(self, on_change: Callable[[str, int], None]) -> None:
        """Nobody else can have this store open: nothing is ever called."""

    def _claimant(self) -> str:
        """Who holds the lease of a new claim."""
        return self._owner

    def _may_judge(self) -> bool:
        """Whether another process's lease may be taken for over, and the process for dead."""
        return True

    async def _run(
        self, operation: str, sql: str, values: Mapping[str, Value] | None = None
    ) -> Sequence[Row]:
        return await self._engine.run(operation, sql, values)

    async def _found_again(self, operation: str, sql: str, values: Mapping[str, Value]) -> bool:
        """Whether the one copy of a token set was stored, where the next start looks for it."""
        stored = bool(await self._run(operation, sql, values))
        if stored:
            await self._engine.refuse_lost()
        return stored

    async def _reseal_rows(self, prefix: bytes, each: Callable[[], None]) -> tuple[int, list[str]]:
        sealed, stuck, after = 0, list[str](), ""
        while rows := await self._run("reseal", self._sql.next_to_reseal, {"prefix": prefix, "after": after}):
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
        while rows := await self._run(
            "reseal", self._sql.read_to_reseal, {"account": account, "prefix": self.cipher.prefix}
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
            if await self._run("reseal", self._sql.reseal, values):
                return True
        return False

    def _anew(self, blob: bytes | None, account: str, generation: int, kind: Kind) -> bytes | None:
        if blob is None:
            return None
        place = self._place(account, generation, kind)
        return self.cipher.seal(self.cipher.open(blob, place), place)

    def _place(self, account: str, generation: int, kind: Kind) -> Place:
        return Place(self.store_id, account, generation, kind)

    def _sealed(self, account: str, tokens: TokenSet) -> dict[str, Value]:
        place = self._place(account, tokens.generation, "tokens")
        return {
            "sealed": self.cipher.seal(tokens_to_json(tokens), place),
            "expires_at": tokens.expires_at,
            "refresh_expires_at": tokens.refresh_expires_at,
        }

    def _seal_previous(self, account: str, generation: int, previous: str | None) -> bytes | None:
        """Bound to the generation that replaced it, the row's: it is put back together with that one or not at all."""
        if previous is None:
            return None
        return self.cipher.seal(previous.encode(), self._place(account, generation, "previous"))

    def _record(self, row: Row) -> Record:
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
        data = self.cipher.open(sealed, place)
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
        return self.cipher.open(sealed, self._place(summary.account, summary.generation, "previous")).decode()


def _claimed(claim: Claim) -> dict[str, Value]:
    return {"account": claim.account, "gen": claim.generation, "fence": claim.fence}


def _standing_values(standing: Standing) -> dict[str, Value]:
    return {
        "state": standing.state.value,
        "reason": standing.reason.value,
        "since": standing.since,
        "fails": standing.fails,
        "error": standing.error,
        "retry_at": standing.retry_at,
    }


def _summary(row: Row) -> Summary:
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


def _standing(row: Row) -> Standing:
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


def _idle(row: Row) -> Idle:
    renewed_at = instant(row["renewed_at"])
    assert renewed_at is not None  # noqa: S101 - it was compared in the query
    return Idle(row["account"], renewed_at, instant(row["expires_at"]))


async def refuse_moved(engine: Engine, statements: Statements, name: str) -> None:
    """A store whose logins go on elsewhere would send refresh tokens that were spent there."""
    for row in await engine.run("open", statements.read_moved):
        raise StoreError(
            f"the logins of the store {name} were moved to {row['value']}, and a move that was broken off goes on from there",
            next_step="set store.url to that one; where the move was broken off: tokenproxy store migrate --to it again",
        )


async def check_key(engine: Engine, statements: Statements, cipher: Cipher, store_id: str) -> None:
    """Tell a wrong key at once, not at the first renewal: the store keeps one seal of its own to try."""
    rows = await engine.run("open", statements.read_key_check)
    if not rows or rows[0]["value"] is None:
        await engine.run("open", statements.first_key_check, {"value": _key_check(cipher, store_id)})
        rows = await engine.run("open", statements.read_key_check)  # another replica may have been quicker
    cipher.open(rows[0]["value"], _key_check_place(store_id))


def _key_check(cipher: Cipher, store_id: str) -> bytes:
    return cipher.seal(b"", _key_check_place(store_id))


def _key_check_place(store_id: str) -> Place:
    return Place(store_id, account="", generation=0, kind="check")
