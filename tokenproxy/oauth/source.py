"""
The one door through which tokens change: ``current``, ``renew`` and ``adopt``.

Rules: one renewal of an account at a time, as a task of its own that outlives whoever waits for
it; generations are compared, never clocks, when an upstream says 401; what is on disk is what may be seen.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final, TypeVar, cast

from tokenproxy import log
from tokenproxy.core.account import AT_EASE, Event, Reason, Standing, State, advance
from tokenproxy.core.grants import traits_of
from tokenproxy.core.interfaces import Clock, KeepAnswer, Record, Spool, Store, Summary, Unstored
from tokenproxy.core.provider import Account, is_login, table_of
from tokenproxy.core.schedule import MISCONFIGURED_PAUSE, margin
from tokenproxy.core.settings import MIB, RenewPolicy
from tokenproxy.core.tokens import Freshness, Sendable, TokenSet
from tokenproxy.errors import (
    AccountError,
    StoreError,
    UnknownAccountError,
)
from tokenproxy.metrics import AccountGauge, Metrics
from tokenproxy.oauth.backlog import Backlog
from tokenproxy.oauth.ceilings import Ceilings, TurnNotHadError
from tokenproxy.oauth.census import Census, gauges
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.entries import AWAKE, Entries
from tokenproxy.oauth.entry import Entry, Hold, Outcome
from tokenproxy.oauth.journal import LEASE, AskFirst, Journal
from tokenproxy.oauth.keepalive import KeepAlive
from tokenproxy.oauth.news import News
from tokenproxy.oauth.refusals import (
    login_in_the_way,
    next_step,
    no_logins,
    no_turn,
    not_logged_in,
    not_stored,
    refusal_of,
    store_unusable,
)
from tokenproxy.oauth.resting import Packed
from tokenproxy.oauth.tasks import Tasks

_log = logging.getLogger("tokenproxy.oauth")

T = TypeVar("T")

_SATISFIED: Final[Mapping[AskFirst, frozenset[KeepAnswer]]] = {
    AskFirst.NOT: frozenset(),
    AskFirst.RENEW_UNLESS_LIVE: frozenset({KeepAnswer.LIVE}),
    AskFirst.RENEW_IF_DEAD: frozenset({KeepAnswer.LIVE, KeepAnswer.HELD}),
}
"""With which end of a renewal, short of new tokens, somebody is content who joined it."""

_WOKEN_AT_ONCE: Final = 200
"""Logins at rest that one look of the scheduler may wake, which takes 20 microseconds each."""
_ANY_BACK_OFF: Final = timedelta(days=365)
"""A start does not wait for a back-off to end: the provider's grace is shorter."""

RENEWAL_PATIENCE: Final = 20.0
"""Seconds that ``close`` waits for renewals that were sent; more than one token call may take."""


Watch = Callable[[str, str], AbstractContextManager[Callable[[str], None]]]
"""Account and trigger -> what lasts as long as the renewal, and is told how it ended."""


@dataclass(slots=True)
class _Loading:
    """An account that is being read from the store."""

    readers: int = 0
    changes: int = 0
    """How often another process changed it meanwhile."""


