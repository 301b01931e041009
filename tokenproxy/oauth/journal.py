"""
One renewal, step by step: validate, claim, send, store. Each step is durable before the next begins.

The mark "sent" is in the store before anything is sent, and the new pair is in the store before anybody sees it, so
that a crash at any point leaves either the old state, or a mark that the next start finds and acts on, or the new
pair. What a provider has issued is never thrown away: not by a failed write, and not by an answer that is broken
elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from tokenproxy import log
from tokenproxy.core.account import Event, Reason, Standing, State, advance
from tokenproxy.core.grants import Ask, renewal, traits_of
from tokenproxy.core.interfaces import Claim, Clock, KeepAnswer, Spool, Store, Unstored
from tokenproxy.core.provider import Account
from tokenproxy.core.replies import Answer, Failure, Granted, without
from tokenproxy.core.schedule import LIVE_FOR, MISCONFIGURED_PAUSE, backoff
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import (
    AccountError,
    LoginRequiredError,
    ProviderUnavailableError,
    StoreError,
    StoreUnavailableError,
)
from tokenproxy.metrics import AccountMetrics
from tokenproxy.oauth.endpoint import AnswerLostError, Endpoint, NotSentError
from tokenproxy.oauth.entry import Entry, Outcome
from tokenproxy.oauth.news import News
from tokenproxy.oauth.refusals import next_step, not_logged_in, refusal_of, sentence

LEASE: Final = timedelta(seconds=30)
"""Twice the longest token call, so that nobody sends when another may have taken over (oauth2-proxy's 2 s lacks that)."""

OTHERS_PATIENCE: Final = 5.0
"""Seconds beyond a whole lease for which another process's renewal is waited for: by then it is ours, or done."""
LOOK_AGAIN: Final = 0.75
"""Seconds, give or take a third, between two looks at what another process does: a notice may be lost."""

_log = logging.getLogger("tokenproxy.oauth")

_RESULTS: Final = {
    Reason.REFUSED: "invalid_grant",
    Reason.ROTATION_LOST: "invalid_grant",
    Reason.NO_REFRESH_TOKEN: "invalid_grant",
    Reason.CLIENT_REFUSED: "client_refused",
    Reason.REQUEST_REFUSED: "client_refused",
    Reason.RATE_LIMITED: "rate_limited",
    Reason.CREDENTIALS_REFUSED: "client_refused",
    Reason.TOKEN_REFUSED: "client_refused",
    Reason.ANSWER_LOST: "timeout",
    Reason.STORE_FAILED: "store_error",
}
"""Reason -> ``result`` of ``tokenproxy_refreshes_total``; everything else is ``provider_error``."""

_ASKED_AGAIN: Final = {
    Event.REFUSED: (Event.REGISTRATION_REFUSED, Reason.CREDENTIALS_REFUSED),
    Event.ANSWER_LOST: (Event.PROVIDER_DOWN, Reason.ANSWER_LOST),
}
"""What a failure means to an account that needs no person: nothing was spent, and no login would mend it."""


class AskFirst(Enum):
    """Whether the provider's validate call comes before the renewal."""

    NOT = "not"
    RENEW_UNLESS_LIVE = "renew_unless_live"
    RENEW_IF_DEAD = "renew_if_dead"
    """In a hold: silence is not enough."""


@dataclass(frozen=True, slots=True)
class _Asked:
    answer: Answer
    times: int
    """How often it was or may have been sent."""
    unreached: bool = False
    """Nothing of it left this machine."""


class Journal:
    """Performs renewals; knows nothing of who waits for them."""

    def __init__(
        self,
        *,
        store: Store,
        spool: Spool,
        endpoint: Endpoint,
        clock: Clock,
        jitter: Callable[[], float],
        on_slow_down: Callable[[Account, float], None],
        news: News,
        lease: timedelta = LEASE,
    ) -> None:
        """
        ``jitter`` gives numbers from -1 to 1; ``on_slow_down`` hears how many seconds a provider asks us to wait.

        No token call may take longer than half of the ``lease``.
        """
        self._store = store
        self._spool = spool
        self._endpoint = endpoint
        self._clock = clock
        self._jitter = jitter
        self._on_slow_down = on_slow_down
        self._news = news
        self._lease = lease

    async def renew(self, entry: Entry, ask: AskFirst, *, trigger: str, metrics: AccountMetrics) -> Outcome:
        """Replace the entry's token set, whatever its expiry says; changes ``entry`` as the result says."""
        if ask is not AskFirst.NOT:
            live = await self._is_live(entry)
            if live:
                return KeepAnswer.LIVE
            if live is None and ask is AskFirst.RENEW_IF_DEAD:
                return KeepAnswer.HELD
        if not entry.renewable:
            return await self._nothing_to_renew_with(entry)
        started = self._clock.monotonic()
        asked_as = entry.account
        asking = await self._resolved(asked_as)  # before the lease begins to run
        outcome, result = await self._asked(entry, asking, refused=trigger == "on_401" or entry.dead)
        if not result:
            return outcome
        if result == "ok":
            # A reload may have come meanwhile: then this is what the config before it asked for.
            entry.outdated = entry.outdated and entry.account != asked_as
        seconds = self._clock.monotonic() - started
        metrics.count(trigger, result)
        metrics.refresh_seconds.observe(seconds)
        if isinstance(outcome, TokenSet) and result == "ok":
            log.event(
                _log,
                "token_renewed",
                account=entry.name,
                trigger=trigger,
                generation=outcome.generation,
                seconds=round(seconds, 3),
                waiters=entry.waiters,
            )
        return outcome

    async def _asked(self, entry: Entry, asking: Account | Failure, *, refused: bool) -> tuple[Outcome, str]:
        """What the renewal led to, and the ``result`` of the metrics; "" where another process did it."""
        for _ in range(2):  # once more where the lease was lost before anything was sent
            since = self._clock.monotonic()
            try:
                await self._end_lease(entry)
                turn = await self._turn(entry)
            except StoreError as error:
                return self._store_failed(entry, error), "store_error"
            if not isinstance(turn, Claim):
                return turn, ""
            outcome, result = await self._claimed(entry, turn, asking, since=since, refused=refused)
            if result != "lost_lease" or isinstance(outcome, TokenSet):
                break
        return outcome, result

    async def _claimed(
        self, entry: Entry, claim: Claim, asking: Account | Failure, *, since: float, refused: bool
    ) -> tuple[Outcome, str]:
        """Send, and store what came; what it led to, and the ``result`` of the metrics."""
        # To ask again spends nothing, so that an account which does is never in doubt.
        spends = traits_of(entry.account).person
        doubt = spends and claim.found_in_flight is not None
        try:
            asked = await self._ask(entry, claim, asking, since=since, doubt=doubt, refused=refused)
        except Exception:  # a mistake of ours: nobody knows what was sent, but the lease must not outlive it
            await self._record(entry, claim, entry.standing, keep_mark=spends, rotated=None)
            raise
        if asked is None:
            return await self._overtaken(entry), "lost_lease"
        if isinstance(asked.answer, Granted):
            kept = await self._keep(entry, claim, asked.answer.tokens)
            return (kept, "ok") if kept is not None else (await self._overtaken(entry), "lost_lease")
        doubt = doubt or (spends and asked.times > 1)  # asked twice means that the first answer was lost
        outcome = await self._fail(entry, claim, asked.answer, doubt=doubt)
        if isinstance(outcome, TokenSet):  # somebody else's: the refresh token that we sent was spent by them
            return outcome, "lost_lease"
        if asked.unreached:
            return outcome, "network"
        return outcome, _RESULTS.get(entry.standing.reason, "provider_error")

    async def _end_lease(self, entry: Entry) -> None:
        """Give back a lease that the store did not take back before; else it holds us up until it runs out."""
        if entry.owed is not None:
            await self._store.give_up(entry.owed, standing=entry.standing, keep_mark=entry.in_doubt)
            entry.owed = None

    async def _is_live(self, entry: Entry) -> bool | None:
        """Ask the provider about the token; "live" is believed for a moment, "dead" ends every hold."""
        live = await self._endpoint.is_live(entry.account, entry.tokens, now=self._clock.now())
        if live:
            entry.live_generation = entry.tokens.generation
            entry.live_until = self._clock.monotonic() + LIVE_FOR
            log.event(_log, "validate_live", account=entry.name, generation=entry.tokens.generation)
        elif live is None:
            log.event(_log, "validate_failed", account=entry.name)
        else:
            entry.bury()
        return live

    async def _resolved(self, account: Account) -> Account | Failure:
        """The account with a token endpoint, which is all that a renewal needs of its issuer."""
        if account.provider.token_url:
            return account
        try:
            return await self._endpoint.resolved(account)
        except NotSentError as error:
            return Failure(error.event, error.reason, str(error))

    async def _turn(self, entry: Entry) -> Claim | Outcome:
        """
        The lease, or what another process that has it comes to: no two of us ask for one account at a time.

        Raises ``StoreError``. Who holds the lease and dies loses it, at the latest when it runs out.
        """
        until = self._patience()
        known = entry.standing
        with self._news.of(entry.name) as heard:
            while (claim := await self._claim(entry)) is None:
                theirs = await self._theirs(entry, known)
                if theirs is None and self._clock.monotonic() >= until:
                    return self._busy(entry)
                if theirs is None:
                    await self._look_again(heard)
                    theirs = await self._theirs(entry, known)
                if theirs is not None:
                    return theirs
        return claim

    def _patience(self) -> float:
        """Until when another process is waited for (monotonic seconds)."""
        return self._clock.monotonic() + self._lease.total_seconds() + OTHERS_PATIENCE

    async def _look_again(self, heard: asyncio.Event) -> None:
        await self._news.wait(heard, LOOK_AGAIN * (1 + self._jitter() / 3))
        heard.clear()

    async def _claim(self, entry: Entry) -> Claim | None:
        """None also while our newest pair waits for the store: it may have come to another one under this number."""
        if entry.unstored is not None:
            return None
        return await self._store.claim(
            entry.name, generation=entry.tokens.generation, now=self._clock.now(), lease=self._lease
        )

    async def _theirs(self, entry: Entry, known: Standing) -> Outcome | None:
        """What another process has stored since ``known``: newer tokens, or why there are none; None: nothing yet."""
        record = await self._store.load(entry.name)
        if record is None or (record.tokens is None and record.generation):
            return not_logged_in(entry.name)
        if record.tokens is not None and record.generation > entry.tokens.generation:
            entry.take(record, record.tokens)
            return record.tokens
        if record.tokens is not None and record.generation < entry.tokens.generation:
            await self._put_back(entry, record.generation)
            return None
        if record.standing == known:
            return None
        entry.standing, entry.in_doubt = record.standing, record.in_flight_since is not None
        return refusal_of(entry.name, record.standing, self._clock.now())

    async def _put_back(self, entry: Entry, generation: int) -> None:
        """
        The store has forgotten what it had confirmed (a fail-over, a backup): its refresh token is spent, ours is not.

        One generation further than ours, so that every process reads it anew before it spends the token.
        """
        if entry.unstored is not None:
            return  # it is on its way there
        newest = entry.tokens.generation + 1
        while generation < newest:
            generation += 1
            tokens = replace(entry.tokens, generation=generation)
            if not await self._store.adopt(
                entry.name,
                tokens,
                bound_to=entry.bound_to,
                standing=entry.standing,
                now=self._clock.now(),
            ):
                return  # somebody else is at it
        entry.tokens = tokens
        self._news.tell(entry.name)  # it can be claimed now
        log.event(_log, "store_rolled_back", account=entry.name, generation=newest)

    def _busy(self, entry: Entry) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"another process is renewing account {entry.name}", account=entry.name, retry_after=1.0
        )

    async def _may_send(self, claim: Claim, since: float) -> bool:
        """Whether the lease, asked for at ``since``, outlives a token call; False: it is lost. Raises ``StoreError``."""
        if self._clock.monotonic() - since <= self._lease.total_seconds() / 4:
            return True
        return await self._store.prolong(claim, now=self._clock.now(), lease=self._lease)

    async def _ask(
        self,
        entry: Entry,
        claim: Claim,
        asking: Account | Failure,
        *,
        since: float,
        doubt: bool,
        refused: bool,
    ) -> _Asked | None:
        """
        Send the request; after a lost answer send it once more, at once and with the same refresh token.

        None: the lease was lost before anything could be sent for it.

        There is no other token to send: a provider with a grace window gives the pair again, a strict one has
        nothing more to take away.
        """
        if isinstance(asking, Failure):
            return _Asked(asking, 0, unreached=asking.reason is Reason.PROVIDER_DOWN)
        lost = ""
        for attempt in (1, 2):
            try:
                if not await self._may_send(claim, since):
                    return None
            except StoreError as error:  # whose lease it is by now nobody knows
                lost = lost or error.message
                break
            flow = renewal(
                Ask(
                    account=asking,
                    held=entry.tokens,
                    now=self._clock.now(),
                    refused=refused,
                    outdated=entry.outdated,
                )
            )
            try:
                return _Asked(await self._endpoint.run(flow, asking), attempt)
            except NotSentError as error:
                kind = Event.ANSWER_LOST if doubt or attempt > 1 else error.event
                reason = Reason.ANSWER_LOST if doubt or attempt > 1 else error.reason
                unreached = error.reason is Reason.PROVIDER_DOWN and attempt == 1
                return _Asked(Failure(kind, reason, str(error)), attempt, unreached=unreached)
            except AnswerLostError as error:
                lost = str(error)
                log.event(_log, "renewal_in_doubt", account=entry.name, attempt=attempt, detail=lost)
        if doubt or attempt > 1:
            return _Asked(Failure(Event.ANSWER_LOST, Reason.ANSWER_LOST, lost), attempt)
        return _Asked(Failure(Event.PROVIDER_DOWN, Reason.STORE_FAILED, lost), 0)

    async def _keep(self, entry: Entry, claim: Claim, granted: TokenSet) -> TokenSet | None:
        """Store the new pair, then let it be seen; None: the lease was lost."""
        held = entry.tokens
        if traits_of(entry.account).person:
            tokens = held.succeeded_by(granted)
        else:  # what the answer left out is not the old answer's: it was another request
            tokens = replace(granted, generation=held.generation + 1)
        now = self._clock.now()
        standing = advance(entry.standing, Event.RENEWED, now=now)
        while not await self._commit(entry, claim, tokens, standing):
            late = await self._late(entry)
            if late is None:
                return None
            claim = late
        entry.dead = False
        return tokens

    async def _late(self, entry: Entry) -> Claim | None:
        """
        A claim to store an answer with that came when somebody else had taken the lease over.

        They repeat the request: a provider with a grace window gives them a newer pair, and ours is worth nothing. A
        strict one refuses, and then ours is the only one that there is.
        """
        if not traits_of(entry.account).person:
            return None
        until = self._patience()
        try:
            with self._news.of(entry.name) as heard:
                while (claim := await self._claim(entry)) is None:
                    record = await self._store.load(entry.name)
                    kept = record is not None and record.tokens is not None
                    if not kept or record is None or record.generation != entry.tokens.generation:
                        return None
                    if self._clock.monotonic() >= until:
                        return None
                    await self._look_again(heard)
        except StoreError as error:
            self._store_failed(entry, error)
            return None
        return claim

    async def _commit(self, entry: Entry, claim: Claim, tokens: TokenSet, standing: Standing) -> bool:
        spent = entry.tokens.refresh_token
        previous = spent if spent != tokens.refresh_token else None
        now = self._clock.now()
        try:
            stored = await self._store.commit(claim, tokens, previous=previous, standing=standing, now=now)
        except StoreError as error:
            # It is used all the same, since refusing to would help nobody, and ``Backlog`` offers it to the store until
            # that takes it.
            self._store_failed(entry, error)
            entry.unstored = Unstored(claim, entry.bound_to, tokens, previous, standing)
            await self._to_spool(entry.unstored)
            stored = True
        if not stored:
            return False
        entry.tokens, entry.standing = tokens, standing
        entry.settled = previous is None
        entry.renewed_at = now
        entry.in_doubt = False
        return True

    async def _to_spool(self, kept: Unstored) -> None:
        """Out of a crash's reach before anybody sees it; where even that fails, memory has the only copy."""
        try:
            await self._spool.put(kept)
        except StoreError as error:
            log.event(
                _log,
                "spool_failed",
                account=kept.claim.account,
                detail=error.message,
                next_step=error.next_step,
            )

    async def _fail(self, entry: Entry, claim: Claim, failure: Failure, *, doubt: bool) -> Outcome:
        """Record why there are no new tokens; the old ones stay where they are."""
        event, reason = failure.event, failure.reason
        if not traits_of(entry.account).person:
            event, reason = _ASKED_AGAIN.get(event, (event, reason))
        if event is Event.REFUSED:
            newer = await self._newer(entry)
            if newer is not None:
                return newer
            reason = Reason.ROTATION_LOST if doubt else reason
        elif doubt and event is Event.PROVIDER_DOWN:  # this call brought nothing, so the earlier doubt stands
            event, reason = Event.ANSWER_LOST, Reason.ANSWER_LOST
        now = self._clock.now()
        standing = advance(
            entry.standing,
            event,
            now=now,
            reason=reason,
            error=without_secrets(failure.text, entry),
            retry_at=self._retry_at(entry, replace(failure, event=event), now),
        )
        if standing.retry_at is not None and (failure.retry_after or reason is Reason.RATE_LIMITED):
            self._on_slow_down(entry.account, (standing.retry_at - now).total_seconds())
        keep_mark = event is Event.ANSWER_LOST or (doubt and event is not Event.REFUSED)
        await self._record(entry, claim, standing, keep_mark=keep_mark, rotated=failure.rotated)
        if reason is Reason.RATE_LIMITED:
            log.event(_log, "provider_rate_limited", **_fields(entry))
        log.event(_log, _TOLD.get(standing.state, "renewal_failed"), **_fields(entry))
        return refusal_of(entry.name, standing, now) or ProviderUnavailableError(
            sentence(entry.name, standing), account=entry.name, reason=reason.value
        )

    async def _record(
        self, entry: Entry, claim: Claim, standing: Standing, *, keep_mark: bool, rotated: str | None
    ) -> None:
        if rotated is not None and rotated != entry.tokens.refresh_token:
            tokens = replace(entry.tokens, refresh_token=rotated, generation=entry.tokens.generation + 1)
            if not await self._commit(entry, claim, tokens, standing):
                await self._overtaken(entry)
            return
        entry.standing, entry.in_doubt = standing, keep_mark
        try:
            await self._store.give_up(claim, standing=standing, keep_mark=keep_mark)
        except StoreError as error:  # the mark stays set: the next start asks again, which loses nothing
            entry.owed = claim
            self._store_failed(entry, error)

    def _retry_at(self, entry: Entry, failure: Failure, now: datetime) -> datetime | None:
        if failure.event is Event.REFUSED:
            return None
        if failure.event is Event.REGISTRATION_REFUSED:
            return now + MISCONFIGURED_PAUSE
        early = entry.account.provider.refresh_not_before_expiry
        if failure.reason is Reason.TOO_EARLY and entry.tokens.expires_at is not None:
            return max(entry.tokens.expires_at - (early or timedelta(seconds=30)), now + timedelta(seconds=1))
        return now + backoff(entry.standing.fails + 1, jitter=self._jitter(), asked=failure.retry_after)

    async def _nothing_to_renew_with(self, entry: Entry) -> AccountError:
        now = self._clock.now()
        standing = advance(entry.standing, Event.REFUSED, now=now, reason=Reason.NO_REFRESH_TOKEN)
        entry.standing = standing
        try:
            await self._store.stand(entry.name, standing)
        except StoreError as error:
            self._store_failed(entry, error)
        log.event(_log, "login_required", **_fields(entry))
        return LoginRequiredError(
            sentence(entry.name, standing),
            account=entry.name,
            reason=standing.reason.value,
            next_step=next_step(entry.name, standing),
        )

    async def _overtaken(self, entry: Entry) -> Outcome:
        """Somebody else renewed or is at it: take what they stored."""
        newer = await self._newer(entry)
        return newer if newer is not None else self._busy(entry)

    async def _newer(self, entry: Entry) -> TokenSet | None:
        """A newer generation than ours from the store, taken into memory."""
        try:
            record = await self._store.load(entry.name)
        except StoreError as error:
            self._store_failed(entry, error)
            return None
        if record is None or record.tokens is None or record.generation <= entry.tokens.generation:
            return None
        entry.take(record, record.tokens)
        return record.tokens

    def _store_failed(self, entry: Entry, error: StoreError) -> StoreUnavailableError:
        log.event(_log, "store_failed", account=entry.name, detail=error.message)
        return StoreUnavailableError(
            f"the store cannot be written: {error.message}",
            account=entry.name,
            reason=Reason.STORE_FAILED.value,
            retry_after=5.0,
            next_step=error.next_step,
        )


_TOLD: Final = {State.MISCONFIGURED: "misconfigured", State.LOGIN_REQUIRED: "login_required"}
"""State after a failed renewal -> log event; elsewhere ``renewal_failed``."""


def _fields(entry: Entry) -> dict[str, Any]:
    standing = entry.standing
    return {
        "account": entry.name,
        "state": standing.state.value,
        "reason": standing.reason.value,
        "detail": sentence(entry.name, standing),
        "fails": standing.fails,
        "retry_at": standing.retry_at.isoformat() if standing.retry_at else None,
        "next_step": next_step(entry.name, standing),
    }


def without_secrets(text: str, entry: Entry) -> str:
    """A provider's error text with everything taken out that we sent."""
    held = entry.tokens
    return without(text, (held.refresh_token or "", held.access_token, *entry.account.secrets))
