"""What operators ask for, in words: shared by the admin socket, the admin API and the commands without ``serve``."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from tokenproxy import log
from tokenproxy.core.account import AT_EASE, Reason, Standing, State
from tokenproxy.core.grants import traits_of
from tokenproxy.core.interfaces import Clock, Record, Store, Summary
from tokenproxy.core.provider import Account, is_login, table_of
from tokenproxy.core.replies import read_import
from tokenproxy.core.routes import valid_sub
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import (
    BadImportError,
    NoLoginError,
    StoreError,
    StoreUnavailableError,
    UnknownAccountError,
)
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.refusals import LOGIN_IN_THE_WAY, next_step, sentence
from tokenproxy.oauth.source import Source

_log = logging.getLogger("tokenproxy.oauth")

_PAGE: Final = 500
_IN_ONE_GO: Final = 100
"""Logins described before the loop does other things."""
_NEED_SOMEBODY: Final = frozenset({State.LOGIN_REQUIRED, State.MISCONFIGURED, State.NEW})
_MEND: Final = frozenset({State.IN_DOUBT, State.DEGRADED})


class OperatorAccounts:
    """Satisfies ``core.interfaces.Accounts``."""

    def __init__(
        self,
        source: Source,
        *,
        store: Store,
        endpoint: Endpoint,
        clock: Clock,
        accounts: Callable[[], Mapping[str, Account]],
    ) -> None:
        """``accounts`` gives the config's tables as they are now: a reload changes them."""
        self._source = source
        self._store = store
        self._endpoint = endpoint
        self._clock = clock
        self._accounts = accounts

    async def statuses(self) -> list[dict[str, Any]]:
        found, after = [], ""
        while page := await self.page(after=after, limit=_PAGE):
            found += page
            after = page[-1]["account"]
        return found

    async def page(self, *, after: str = "", limit: int) -> list[dict[str, Any]]:
        known = self._accounts()
        summaries: list[Summary] = []
        behind, more = after, True
        while more and len(summaries) < limit:  # rows of tables that the config lost do not count
            rows = await self._store.summaries(after=behind, limit=limit)
            more = len(rows) == limit
            behind = rows[-1].account if rows else behind
            summaries += [row for row in rows if table_of(row.account) in known]
        by_name: dict[str, Summary | None] = {each.account: each for each in summaries[:limit]}
        last = summaries[limit - 1].account if len(summaries) >= limit else None
        for name in known.keys() - (await self._store.tally()).keys():
            if name > after and (last is None or name <= last):
                by_name[name] = None
        found: list[dict[str, Any]] = []
        for name in sorted(by_name)[:limit]:
            found.append(self._describe(name, by_name[name]))
            if len(found) % _IN_ONE_GO == 0:  # 4 ms of work
                await asyncio.sleep(0)
        return found

    async def overview(self, *, rows: int) -> dict[str, Any]:
        known = self._accounts()
        tally = {
            table: dict(counts) for table, counts in (await self._store.tally()).items() if table in known
        }
        for table in known.keys() - tally.keys():
            tally[table] = {State.NEW if traits_of(known[table]).person else State.OK: 1}
        total = sum(sum(counts.values()) for counts in tally.values())
        if total <= rows:
            accounts = await self.page(limit=rows)
            states = Counter(status["state"] for status in accounts)
        else:
            accounts = await self._unwell(tally, rows)
            states = Counter()
            for counts in tally.values():
                states.update({state.value: count for state, count in counts.items()})
        return {"total": total, "states": dict(states), "accounts": accounts}

    async def _unwell(self, tally: Mapping[str, Mapping[State, int]], rows: int) -> list[dict[str, Any]]:
        """Those that need a person, then those that mend by themselves; at most ``rows``."""
        found: list[dict[str, Any]] = []
        for states in (_NEED_SOMEBODY, _MEND):
            some: list[dict[str, Any]] = []
            for table in sorted(tally):
                room = rows - len(found) - len(some)
                if room > 0 and not states.isdisjoint(tally[table]):
                    listed = await self._store.in_states(table, states, limit=room)
                    # A table that nobody has logged in to has no row.
                    named: dict[str, Summary | None] = {each.account: each for each in listed} or {
                        table: None
                    }
                    some += [self._describe(name, summary) for name, summary in named.items()]
            found += sorted(some, key=lambda status: str(status["account"]))
        return found

    async def status(self, account: str) -> dict[str, Any]:
        spec = configured(self._accounts(), account)
        status = self._describe(account, await self._store.summary(account))
        entry = self._source.entry(account)
        tokens = entry.tokens if entry is not None else None
        if tokens is None and status["generation"]:
            # One row is opened; a list of them tells less, and so does a row that does not open.
            with suppress(StoreError):
                record = await self._store.load(account)
                tokens = record.tokens if record is not None and record.bound_to == spec.bound_to else None
        if tokens is not None:
            status |= {"identity": tokens.identity, "scope": tokens.scope}
        return status | {"scope_missing": _missing(spec, tokens)}

    async def import_answer(self, account: str, answer: bytes) -> dict[str, Any]:
        spec = configured_login(self._accounts(), account, "import")
        _refuse_captured(spec, account, "import")
        tokens = read_import(answer, provider=spec.provider, now=self._clock.now(), scope=spec.scope)
        if tokens is None:
            raise BadImportError(
                "that is neither a token answer nor a refresh token: give the provider's JSON answer as it came, "
                "or the bare refresh token",
                account=account,
                reason=Reason.BAD_ANSWER.value,
                next_step=f"tokenproxy import {account} < answer.json",
            )
        try:
            await self._source.adopt(account, tokens)
        except StoreError as error:
            raise _store_failed(account, error) from None
        return await self.status(account)

    async def refresh(self, account: str) -> dict[str, Any]:
        _refuse_captured(configured(self._accounts(), account), account, "renew")
        await self._source.refresh(account)
        return await self.status(account)

    async def logout(self, account: str) -> dict[str, Any]:
        spec = configured(self._accounts(), account)
        try:
            gone = await self._source.forget(account)
        except StoreError as error:
            raise _store_failed(account, error) from None
        revoked = await self._revoked(spec, gone) if gone is not None else None
        return await self.status(account) | {"revoked": revoked}

    async def _revoked(self, spec: Account, gone: Record) -> bool | None:
        """
        Whether the provider took the word that these tokens are over; None where it was not told.

        Tokens of another registration are nothing that this one may end, or show to whom the config names now.
        """
        if gone.tokens is None or gone.bound_to != spec.bound_to or not traits_of(spec).endpoint:
            return None
        revoked = await self._endpoint.revoke(spec, gone.tokens, now=self._clock.now())
        if revoked is False:
            log.event(_log, "revocation_failed", account=gone.account, provider=spec.provider.name)
        return revoked

    async def rebind(self, account: str) -> dict[str, Any]:
        _refuse_captured(configured_login(self._accounts(), account, "rebind"), account, "rebind")
        try:
            await self._source.rebind(account)
        except StoreError as error:
            raise _store_failed(account, error) from None
        return await self.status(account)

    def _describe(self, account: str, summary: Summary | None) -> dict[str, Any]:
        spec = self._accounts()[table_of(account)]
        entry = self._source.entry(account)
        person = traits_of(spec).person
        left = not person and account != spec.name  # a login from before the grant was changed
        in_the_way = summary is not None and _in_the_way(spec, summary)
        alone = not person and not left and not in_the_way
        if alone and summary is not None and summary.bound_to != spec.bound_to:
            summary = None  # another registration's: the first use obtains anew
        if person and summary is not None and not summary.has_tokens and summary.bound_to != spec.bound_to:
            summary = None  # what a machine left behind says nothing about a login
        start = Standing() if (person and not spec.capture) or left else AT_EASE
        standing = entry.standing if entry else summary.standing if summary else start
        if summary is not None and summary.has_tokens and summary.bound_to != spec.bound_to:
            standing = Standing(State.LOGIN_REQUIRED, Reason.REGISTRATION_CHANGED, since=standing.since)
        if in_the_way:
            standing = replace(LOGIN_IN_THE_WAY, since=standing.since)
        expires_at = entry.tokens.expires_at if entry else summary.expires_at if summary else None
        if entry is not None and not person and not entry.tokens.access_token:
            expires_at = None  # nothing was obtained yet
        has_tokens = summary is not None and summary.has_tokens
        registered = standing.reason not in {Reason.REGISTRATION_CHANGED, Reason.GRANT_CHANGED}
        live = has_tokens and registered and (expires_at is None or expires_at > self._clock.now())
        if entry is not None and (entry.dead or not entry.tokens.access_token):
            live = False
        if not live and expires_at is not None and expires_at > self._clock.now():
            expires_at = None  # it is not sent any more, however long its provider may think that it lives
        return {
            "account": account,
            "provider": spec.provider.name,
            "grant": spec.grant,
            "state": standing.state.value,
            "reason": standing.reason.value,
            "detail": sentence(account, standing),
            "next_step": f"tokenproxy logout {account}" if left else next_step(account, standing),
            "generation": entry.tokens.generation if entry else summary.generation if summary else 0,
            "expires_at": _iso(expires_at),
            "refresh_expires_at": _iso(summary.refresh_expires_at if summary else None),
            "renewed_at": _iso(entry.renewed_at if entry else summary.renewed_at if summary else None),
            "since": _iso(standing.since),
            "retry_at": _iso(standing.retry_at),
            "identity": entry.tokens.identity if entry else None,
            "scope": entry.tokens.scope if entry else None,
            "in_flight": entry.renewal is not None if entry else False,
            "unstored": entry.unstored is not None if entry else False,
            "live": live,
            "renewable": entry.renewable if entry else None,
        }


