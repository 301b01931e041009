"""Login attempts in memory: found by id or by state, bounded in number, each with an end."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from tokenproxy import log
from tokenproxy.core.device import DeviceLogin
from tokenproxy.core.login import (
    Attempt,
)
from tokenproxy.core.provider import CallbackPath
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import BadLoginError, UnknownLoginError

LIFE: Final = timedelta(minutes=10)
KEPT: Final = timedelta(minutes=10)
"""How long an attempt is known after its time, so that whoever asks learns how it ended."""
MOST: Final = 1000

PENDING: Final = "pending"


@dataclass(eq=False, slots=True, kw_only=True)
class Login:
    """One attempt of somebody to log in, and how far it is."""

    id: str = field(repr=False)
    """Whoever knows it may go on with the login in a browser."""
    account: str
    attempt: Attempt
    expires_at: datetime
    """UTC."""
    bound_to: str = ""
    """Of the config's table as it was; tokens of another registration are not adopted."""
    replace: bool = False
    """Another identity's login is replaced without a question."""
    return_to: str = ""
    address: str = field(default="", repr=False)
    """Of the provider's page."""
    device: DeviceLogin | None = None
    browser: str | None = field(default=None, repr=False)
    """The cookie of the browser that opened our own address for it; None: nobody did."""
    taken: bool = False
    """An answer came: no other one counts."""
    settling: bool = False
    """The tokens are on their way into the store."""
    state: str = PENDING
    """``pending``, ``success``, ``failed`` or ``expired``."""
    error: str = ""
    """A key of ``landings.ENDINGS``."""
    said: str = ""
    """What the provider said."""
    why: str = ""
    """What else is known of the end."""
    question: str = ""
    tokens: TokenSet | None = field(default=None, repr=False)
    """Issued, and waiting for a yes to the question."""
    hidden: list[str] = field(default_factory=list, repr=False)
    """What the log hides for as long as the attempt is known."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def open(self) -> bool:
        """Whether it can still succeed."""
        return self.state == PENDING

    @property
    def may_expire(self) -> bool:
        """Not while its answer is being made something of, which has an end of its own."""
        return self.open and not self.settling and (not self.taken or bool(self.question))

    def take(self) -> bool:
        """Claim it for an answer, before anything is awaited; False: it has ended, or another answer came first."""
        if self.taken or not self.open:
            return False
        self.taken = True
        return True

    @property
    def short(self) -> str:
        """Enough of the id to tell attempts apart in a log, and of no use to anybody."""
        return self.id[:8]

    def hide(self, *secrets: str) -> None:
        for secret in filter(None, secrets):
            log.register_secret(secret)
            self.hidden.append(secret)

    def ask(self, question: str, tokens: TokenSet, *, now: datetime) -> None:
        """Wait for a yes, as long as for a login."""
        self.question, self.tokens, self.settling = question, tokens, False
        self.expires_at = now + LIFE
        self._happened()

    def end(self, state: str, error: str = "", said: str = "", why: str = "") -> TokenSet | None:
        """The end; gives tokens that nobody wants now."""
        left, self.tokens = self.tokens, None
        self.state, self.error, self.said, self.why, self.question = state, error, said, why, ""
        self._happened()
        return left

    async def changed(self, *, within: float) -> None:
        """Until something happens to it; at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()

    def _happened(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Attempts:
    """All of them."""

    def __init__(self) -> None:
        self._by_id: dict[str, Login] = {}
        self._by_state: dict[bytes, Login] = {}
        """SHA-256 of the state, so that how long a look-up takes tells nothing about it."""

    def __iter__(self) -> Iterator[Login]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, login: Login) -> None:
        """Raises ``BadLoginError`` where its state is another's, or too many are open."""
        state = login.attempt.state
        if state and self.holding(state) is not None:
            raise BadLoginError(
                "the key belongs to a login already",
                account=login.account,
                next_step="give each login a fresh random key",
            )
        self._make_room(login.account)
        self._by_id[login.id] = login
        if state:
            self._by_state[_digest(state)] = login

    def get(self, identifier: str) -> Login:
        """Raises ``UnknownLoginError``."""
        login = self._by_id.get(identifier)
        if login is None:
            raise UnknownLoginError(
                "there is no such login, or it ended more than ten minutes ago", next_step="begin it again"
            )
        return login

    def holding(self, state: str) -> Login | None:
        """The attempt that a state belongs to, ended ones too."""
        login = self._by_state.get(_digest(state))
        if login is None or not hmac.compare_digest(_bytes(state), _bytes(login.attempt.state)):
            return None
        return login

    def at(self, path: CallbackPath, table: str = "") -> Iterator[Login]:
        """Those that come back to an address of this kind, of this account's table where one is named."""
        for login in self:
            account = login.attempt.account
            if account.provider.callback.path is path and table in {"", account.name}:
                yield login

    def overdue(self, now: datetime) -> list[Login]:
        """Open ones whose time is over; forgets those that ended long ago."""
        for login in [login for login in self if now >= login.expires_at + KEPT]:
            self._drop(login)
        return [login for login in self if login.may_expire and now >= login.expires_at]

    def next_end(self) -> datetime | None:
        """When there is something to do again."""
        return min(
            (login.expires_at if login.open else login.expires_at + KEPT for login in self), default=None
        )

    def _make_room(self, account: str) -> None:
        if len(self) < MOST:
            return
        ended = next((login for login in self if not login.open), None)
        if ended is None:
            raise BadLoginError(
                f"{MOST} logins are open", account=account, next_step="wait until some of them have ended"
            )
        self._drop(ended)

    def _drop(self, login: Login) -> None:
        del self._by_id[login.id]
        if login.attempt.state:
            del self._by_state[_digest(login.attempt.state)]
        for secret in login.hidden:
            log.forget(secret)


def _digest(state: str) -> bytes:
    return sha256(_bytes(state)).digest()


def _bytes(state: str) -> bytes:
    return state.encode("utf-8", "surrogatepass")
