"""
From what a browser or a poll brought to tokens in the store: the part of a login that nobody may interrupt.

Each work here is a task of its own: whoever waits for it may leave, and a code is used all the same, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from tokenproxy import log
from tokenproxy.core.account import Event
from tokenproxy.core.device import DeviceLogin, Poll, device_poll
from tokenproxy.core.interfaces import Clock, StateValue, Store
from tokenproxy.core.login import (
    Arrival,
    Caught,
    Unwelcome,
    exchange,
    implicit,
    question_about,
    read_landing,
    secrets_of,
)
from tokenproxy.core.provider import IMPLICIT, PKCE, Account, table_of
from tokenproxy.core.replies import Answer, Failure, Granted, without
from tokenproxy.core.revocation import revocation
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import AccountError, StoreError
from tokenproxy.oauth.attempts import Login
from tokenproxy.oauth.calls import AnswerLostError, NotSentError
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.landings import code_of
from tokenproxy.oauth.source import Source
from tokenproxy.oauth.tasks import Tasks

_log = logging.getLogger("tokenproxy.oauth")

T = TypeVar("T")

PATIENCE: Final = 20.0
"""Seconds that ``close`` waits for exchanges that were sent; more than one token call may take."""

_threads: Final = ThreadPoolExecutor(2, thread_name_prefix="tokenproxy-expressions")
"""The loop's own executor resolves names, which must not queue behind what strangers make expressions run on."""


