"""
Where logins are begun and where browsers come back to; satisfies ``core.interfaces.Logins``.

Rules: a state counts once and only for its account and browser; a code is exchanged at once, by a task of
its own that no hang-up stops, and is never sent twice; nothing is stored before everything about the answer is right.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from tokenproxy import log
from tokenproxy.core.account import Event, Reason
from tokenproxy.core.device import DeviceLogin, by_device, device_authorization, next_interval
from tokenproxy.core.interfaces import Clock, Landing, Store
from tokenproxy.core.login import (
    Arrival,
    Attempt,
    arrival,
    authorization_address,
    callback_address,
    mode_of,
    pushed_address,
    secrets_of,
    state_in,
    too_long,
)
from tokenproxy.core.provider import Account, CallbackMode, CallbackPath, table_of
from tokenproxy.core.replies import Failure, without
from tokenproxy.core.steps import Flow
from tokenproxy.core.token_request import proof_key
from tokenproxy.errors import (
    AccountError,
    BadLoginError,
    MisconfiguredError,
    ProviderUnavailableError,
    UnknownLoginError,
)
from tokenproxy.oauth.accounts import configured, configured_login
from tokenproxy.oauth.attempts import LIFE, Attempts, Login
from tokenproxy.oauth.calls import AnswerLostError, NotSentError
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.landings import landing, step_after
from tokenproxy.oauth.outcomes import PATIENCE, Outcomes, apart
from tokenproxy.oauth.source import Source
from tokenproxy.oauth.tasks import Tasks

_log = logging.getLogger("tokenproxy.oauth")

T = TypeVar("T")

_LONGEST_WAIT: Final = 60.0
_KEY: Final = re.compile(r"[A-Za-z0-9._~-]{16,128}")


class LoginDesk:
    """Begins logins, receives browsers, polls for devices."""

    def __init__(
        self,
        *,
        accounts: Callable[[], Mapping[str, Account]],
        source: Source,
        store: Store,
        endpoint: Endpoint,
        clock: Clock,
        secret: Callable[[], str],
        public_url: str,
        return_to: Callable[[], tuple[str, ...]] = tuple,
        status: Callable[[str], Awaitable[dict[str, Any]]],
    ) -> None:
        """
        ``secret`` gives 43 unreserved characters of 256 random bits, each time others; ``return_to`` the prefixes that a
        browser may be sent on to, beside ``public_url``; ``status`` is ``Accounts.status``.
        """
        self._accounts = accounts
        self._endpoint = endpoint
        self._clock = clock
        self._secret = secret
        self._public_url = public_url.rstrip("/")
        self._return_to = return_to
        self._status = status
        self._attempts = Attempts()
        self._outcomes = Outcomes(
            accounts=accounts, source=source, store=store, endpoint=endpoint, clock=clock
        )
        self._waiting = Tasks()
        self._tidying: asyncio.Task[None] | None = None

    # -- begin -----------------------------------------------------------------------------------------------------

    async def begin(
        self,
        account: str,
        *,
        device: bool = False,
        key: str | None = None,
        return_to: str | None = None,
        replace: bool = False,
    ) -> dict[str, Any]:
        spec = configured_login(self._accounts(), account, "log in")
        device = device or by_device(spec)
        if key is not None and not _KEY.fullmatch(key):
            raise BadLoginError(
                "key must be 16 to 128 letters, digits or any of ._~-",
                account=account,
                next_step="leave key out, or give a random one",
            )
        if return_to and not self._may_return_to(return_to):
            raise BadLoginError(
                "return_to is no address that a browser may be sent on to",
                account=account,
                next_step="list it in admin.return_to",
            )
        whole = await self._resolved(spec, account)
        self._require_way(whole, account, device=device)
        if device:
            login = await self._begin_device(whole, account)
        else:
            login = await self._begin_browser(whole, account, key or self._secret())
        login.bound_to, login.replace, login.return_to = spec.bound_to, replace, return_to or ""
        self._expire()
        self._attempts.add(login)
        login.hide(login.attempt.state, login.attempt.verifier)
        log.event(_log, "login_begun", account=account, login=login.short, device=device)
        self._tidy()
        if login.device is not None:
            login.hide(login.device.device_code, login.device.user_code)
            self._waiting.start(self._wait_for_device(login, login.device), name=f"device {account}")
        return self._begun(login)

    def _require_way(self, spec: Account, account: str, *, device: bool) -> None:
        """The provider has a page to log in at. Raises ``BadLoginError``."""
        provider, by_browser = spec.provider, f"tokenproxy login {account}"
        why, step = "", by_browser
        if device and spec.capture:
            why = f"account {spec.name} captures what a browser brings, which a login by device does not"
        elif device and not provider.device_url:
            why = f"provider {provider.name} has no login by device (device_url)"
        elif not device and not provider.authorize_url:
            why = f"provider {provider.name} has no page to log in at (authorize_url)"
            by_hand = f"tokenproxy import {account} < answer.json"
            step = f"{by_browser} --device" if provider.device_url else by_hand
        if why:
            raise BadLoginError(why, account=account, next_step=step)

    async def _begin_browser(self, spec: Account, account: str, state: str) -> Login:
        attempt = Attempt(
            account=spec,
            redirect_uri=callback_address(self._public_url, spec, key=state),
            state=state,
            verifier=self._secret(),
            nonce=self._secret(),
        )
        if spec.provider.par_url and spec.provider.dpop:
            key = await self._asked(proof_key(spec), attempt, account)
            attempt = replace(attempt, dpop_key=key)
        address = await self._address(attempt, account)
        return Login(
            id=self._secret(),
            account=account,
            attempt=attempt,
            expires_at=self._clock.now() + LIFE,
            address=address,
        )

    async def _address(self, attempt: Attempt, account: str) -> str:
        """Of the provider's page; where parameters are pushed, good for about a minute (RFC 9126 section 2.2)."""
        if not attempt.account.provider.par_url:
            return authorization_address(attempt)
        return await self._asked(pushed_address(attempt, now=self._clock.now()), attempt, account)

    async def _begin_device(self, spec: Account, account: str) -> Login:
        attempt = Attempt(account=spec, redirect_uri="")
        now = self._clock.now()
        device = await self._asked(device_authorization(spec, now=now), attempt, account)
        return Login(
            id=self._secret(),
            account=account,
            attempt=attempt,
            expires_at=now + timedelta(seconds=device.expires_in),
            device=device,
        )

    async def _resolved(self, spec: Account, account: str) -> Account:
        """With the addresses that its provider's issuer tells."""
        try:
            return await self._endpoint.resolved(spec)
        except NotSentError as error:
            raise _cannot_begin(account, error.event, error.reason, str(error)) from None

    async def _asked(self, flow: Flow[T | Failure], attempt: Attempt, account: str) -> T:
        """What the provider gives before anybody has logged in. Raises ``AccountError`` where it gives nothing."""
        try:
            found = await self._endpoint.run(flow, attempt.account)
        except NotSentError as error:
            raise _cannot_begin(account, error.event, error.reason, str(error)) from None
        except AnswerLostError as error:
            raise _cannot_begin(account, Event.PROVIDER_DOWN, Reason.ANSWER_LOST, str(error)) from None
        if isinstance(found, Failure):
            said = f"the provider said {without(found.text, secrets_of(attempt))}"
            raise _cannot_begin(account, found.event, found.reason, said, retry_after=found.retry_after)
        return found

    def _begun(self, login: Login) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": login.id,
            "account": login.account,
            "expires_at": _iso(login),
        }
        if login.device is not None:
            return found | {
                "user_code": login.device.user_code,
                "verification_uri": login.device.verification_uri,
                "verification_uri_complete": login.device.verification_uri_complete,
                "interval": login.device.interval,
            }
        return found | {
            "authorize_url": login.address,
            "callback_url": login.attempt.redirect_uri,
            "start_url": f"{self._public_url}/login/{login.id}",
        }

    def _may_return_to(self, address: str) -> bool:
        return any(_below(address, prefix) for prefix in (self._public_url, *self._return_to()))

    # -- what is asked meanwhile -------------------------------------------------------------------------------------

    async def status(self, login: str, *, wait: float = 0.0) -> dict[str, Any]:
        self._expire()
        found = self._attempts.get(login)
        if wait > 0 and found.open and not found.question:
            await found.changed(within=min(wait, _LONGEST_WAIT))
            self._expire()
        return await self._describe(found)

    async def confirm(self, login: str) -> dict[str, Any]:
        self._expire()
        found = self._attempts.get(login)
        if found.open:
            await self._outcomes.of_yes(found)
        return await self._describe(found)

    async def cancel(self, login: str) -> dict[str, Any]:
        self._expire()
        found = self._attempts.get(login)
        if found.open and not found.settling:
            self._outcomes.fail(found, "cancelled")
        return await self._describe(found)

    async def open(self, login: str, *, browser: str) -> str:
        self._expire()
        found = self._attempts.get(login)
        if not found.open or found.taken or found.device is not None:
            raise UnknownLoginError("this login has ended already", next_step="begin it again")
        if found.browser is not None and not _same(
            browser, found.browser
        ):  # its id was seen in a process list, say
            raise UnknownLoginError(
                "this login is open in another browser already", next_step="begin it again"
            )
        found.browser = browser
        if found.attempt.account.provider.par_url:  # what was pushed before may be used up or too old
            found.address = await self._address(found.attempt, found.account)
        return found.address

    def callback_address(self, account: str) -> str:
        return callback_address(self._public_url, configured(self._accounts(), account))

    async def close(self, *, patience: float = PATIENCE) -> None:
        """Let exchanges that were sent end and be stored, and end what waits for a yes; up to ``patience`` seconds."""
        for login in self._attempts:
            if login.question:
                self._outcomes.fail(login, "interrupted")
        await self._waiting.finish(patience=0)
        await self._outcomes.close(patience=patience)

    async def _describe(self, login: Login) -> dict[str, Any]:
        return {
            "id": login.id,
            "account": login.account,
            "state": login.state,
            "error": login.error,
            "detail": self._page(login).detail if not login.open else "",
            "next_step": "" if login.open or not login.error else step_after(login.error, login.account),
            "question": login.question,
            "expires_at": _iso(login),
            "result": await self._result(login) if login.state == "success" else None,
        }

    async def _result(self, login: Login) -> dict[str, Any] | None:
        try:
            return await self._status(login.account)
        except AccountError:  # gone from the config since
            return None

    # -- a browser comes back ----------------------------------------------------------------------------------------

    async def land(
        self, address: str, *, account: str = "", key: str = "", browser: str | None = None
    ) -> Landing:
        if too_long(address):
            return landing("address_too_long")
        self._expire()
        found = self._by_key(address, key) if key else await self._by_state(address, account)
        if isinstance(found, str):
            return landing(found)
        login, landed = found
        code = self._take(login, account=account, key=key, browser=browser)
        if code:
            return landing(code)
        await self._outcomes.of_landing(login, landed)
        return self._page(login)

    async def paste(self, login: str, address: str) -> dict[str, Any]:
        self._expire()
        found = self._attempts.get(login)
        if found.open and not found.taken:
            landed = await self._pasted(found, address.strip())
            if found.take():
                await self._outcomes.of_landing(found, landed)
        return await self._describe(found)

    async def _pasted(self, login: Login, address: str) -> Arrival:
        """Raises ``BadLoginError`` for any address but the login's own; the login goes on then."""
        account = login.attempt.account
        if not too_long(address):
            landed = arrival(address, mode_of(account))
            if _same(await self._presented(account, landed, address), login.attempt.state):
                return landed
        raise BadLoginError(
            "that is not the address that this login ended at",
            account=login.account,
            next_step="copy the whole address from the browser once the provider's page has sent it on",
        )

    async def _presented(self, account: Account, landed: Arrival, address: str) -> str:
        callback = account.provider.callback
        if callback.path is CallbackPath.RANDOM:
            return re.split("[?#]", address, maxsplit=1)[0].rpartition("/")[2]
        return await apart(partial(state_in, landed, callback), threaded=bool(callback.key))

    def _by_key(self, address: str, key: str) -> tuple[Login, Arrival] | str:
        """The attempt whose random callback address this is, and what came with it; or why there is none."""
        login = self._attempts.holding(key)
        if login is None:
            return "state_unknown"
        mode = mode_of(login.attempt.account)
        if mode is CallbackMode.FRAGMENT and "#" not in address:
            return "fragment"
        return login, arrival(address, mode)

    async def _by_state(self, address: str, account: str) -> tuple[Login, Arrival] | str:
        """The same by the state in the answer, which each provider names in its own way."""
        presented = fragment = False
        for spec in list(self._expected(account)):
            mode, callback = mode_of(spec), spec.provider.callback
            if mode is CallbackMode.FRAGMENT and "#" not in address:
                fragment = True
                continue
            landed = arrival(address, mode)
            state = await apart(partial(state_in, landed, callback), threaded=bool(callback.key))
            login = self._attempts.holding(state) if state else None
            if login is not None:
                return login, arrival(address, mode_of(login.attempt.account))
            presented = presented or bool(state)
        if fragment:
            return "fragment"
        return "state_unknown" if presented else "state_missing"

    def _expected(self, table: str) -> Iterator[Account]:
        """Accounts as whose the answer may be read, one for each way of reading; ``table`` is what the path names."""
        known = self._accounts().get(table)
        path = CallbackPath.ACCOUNT if table else CallbackPath.SHARED
        open_ones = (login.attempt.account for login in self._attempts.at(path, table))
        seen = set()
        for spec in (known, *open_ones):
            if spec is None:
                continue
            callback = spec.provider.callback
            way = (mode_of(spec), callback.state, callback.key)
            if way not in seen:
                seen.add(way)
                yield spec

    def _take(self, login: Login, *, account: str, key: str, browser: str | None) -> str:
        """Claim the attempt for this answer; gives why it cannot be, and that is its end, since its state is spent."""
        if not login.take():
            return "state_expired" if login.state == "expired" else "state_used"
        spec = login.attempt.account
        path = CallbackPath.RANDOM if key else CallbackPath.ACCOUNT if account else CallbackPath.SHARED
        code = ""
        if path is not spec.provider.callback.path or (account and account != spec.name):
            code = "state_foreign"
        elif not _same_browser(login, browser):
            code = "other_browser"
        if code:
            self._outcomes.fail(login, code)
        return code

    def _page(self, login: Login) -> Landing:
        if login.question:
            page = landing("question", account=login.account)
            return replace(page, detail=f"{login.question} {page.detail}")
        if login.error:
            return landing(login.error, account=login.account, said=login.said, why=login.why)
        kept = "captured" if login.attempt.account.capture else "success"
        return replace(landing(kept, account=login.account, return_to=login.return_to), code="success")

    # -- a device --------------------------------------------------------------------------------------------------------

    async def _wait_for_device(self, login: Login, device: DeviceLogin) -> None:
        """Ask at the provider's pace until somebody has said yes or no, or the time is over (RFC 8628 section 3.5)."""
        interval = device.interval
        while True:
            await self._clock.sleep(interval)
            self._expire()
            if not login.open:
                return
            poll = await self._outcomes.of_poll(login, device)
            if poll is None:
                return
            interval = next_interval(interval, poll)

    # -- time --------------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        for login in self._attempts.overdue(self._clock.now()):
            self._outcomes.fail(login, "expired")

    def _tidy(self) -> None:
        """One task for all attempts, while there are any."""
        if self._tidying is None or self._tidying.done():
            self._tidying = self._waiting.start(self._tidy_up(), name="tidy logins")

    async def _tidy_up(self) -> None:
        while (at := self._attempts.next_end()) is not None:
            await self._clock.sleep(max((at - self._clock.now()).total_seconds(), 1.0))
            self._expire()