class Source:
    """Gives out live token sets and renews them; satisfies ``core.interfaces.TokenSource``."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        *,
        store: Store,
        spool: Spool,
        endpoint: Endpoint,
        clock: Clock,
        metrics: Metrics,
        policy: RenewPolicy | None = None,
        cache: int = 64 * MIB,
        awake: int = AWAKE,
        jitter: Callable[[], float],
        lease: timedelta = LEASE,
        watch: Watch | None = None,
    ) -> None:
        """
        ``cache`` in bytes; ``awake`` logins need not rest; ``jitter`` gives numbers from -1 to 1.

        No token call takes longer than half a ``lease``. ``watch`` is told of each renewal as long as it runs.
        """
        self._watch = watch
        self._accounts = dict(accounts)
        self._configured_at = clock.now()
        self._store = store
        self._clock = clock
        self._monotonic = clock.monotonic
        self._metrics = metrics
        self._policy = policy or RenewPolicy()
        self._jitter = jitter
        self._endpoint = endpoint
        self._tasks = Tasks()
        self._ceilings = Ceilings(concurrent=self._policy.concurrent, clock=clock, tasks=self._tasks)
        self._news = News(clock=clock, tasks=self._tasks)
        self._loading: dict[str, _Loading] = {}
        """Accounts that are being read from the store."""
        self._uncompared = set[str]()
        """Accounts that another process may have changed and the store could not tell of: used on until it can."""
        self._others = False
        """Whether another process changed anything since the states were counted."""
        self._journal = Journal(
            store=store,
            spool=spool,
            endpoint=endpoint,
            clock=clock,
            jitter=jitter,
            on_slow_down=self._ceilings.pause,
            news=self._news,
            lease=lease,
        )
        self._entries = Entries(room=cache, clock=clock, awake=awake)
        self._census = Census()
        self._occupied: dict[str, asyncio.Task[Any]] = {}
        """An import, a logout or a rebind under way, which no renewal may begin beside."""
        self._changes = 0
        """Counts them, so that a load that began before a logout does not bring the tokens back."""
        self._looking: asyncio.Task[None] | None = None
        self._keep_alive = KeepAlive(store=store, clock=clock, jitter=jitter)
        self._backlog = Backlog(
            store=store,
            spool=spool,
            clock=clock,
            tasks=self._tasks,
            jitter=jitter,
            on_overtaken=self._overtaken,
        )
        self._store_away = False
        """The last look for what is in doubt failed."""

    # -- what the data plane asks (core.interfaces.TokenSource) --------------------------------------------------

    def ready(self, account: str) -> Sendable | None:
        now = self._monotonic()
        entry = self._entries.get(account)
        if entry is None:
            return self._entries.resting.ready(account, now)
        if now >= entry.fresh_until:
            return None
        entry.used_at = now
        return entry.tokens

    async def current(self, account: str) -> TokenSet:
        entry = await self._entry(account)
        entry.used_at = self._monotonic()
        self._require_registration(entry)
        freshness = self._freshness(entry)
        if freshness is Freshness.FRESH:
            return entry.tokens
        if freshness is Freshness.EXPIRED:
            return await self._renewed_anyway(entry, "on_demand")
        if entry.standing.state is State.LOGIN_REQUIRED or self._refusal(entry) is not None:
            return entry.tokens
        try:
            return await self._renewed_anyway(entry, "on_demand")
        except AccountError:
            if self._freshness(entry) is Freshness.EXPIRED:
                raise
            return entry.tokens  # an early renewal failed: a token that lives goes on being used

    async def renew(self, account: str, rejected: Sendable, *, route: str) -> TokenSet | KeepAnswer:
        entry = await self._entry(account)
        self._require_registration(entry)
        if entry.tokens.generation != rejected.generation:
            return await self.current(account)  # somebody renewed it while this request was under way
        now = self._monotonic()
        hold = entry.held(route, now)
        if hold is not None and not self._may_ask_again(entry, hold, now):
            return KeepAnswer.HELD
        if entry.live_generation == rejected.generation and now < entry.live_until:
            return KeepAnswer.LIVE
        ask = AskFirst.NOT if entry.account.provider.validate is None else AskFirst.RENEW_UNLESS_LIVE
        return await self._renewed(entry, "on_401", ask if hold is None else AskFirst.RENEW_IF_DEAD)

    def refused_again(self, account: str, refused: Sendable, *, route: str) -> None:
        entry = self._wake(account)
        if entry is None or entry.tokens.generation != refused.generation:
            return
        seconds = entry.hold(route, self._monotonic(), self._policy)
        if seconds is not None:
            log.event(_log, "renewals_held", account=account, route=route, seconds=seconds)

    def worked(self, account: str, tokens: Sendable) -> None:
        if isinstance(tokens, Packed) and tokens.settled:
            return
        resting = self._entries.resting.get(account)
        if resting is not None and resting.settled:
            return
        entry = self._wake(account)
        if entry is None or entry.settled or entry.tokens.generation != tokens.generation:
            return
        entry.settled = True
        self._tasks.start(self._settle(entry), name=f"settle {account}")

    # -- what operators and logins ask ---------------------------------------------------------------------------

    async def adopt(self, account: str, tokens: TokenSet) -> TokenSet:
        """
        Put a login's or an import's token set in the place of what is there; stored before it is given back.

        Waits for a renewal under way, so that neither result is lost to the other. Raises ``AccountError`` for an
        account that the config does not know, or ``StoreError``.
        """
        self._spec(account)
        return await self._alone(account, lambda: self._adopt(account, tokens), name=f"adopt {account}")

    async def refresh(self, account: str) -> TokenSet:
        """Renew now, whatever expiry, back-off and state say; the operator asked. Raises ``AccountError``."""
        entry = await self._entry(account)
        self._require_registration(entry)
        return await self._renewed_anyway(entry, "manual", refusal=False)

    async def forget(self, account: str) -> Record | None:
        """
        Drop the account's secrets everywhere; what there was, so that its provider can be told, or None.

        Raises ``StoreError``; then nothing has changed.
        """
        self._spec(account)
        return await self._alone(account, lambda: self._forget(account), name=f"forget {account}")

    async def rebind(self, account: str) -> None:
        """Take the stored tokens as the configured registration's own. Raises ``AccountError``, ``StoreError``."""
        self._spec(account)
        await self._alone(account, lambda: self._rebind(account), name=f"rebind {account}")

    # -- what ``app`` asks ---------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take back what an earlier process could not store. Raises ``StoreError`` where nobody can tell what."""
        for kept in await self._backlog.restore():
            if table_of(kept.claim.account) not in self._accounts:
                continue  # it stays where it is, until the config knows the account again
            entry = self._put(_restored(kept), kept.tokens)
            entry.unstored = kept
            self._backlog.add(entry)

    async def start(self) -> None:
        """After ``restore``: count the states of what is stored, and begin to repeat renewals that are in doubt."""
        self._store.watch(self._changed)
        self._census.begin(await self._store.tally())
        await self._take_over(now=self._clock.now() + _ANY_BACK_OFF, limit=-1)

    async def take_over(self) -> None:
        """Look whether a renewal is in doubt that nobody is at, be its process dead or gone, and repeat it at once."""
        try:
            await self._take_over(now=self._clock.now(), limit=self._policy.concurrent)
            if self._others:
                self._others = False
                self._census.begin(await self._store.tally(), self._entries.__contains__)
        except StoreError as error:
            self._store_away = True
            log.event(_log, "store_failed", account="", detail=error.message)
            return
        if self._store_away:
            self._store_away = False
            self._backlog.hurry()
        while self._uncompared:
            account = self._uncompared.pop()
            self._tasks.start(self._compare(account), name=f"compare {account}")

    async def _take_over(self, *, now: datetime, limit: int) -> None:
        for account in await self._store.abandoned(now=now, limit=limit):
            if account in self._backlog:  # the answer is here; only the store lacks it
                continue
            if table_of(account) in self._accounts and self._busy(account) is None:
                entry = self._wake(account)
                if entry is not None:
                    entry.in_doubt = True
                self._tasks.start(self._recover(account), name=f"recover {account}")

    async def recovered(self, *, patience: float) -> None:
        """Wait, at most ``patience`` seconds, until the renewals in doubt were tried."""
        running = {task for task in self._tasks.running if task.get_name().startswith("recover ")}
        if running:
            await asyncio.wait(running, timeout=patience)

    def configure(self, accounts: Mapping[str, Account], policy: RenewPolicy) -> None:
        """A reload: later calls follow the new config; renewals under way end under the old one."""
        before, self._accounts = self._accounts, dict(accounts)
        as_before, self._policy = policy == self._policy, policy
        self._ceilings.concurrent = policy.concurrent
        self._configured_at = self._clock.now()
        self._changes += 1  # what is being loaded is judged anew
        for entry in list(self._entries):
            self._follow(entry)
        for account in self._entries.resting.follow(before, self._accounts, as_before=as_before):
            self._entries.drop(account)

    def _follow(self, entry: Entry) -> None:
        """Take a login under the config as it is now; one that is not its any more leaves the memory."""
        spec, before = self._accounts.get(entry.table), entry.account
        if spec is None or spec.bound_to != entry.bound_to:
            self._entries.drop(entry.name)  # a renewal under way still ends, where it began
            return
        entry.account = spec
        self._check_registration(entry)
        if spec != before:
            entry.outdated = not traits_of(spec).person
            self._stand(entry, advance(entry.standing, Event.CONFIG_CHANGED, now=self._clock.now()))
        self._schedule(entry)

    def _wake(self, account: str) -> Entry | None:
        """The entry of a login in memory; whatever was reloaded while it rested is made up for."""
        entry = self._entries.wake(account)
        if entry is None or (entry.due_at > -math.inf and entry.account is self._accounts.get(entry.table)):
            return entry
        self._follow(entry)
        return self._entries.get(account)

    def renew_due(self, at_most: int) -> int:
        """Begin background renewals of what is used and due, dies unused, or is in doubt; how many."""
        now, begun, full = self._monotonic(), 0, set[str]()
        for entry in chain(list(self._entries), self._woken(now, full)):
            if begun >= at_most:
                break
            if now < entry.due_at or entry.table in full or not entry.in_use(now):
                continue
            if not self._ceilings.open_for(entry.account):
                full.add(entry.table)
            elif self._may_begin(entry):
                self._begin(entry, "recovery" if entry.in_doubt else "due", AskFirst.NOT)
                begun += 1
        return begun

    def _woken(self, now: float, full: set[str]) -> Iterator[Entry]:
        """Logins in use that rested until now, except those of tables whose ceiling is reached: they may as well go on."""
        woken = 0
        for account, resting in self._entries.resting.due(now):
            if resting.account.name in full:
                continue
            entry = self._wake(account)
            if entry is not None:
                yield entry
            woken += 1
            if woken >= _WOKEN_AT_ONCE:
                return

    async def keep_alive(self) -> int:
        """Begin to renew logins that nobody uses and that would die of it, if it is time; how many."""
        begun = 0
        for spec in self._keep_alive.ripe(self._accounts):
            if not self._ceilings.open_for(spec):
                continue
            try:
                names = await self._keep_alive.look(spec, logins=self._census.total(spec.name))
            except StoreError as error:
                log.event(_log, "store_failed", account=spec.name, detail=error.message)
                continue
            for name in names:
                begun += await self._kept_alive(name)
        return begun

    async def _kept_alive(self, account: str) -> bool:
        if self._busy(account) is not None:
            return False
        try:
            entry = await self._entry(account)
        except AccountError:  # it was dropped meanwhile, or the store cannot be read: whoever uses it is told
            return False
        may = entry.may_be_kept_alive(self._clock) and self._may_begin(entry)
        if not may or not self._ceilings.open_for(entry.account):
            self._leave_idle(entry)
            return False
        self._begin(entry, "recovery" if entry.in_doubt else "keep_alive", AskFirst.NOT)
        return True

    def _may_begin(self, entry: Entry) -> bool:
        """Whether nothing speaks against a background renewal: another one, back-off, whose tokens they are."""
        return self._busy(entry.name) is None and self._refusal(entry) is None and entry.sendable

    def _leave_idle(self, entry: Entry) -> None:
        """What was read only to be kept alive takes no room in memory."""
        if entry.used_at == -math.inf and not entry.wanted and self._entries.get(entry.name) is entry:
            self._entries.drop(entry.name)

    def look(self) -> None:
        """Begin to look whether a watched origin was written anew, unless that is still under way."""
        if self._looking is None or self._looking.done():
            watched = [entry for entry in self._entries if traits_of(entry.account).watched]
            if watched:
                self._looking = self._tasks.start(self._look(watched), name="look")

    async def _look(self, watched: Sequence[Entry]) -> None:
        for entry in watched:
            origin = entry.account.token_from
            stamp = await self._endpoint.stamp(origin)
            here = self._entries.get(entry.name) is entry and entry.account.token_from == origin
            if not here or stamp is None or stamp == entry.stamp or entry.unstored is not None:
                continue
            if self._busy(entry.name) is None:
                self._begin(entry, "due", AskFirst.NOT)  # no back-off holds it up: it is another token

    def entry(self, account: str) -> Entry | None:
        """What is in memory of a login; for people's eyes."""
        return self._entries.look(account)

    @property
    def logins(self) -> int:
        """How many there are, those that are only in the store included."""
        return sum(self._census.total(table) for table in self._accounts)

    @property
    def unstored(self) -> int:
        """Token sets that a provider issued and the store has not taken; 0 is the only good value."""
        return len(self._backlog)

    @property
    def unstored_names(self) -> Sequence[str]:
        return list(self._backlog)

    def gauges(self) -> list[AccountGauge]:
        """One for each account of the config."""
        return gauges(
            self._accounts, self._entries, self._entries.resting, self._census, now=self._monotonic()
        )

    async def close(self, *, patience: float = RENEWAL_PATIENCE) -> None:
        """Let renewals that were sent end and be stored; up to ``patience`` seconds."""
        self._backlog.close()
        await self._tasks.finish(patience=patience)

    # -- what other processes do ---------------------------------------------------------------------------------

    def _changed(self, account: str, generation: int) -> None:
        """Another process changed the row: what is in memory of it is read anew before it is used again."""
        self._others = True
        self._news.tell(account)
        if account in self._loading:
            self._loading[account].changes += 1
        busy = self._busy(account)
        entry = self._entries.look(account)
        if busy is not None:  # what it comes to may be newer than this
            busy.add_done_callback(lambda _: self._changed(account, generation))
        elif entry is None or entry.unstored is not None or generation < entry.tokens.generation:
            return
        elif generation > entry.tokens.generation:
            self._entries.drop(account)
        else:
            self._tasks.start(self._compare(account), name=f"compare {account}")

    def _overtaken(self, entry: Entry, record: Record | None) -> None:
        """While the entry's newest pair waited for the store, another process put something newer there."""
        if record is None or record.tokens is None:
            self._changed(entry.name, entry.tokens.generation + 1)
            return
        spent = entry.tokens
        entry.take(record, record.tokens)
        if self._entries.look(entry.name) is entry:
            self._schedule(entry)
            self._entries.renewed(entry, spent)
            self._census.restate(entry.name, entry.standing.state)

    async def _compare(self, account: str) -> None:
        """The same tokens; but a logout, a rebind or a refusal may be what another process did."""
        try:
            found = await self._store.summary(account)
        except StoreError:
            self._uncompared.add(account)
            return
        entry = self._entries.look(account)
        if entry is None or entry.unstored is not None:
            return
        if found is not None and found.has_tokens and found.generation < entry.tokens.generation:
            return  # the store has forgotten it, and is given it back when it is renewed
        if self._busy(account) is not None:
            self._changed(account, entry.tokens.generation)
        elif found is None or not _as_in(entry, found):
            self._entries.drop(account)

    # -- entries -------------------------------------------------------------------------------------------------

    def _spec(self, account: str) -> Account:
        spec = self._accounts.get(table_of(account))
        if spec is None:
            raise UnknownAccountError(
                f"there is no account {table_of(account)} in the config",
                account=account,
                next_step="tokenproxy status   lists the accounts",
            )
        return spec

    async def _entry(self, account: str) -> Entry:
        """
        The login in memory, once no import, logout or rebind of it runs; read from the store where it is not there.

        An unknown login leaves nothing behind.
        """
        self._spec(account)
        while True:
            occupied = self._occupied.get(account)
            if occupied is not None:
                await asyncio.wait({occupied})
                continue
            entry = self._wake(account)
            if entry is not None:
                return entry
            if account in self._backlog:  # what the store has is spent
                raise not_stored(account)
            changes, spec = self._changes, self._spec(account)
            loading = self._loading.setdefault(account, _Loading())
            told = loading.changes
            loading.readers += 1
            try:
                record = await self._load(account)
            finally:
                loading.readers -= 1
                if not loading.readers:
                    del self._loading[account]
            outrun = changes != self._changes or told != loading.changes
            if outrun or account in self._entries or account in self._occupied:
                continue  # the record may be older than what came meanwhile
            found = self._found(spec, account, record)
            if found is not None:
                return found
            await self._prepare(spec)

    def _found(self, spec: Account, account: str, record: Record | None) -> Entry | None:
        """What a row of the store is worth under this config; None: room must be made for first tokens."""
        held = record.tokens if record is not None else None
        ours = record is not None and record.bound_to == spec.bound_to
        if traits_of(spec).person:
            if record is None or held is None:
                raise not_logged_in(account)
            return self._put(
                record, held
            )  # another registration's, too: only a person may say what becomes of it
        if record is not None and held is not None and ours:
            return self._put(record, held)
        if account != spec.name:
            raise no_logins(spec)
        if record is not None and held is not None and is_login(record.bound_to):
            self._census.restate(account, State.MISCONFIGURED)
            raise login_in_the_way(account)
        return (
            self._put(record, _nothing_yet(record, self._clock.now()))
            if record is not None and ours
            else None
        )

    async def _load(self, account: str) -> Record | None:
        try:
            return await self._read(account)
        except StoreError as error:
            raise store_unusable(account, error) from None

    async def _read(self, account: str) -> Record | None:
        record = await self._store.load(account)
        if record is not None:
            self._census.seen(record.account, record.standing.state)
        return record

    async def _prepare(self, spec: Account) -> None:
        """Make room for the first tokens of an account that needs no person; what another registration got goes."""

        async def work() -> None:
            record = await self._read(spec.name)
            if record is not None and record.bound_to == spec.bound_to:
                return
            if record is not None and record.tokens is not None and is_login(record.bound_to):
                return  # only a logout drops it
            if record is not None and await self._store.forget(spec.name, standing=AT_EASE):
                log.event(
                    _log, "account_forgotten", account=spec.name, detail="another grant or registration"
                )
            await self._store.prepare(spec.name, bound_to=spec.bound_to, standing=AT_EASE)
            self._census.restate(spec.name, AT_EASE.state)

        try:
            await self._alone(spec.name, work, name=f"prepare {spec.name}")
        except StoreError as error:
            raise store_unusable(spec.name, error) from None

    def _check_registration(self, entry: Entry) -> None:
        """A token set is bound to the endpoint and the client that obtained it."""
        fits = entry.bound_to == entry.account.bound_to
        if fits is entry.sendable:
            return
        event = Event.REBOUND if fits else Event.REGISTRATION_CHANGED
        reason = Reason.NONE if fits else Reason.REGISTRATION_CHANGED
        self._stand(entry, advance(entry.standing, event, now=self._clock.now(), reason=reason))
        if not fits:
            log.event(
                _log,
                "registration_changed",
                account=entry.name,
                next_step=next_step(entry.name, entry.standing),
            )

    def _end_old_pause(self, entry: Entry) -> None:
        """A client registration that was refused under another config is worth trying again under this one."""
        standing = entry.standing
        if standing.state is not State.MISCONFIGURED or standing.retry_at is None:
            return
        if standing.retry_at - MISCONFIGURED_PAUSE < self._configured_at:
            self._stand(entry, advance(standing, Event.CONFIG_CHANGED, now=self._clock.now()))

    def _require_registration(self, entry: Entry) -> None:
        if not entry.sendable:
            raise refusal_of(entry.name, entry.standing, self._clock.now()) or not_logged_in(entry.name)

    def _put(self, record: Record, tokens: TokenSet) -> Entry:
        """Into memory, under the config as it is now: it may have changed while the store was at work."""
        entry = Entry(self._spec(record.account), record, tokens)
        self._entries.drop(entry.name)
        self._census.restate(entry.name, entry.standing.state)
        traits = traits_of(entry.account)
        entry.outdated = not traits.person and not (
            traits.endpoint and tokens.scope_asked == entry.account.scope
        )
        self._check_registration(entry)
        self._end_old_pause(entry)
        self._schedule(entry)
        self._entries.put(entry)
        return entry

    def _schedule(self, entry: Entry) -> None:
        entry.schedule(self._clock, self._policy, jitter=self._jitter())

    def _freshness(self, entry: Entry) -> Freshness:
        if entry.dead:
            return Freshness.EXPIRED
        early = margin(entry.tokens, self._policy, entry.account.provider)
        freshness = entry.tokens.freshness(self._clock.now(), early)
        return Freshness.STALE if entry.outdated and freshness is Freshness.FRESH else freshness

    def _refusal(self, entry: Entry) -> AccountError | None:
        if entry.unstored is not None:
            return not_stored(entry.name)
        return refusal_of(entry.name, entry.standing, entry.moment(self._clock))

    def _stand(self, entry: Entry, standing: Standing) -> None:
        """A standing that no renewal brought: into memory now, into the store as soon as may be."""
        if standing == entry.standing:
            return
        entry.standing = standing
        self._census.restate(entry.name, standing.state)
        self._tasks.start(self._store_standing(entry.name, standing), name=f"stand {entry.name}")

    async def _store_standing(self, account: str, standing: Standing) -> None:
        try:
            await self._store.stand(account, standing)
        except StoreError as error:  # it is worked out anew at the next load
            log.event(_log, "store_failed", account=account, detail=error.message)

    # -- renewals ------------------------------------------------------------------------------------------------

    async def _renewed_anyway(self, entry: Entry, trigger: str, *, refusal: bool = True) -> TokenSet:
        """A new token set, whatever a validate call would say; ``refusal`` off: whatever state and back-off say, too."""
        return cast("TokenSet", await self._renewed(entry, trigger, AskFirst.NOT, refusal=refusal))

    async def _renewed(
        self, entry: Entry, trigger: str, ask: AskFirst, *, refusal: bool = True
    ) -> TokenSet | KeepAnswer:
        """
        Join the renewal under way or begin one; leaving does not stop it.

        What the validate call said is an answer only to those who would have asked it; the others go on to renew.
        """
        while True:
            task = entry.renewal
            if task is None:
                refused = self._refusal(entry) if refusal or entry.unstored is not None else None
                if refused is not None:
                    raise refused
                task = self._begin(entry, trigger, ask)
            entry.waiters += 1
            try:
                outcome = await asyncio.shield(task)
            finally:
                entry.waiters -= 1
            if isinstance(outcome, AccountError):
                raise outcome.again()
            if isinstance(outcome, TokenSet) or outcome in _SATISFIED[ask]:
                return outcome

    def _begin(self, entry: Entry, trigger: str, ask: AskFirst) -> asyncio.Task[Outcome]:
        work = self._renew(entry, trigger, ask)
        if self._watch is not None:
            work = _watched(work, self._watch(entry.name, trigger))
        entry.renewal = self._tasks.start(work, name=f"renew {entry.name}")
        return entry.renewal

    async def _renew(self, entry: Entry, trigger: str, ask: AskFirst) -> Outcome:
        """The renewal's own task: what it leads to is in the store and in memory before anybody wakes up."""
        metrics = self._metrics.account(entry.table)
        spent = entry.tokens
        outcome: Outcome
        try:
            async with self._ceilings.turn(entry):
                if traits_of(entry.account).watched:
                    entry.stamp = await self._endpoint.stamp(entry.account.token_from)
                outcome = await self._journal.renew(entry, ask, trigger=trigger, metrics=metrics)
        except TurnNotHadError:
            metrics.count(trigger, "ceiling")
            outcome = no_turn(entry.name)
        finally:
            entry.renewal = None
        self._census.restate(entry.name, entry.standing.state)
        self._schedule(entry)
        if entry.tokens is not spent:
            self._entries.renewed(entry, spent)
        if isinstance(outcome, TokenSet):
            metrics.waiters.observe(entry.waiters)
            metrics.last_success = self._clock.now().timestamp()
        if entry.unstored is not None:
            self._backlog.add(entry)
        if trigger == "keep_alive":
            self._leave_idle(entry)
        return outcome

    async def _recover(self, account: str) -> None:
        """Repeat a renewal whose answer was lost when the process ended; the grace may be 10 seconds short."""
        try:
            entry = await self._entry(account)
            self._require_registration(entry)
            if entry.in_doubt:
                await self._renewed_anyway(entry, "recovery", refusal=False)
                log.event(_log, "renewal_recovered", account=account, generation=entry.tokens.generation)
        except AccountError:
            return  # told by the journal; the scheduler goes on

    async def _settle(self, entry: Entry) -> None:
        try:
            await self._store.settled(entry.name, generation=entry.tokens.generation)
        except StoreError:  # an old refresh token stays a little longer; tried again with the next answer
            held = self._wake(entry.name)
            if held is not None and held.tokens.generation == entry.tokens.generation:
                held.settled = False

    def _may_ask_again(self, entry: Entry, hold: Hold, now: float) -> bool:
        """
        In a hold, the validate call may still say that the token is dead after all, but not at every request.

        A validate call that says "dead" of every token would else make each request a renewal.
        """
        if entry.account.provider.validate is None or now - hold.asked < self._policy.hold:
            return False
        hold.asked = now
        return True

    # -- adopt and forget, in the place of a renewal ---------------------------------------------------------------

    async def _alone(self, account: str, work: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> T:
        """Do it while no renewal runs, as a task of its own; whoever needs a token meanwhile waits for it."""
        while (busy := self._busy(account)) is not None:
            await asyncio.wait({busy})

        async def alone() -> T:
            try:
                return await work()
            finally:
                del self._occupied[account]
                self._changes += 1

        task = self._occupied[account] = self._tasks.start(alone(), name=name)
        return await asyncio.shield(task)

    def _busy(self, account: str) -> asyncio.Task[Any] | None:
        entry = self._entries.get(account)
        return self._occupied.get(account) or (entry.renewal if entry is not None else None)

    async def _adopt(self, account: str, tokens: TokenSet) -> TokenSet:
        for _ in range(5):
            bound_to = self._spec(account).bound_to
            record = await self._read(account)
            held = record.generation if record is not None else 0
            tokens = replace(tokens, generation=held + 1)
            now = self._clock.now()
            standing = advance(record.standing if record is not None else Standing(), Event.ADOPTED, now=now)
            if await self._store.adopt(account, tokens, bound_to=bound_to, standing=standing, now=now):
                await self._backlog.forget(account)
                self._put(_adopted(account, bound_to, tokens, standing), tokens)
                log.event(_log, "token_imported", account=account, generation=tokens.generation)
                return tokens
        raise StoreError(
            f"account {account} is changed by another process all the time", next_step="try again"
        )

    async def _forget(self, account: str) -> Record | None:
        record = await self._read(account)
        if record is None:
            # One that only captures has state and no row.
            if await self._store.forget(account, standing=Standing()):
                log.event(_log, "account_forgotten", account=account)
            return None
        entry = self._entries.get(account)
        if entry is not None and entry.unstored is not None:  # what the store has is spent
            record = replace(record, tokens=entry.tokens)
        standing = advance(record.standing, Event.FORGOTTEN, now=self._clock.now())
        if not traits_of(self._spec(account)).person:
            standing = AT_EASE
        found = await self._store.forget(account, standing=standing)
        await self._backlog.forget(account)
        self._entries.drop(account)
        self._census.restate(account, standing.state)
        log.event(_log, "account_forgotten", account=account)
        return record if found and record.tokens is not None else None

    async def _rebind(self, account: str) -> None:
        spec = self._spec(account)
        record = await self._read(account)
        if record is None or record.tokens is None:
            raise not_logged_in(account)
        if not is_login(record.bound_to):  # a machine's token is nobody's login, whoever asks
            raise not_logged_in(account)
        standing = advance(record.standing, Event.REBOUND, now=self._clock.now())
        await self._store.rebind(account, bound_to=spec.bound_to, standing=standing)
        self._entries.drop(account)
        self._census.restate(account, standing.state)
        log.event(_log, "account_rebound", account=account)


async def _watched(
    work: Coroutine[Any, Any, Outcome], watching: AbstractContextManager[Callable[[str], None]]
) -> Outcome:
    with watching as ended:
        outcome = await work
        if isinstance(outcome, AccountError):
            ended(outcome.code)
        else:
            ended("ok" if isinstance(outcome, TokenSet) else outcome.value)
        return outcome


def _as_in(entry: Entry, found: Summary) -> bool:
    """Whether memory says what the store does."""
    return (found.generation, found.has_tokens, found.standing, found.bound_to) == (
        entry.tokens.generation,
        bool(entry.tokens.access_token),
        entry.standing,
        entry.bound_to,
    )


def _adopted(account: str, bound_to: str, tokens: TokenSet, standing: Standing) -> Record:
    return Record(
        account=account,
        bound_to=bound_to,
        generation=tokens.generation,
        tokens=tokens,
        standing=standing,
        renewed_at=standing.since,
    )


def _restored(kept: Unstored) -> Record:
    return Record(
        account=kept.claim.account,
        bound_to=kept.bound_to,
        generation=kept.tokens.generation,
        tokens=kept.tokens,
        standing=kept.standing,
        renewed_at=kept.standing.since,
        previous=kept.previous,
    )


def _nothing_yet(record: Record, now: datetime) -> TokenSet:
    """
    What stands in the place of a first token set: never sent, and renewed before anything is.

    Without a lifetime, so that a first token which somebody wanted and nobody got is tried for in the background.
    """
    return TokenSet(access_token="", expires_at=now, generation=record.generation)