class Outcomes:
    """Ends logins, well or not."""

    def __init__(
        self,
        *,
        accounts: Callable[[], Mapping[str, Account]],
        source: Source,
        store: Store,
        endpoint: Endpoint,
        clock: Clock,
    ) -> None:
        self._accounts = accounts
        self._source = source
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._deciding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.tasks = Tasks()

    async def of_landing(self, login: Login, landed: Arrival) -> None:
        """What a browser brought to an attempt that was ``taken`` for it."""
        await asyncio.shield(self.tasks.start(self._complete(login, landed), name=f"login {login.account}"))

    async def of_yes(self, login: Login) -> None:
        """The question, where there is one, was answered."""
        tokens, login.tokens = login.tokens, None
        if tokens is not None:
            login.settling = True
            work = self._settle(login, tokens, agreed=login.question)
            await asyncio.shield(self.tasks.start(work, name=f"adopt {login.account}"))

    async def of_poll(self, login: Login, device: DeviceLogin) -> Poll | None:
        """One poll and what comes of it; None: there is nothing more to ask."""
        work = self._ask_for_device(login, device)
        return await asyncio.shield(self.tasks.start(work, name=f"poll {login.account}"))

    async def close(self, *, patience: float) -> None:
        await self.tasks.finish(patience=patience)

    async def _complete(self, login: Login, landed: Arrival) -> None:
        """The exchange's own task: whoever waits may leave, and the code is used all the same, once."""
        try:
            attempt = login.attempt
            expression = bool(attempt.account.provider.callback.token)
            brought = await apart(partial(read_landing, attempt, landed), threaded=expression)
            if isinstance(brought, Unwelcome):
                said = without(brought.said, secrets_of(attempt))
                self.fail(login, brought.why.value, said=said)
                return
            login.hide(brought.value)
            if attempt.account.capture:
                await self._keep(login, brought)
                return
            answer = await self._obtain(login, brought)
            if answer is not None:
                await self._receive(login, answer, brought.value)
        finally:
            if not login.question:
                self.fail(login, "interrupted")

    async def _obtain(self, login: Login, brought: Caught) -> Answer | None:
        attempt, now = login.attempt, self._clock.now()
        if attempt.account.grant == IMPLICIT:
            return implicit(attempt, brought, now=now)
        try:
            return await self._endpoint.run(exchange(attempt, brought, now=now), attempt.account)
        except NotSentError as error:
            self.fail(login, _code_of(error), why=str(error))
        except AnswerLostError as error:
            self.fail(login, "answer_lost", why=str(error))
        return None

    async def _receive(self, login: Login, answer: Answer, *sent: str) -> None:
        """Take the tokens, or first ask whether they may replace what is there."""
        if isinstance(answer, Failure):
            self.fail(login, code_of(answer), said=without(answer.text, secrets_of(login.attempt, sent)))
            return
        tokens = answer.tokens
        login.hide(tokens.access_token, tokens.refresh_token or "")
        await self._settle(login, tokens)

    async def _settle(self, login: Login, tokens: TokenSet, *, agreed: str = "") -> None:
        """
        Store the tokens, or first ask whether they may replace what is there; ``agreed`` is what was said yes to.

        One login of an account at a time: else two that end at once would both find nobody there.
        """
        lock = self._deciding.setdefault(login.account, asyncio.Lock())
        async with lock:
            try:
                question = "" if login.replace else await self._question(login, tokens)
            except StoreError as error:
                self.fail(login, "store_failed", detail=error.message)
                self._discard(login, tokens)
                return
            if not login.open:
                self._discard(login, tokens)
            elif question and question != agreed:
                login.ask(question, tokens, now=self._clock.now())
            else:
                await self._adopt(login, tokens)

    async def _question(self, login: Login, tokens: TokenSet) -> str:
        record = await self._store.load(login.account)
        if record is None or record.bound_to != login.bound_to:
            return ""
        return question_about(login.account, record.tokens, record.standing, tokens)

    async def _adopt(self, login: Login, tokens: TokenSet) -> None:
        login.settling = True
        try:
            if not self._still_meant(login):
                self.fail(login, "registration_changed")
                self._discard(login, tokens)
                return
            await self._source.adopt(login.account, tokens)
        except (AccountError, StoreError) as error:
            self.fail(login, "store_failed", detail=error.message)
            self._discard(login, tokens)
        else:
            self._succeed(login)

    async def _keep(self, login: Login, brought: Caught) -> None:
        """What was caught goes into the login's state, for requests to name and for nobody to read (Deskpro's guide)."""
        spec = login.attempt.account
        kept = {spec.capture: brought.value}
        if spec.provider.pkce is not PKCE.NONE and spec.grant != IMPLICIT:
            kept[f"{spec.capture}/verifier"] = login.attempt.verifier
        login.settling = True
        try:
            if not self._still_meant(login):
                self.fail(login, "registration_changed")
                return
            for path, value in reversed(kept.items()):
                if not await self._store.put_state(login.account, path, StateValue(value, backend=True)):
                    self.fail(login, "state_full")
                    return
        except StoreError as error:
            self.fail(login, "store_failed", detail=error.message)
        else:
            self._succeed(login)

    def _still_meant(self, login: Login) -> bool:
        """Whether the config names the provider and client that the login was begun with."""
        spec = self._accounts().get(table_of(login.account))
        return spec is not None and spec.bound_to == login.bound_to

    def _succeed(self, login: Login) -> None:
        login.end("success")
        log.event(_log, "login_succeeded", account=login.account, login=login.short)

    def fail(self, login: Login, code: str, *, said: str = "", why: str = "", detail: str = "") -> None:
        """The end of an open attempt; nothing for one that has ended. ``detail`` is for the log alone."""
        if not login.open:
            return
        left = login.end("expired" if code == "expired" else "failed", code, said, why)
        log.event(
            _log,
            "login_failed",
            account=login.account,
            login=login.short,
            reason=code,
            detail=detail or why or said or None,
        )
        if left is not None:
            self._discard(login, left)

    def _discard(self, login: Login, tokens: TokenSet) -> None:
        """Tokens that were issued and that nobody wants: the provider is told, where it can be, once."""
        self.tasks.start(self._revoke(login, tokens), name=f"revoke {login.account}")

    async def _revoke(self, login: Login, tokens: TokenSet) -> None:
        """Not where it may be the grant of the login that is kept: ending one token may end the others (RFC 7009 2.1)."""
        account = login.attempt.account
        with suppress(NotSentError, AnswerLostError, StoreError):
            record = await self._store.load(login.account)
            kept = record.tokens if record is not None else None
            if kept is None or (kept.identity and tokens.identity and kept.identity != tokens.identity):
                await self._endpoint.run(revocation(account, tokens, now=self._clock.now()), account)

    async def _ask_for_device(self, login: Login, device: DeviceLogin) -> Poll | None:
        """One poll and what comes of it; None: there is nothing more to ask."""
        now = self._clock.now()
        flow = device_poll(login.attempt.account, device.device_code, now=now, dpop_key=device.dpop_key)
        try:
            answer = await self._endpoint.run(flow, login.attempt.account)
        except NotSentError as error:
            if error.event is Event.PROVIDER_DOWN:
                return Poll.UNANSWERED
            self.fail(login, _code_of(error), why=str(error))
            return None
        except AnswerLostError:
            return Poll.UNANSWERED
        if isinstance(answer, Granted | Failure):
            await self._receive(login, answer, device.device_code)
            return None
        if answer in {Poll.DENIED, Poll.EXPIRED}:
            self.fail(login, "access_denied" if answer is Poll.DENIED else "expired")
            return None
        return answer


def _code_of(error: NotSentError) -> str:
    return "misconfigured" if error.event is Event.REGISTRATION_REFUSED else "provider_unavailable"


async def apart(work: Callable[[], T], *, threaded: bool) -> T:
    """In a thread where an expression runs: google-re2 lets go of the interpreter meanwhile, and the loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work) if threaded else work()