def _in_the_way(spec: Account, summary: Summary) -> bool:
    """Whether a person's login is where an account that needs none would put its tokens."""
    here = summary.account == spec.name and summary.has_tokens and not traits_of(spec).person
    return here and is_login(summary.bound_to)


def configured(known: Mapping[str, Account], account: str) -> Account:
    """The table of an account or of a login under it; raises ``UnknownAccountError``."""
    table, slash, sub = account.partition("/")
    spec = known.get(table)
    if spec is None:
        raise UnknownAccountError(
            f"there is no account {table} in the config; it has: {', '.join(sorted(known))}",
            account=account,
            next_step="tokenproxy status",
        )
    if slash and not valid_sub(sub):
        raise UnknownAccountError(
            f"{account!r} cannot be a login of {table}: after the slash come 1 to 128 letters, digits or any of ._@-",
            account=account,
            next_step="tokenproxy status",
        )
    return spec


def configured_login(known: Mapping[str, Account], account: str, what: str) -> Account:
    """The same for what only tokens can be asked that a person brought. Raises ``NoLoginError`` too."""
    spec = configured(known, account)
    if not traits_of(spec).person:
        raise NoLoginError(
            f"account {spec.name} obtains its tokens by itself (grant {spec.grant}): there is nothing to {what}",
            account=account,
            next_step=f"tokenproxy refresh {spec.name}   (to obtain one now)",
        )
    return spec


def _refuse_captured(spec: Account, account: str, what: str) -> None:
    """Raises ``NoLoginError`` where a login brings no tokens of ours."""
    if spec.capture:
        raise NoLoginError(
            f"account {spec.name} keeps what a login catches under {spec.capture}, and no tokens: there is nothing to {what}",
            account=account,
            next_step=f"tokenproxy login {account}   (to catch it anew)",
        )


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z") if at is not None else None


def _missing(spec: Account, tokens: TokenSet | None) -> list[str]:
    """
    Scopes that were asked for and not granted; none where the provider did not say (RFC 6749 section 5.1).

    ``offline_access`` is a request for a refresh token, which few name among what they granted.
    """
    if tokens is None or not tokens.scope or not tokens.scope_asked:
        return []
    separator = spec.provider.scope_separator
    asked, granted = (
        {part for word in text.split() for part in word.split(separator.strip() or None) if part}
        for text in (tokens.scope_asked, tokens.scope)
    )
    return sorted(asked - granted - {"offline_access"})


def _store_failed(account: str, error: StoreError) -> StoreUnavailableError:
    return StoreUnavailableError(
        error.message, account=account, reason=Reason.STORE_FAILED.value, next_step=error.next_step
    )