def _cannot_begin(
    account: str, event: Event, reason: Reason, why: str, *, retry_after: float | None = None
) -> AccountError:
    text = f"a login of account {account} cannot begin: {why}"
    if event is Event.PROVIDER_DOWN:
        return ProviderUnavailableError(
            text,
            account=account,
            reason=reason.value,
            retry_after=retry_after,
            next_step=f"tokenproxy login {account}   (once the provider is back)",
        )
    step = f"correct [accounts.{table_of(account)}], then: tokenproxy reload"
    return MisconfiguredError(text, account=account, reason=reason.value, next_step=step)


def _same(one: str, other: str) -> bool:
    """In constant time, and never for nothing."""
    return bool(other) and hmac.compare_digest(
        one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass")
    )


def _same_browser(login: Login, browser: str | None) -> bool:
    """Whether the browser that comes back is the one that opened our address for the login, where one did."""
    return login.browser is None or _same(browser or "", login.browser)


def _below(address: str, prefix: str) -> bool:
    """Whether an address lies below a prefix of the config, however it is written."""
    if not address.isascii() or not address.isprintable() or set(address) & set(' \\"<>'):
        return False
    with suppress(ValueError):
        given, wanted = urlsplit(address), urlsplit(prefix)
        path, base = given.path or "/", wanted.path or "/"
        inside = path == base or path.startswith(base if base.endswith("/") else f"{base}/")
        climbs = {".", ".."} & set(path.lower().replace("%2e", ".").split("/"))
        return (given.scheme, given.netloc) == (wanted.scheme, wanted.netloc) and inside and not climbs
    return False


def _iso(login: Login) -> str:
    return login.expires_at.isoformat(timespec="seconds").replace("+00:00", "Z")
