"""A house with a login desk at its door, and browsers that come and go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from tests.oauth.house import House, profile, table
from tests.simulators import FakeClock
from tests.simulators import Provider as Simulator
from tokenproxy.core.interfaces import Landing, Store
from tokenproxy.core.provider import Account
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.logins import LoginDesk
from tokenproxy.proxy.tls import tls_context

PUBLIC = "http://127.0.0.1:9100"


def account_at(simulator: Simulator, name: str = "books", **changes: Any) -> Account:
    """``[accounts.NAME]`` whose logins go to the simulator; ``changes`` are fields of the provider's profile."""
    provider = replace(profile(simulator), authorize_url=simulator.url + simulator.authorize_path)
    return table(simulator, name, provider=replace(provider, **changes))


class Reception(House):
    """For ``async with``."""

    def __init__(
        self,
        simulator: Simulator,
        *,
        accounts: Mapping[str, Account] | None = None,
        return_to: tuple[str, ...] = (),
        secret: Callable[[], str] | None = None,
        timeout: float = 5.0,
        clock: FakeClock | None = None,
        **changes: Any,
    ) -> None:
        """``changes`` are fields of the provider's profile."""
        super().__init__(
            simulator,
            accounts=accounts or {"books": account_at(simulator, **changes)},
            timeout=timeout,
            clock=clock,
        )
        numbers = itertools.count(1)
        self.planted: list[str] = []
        """Every secret that the desk made: ids, states, verifiers, nonces."""
        self._secret = secret or (lambda: f"planted-secret-{next(numbers):04d}-{'x' * 22}z")
        self._return_to = return_to
        self.desk: LoginDesk

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        endpoint = Endpoint(tls_context, timeout=self._timeout)
        self._stack.push_async_callback(endpoint.close)
        self.browser = aiohttp.ClientSession()
        self._stack.push_async_callback(self.browser.close)
        self.desk = LoginDesk(
            accounts=lambda: self.accounts,
            source=self.source,
            store=cast("Store", self.store),
            endpoint=endpoint,
            clock=self.clock,
            secret=self._new_secret,
            public_url=PUBLIC,
            return_to=lambda: self._return_to,
            status=self.operator.status,
        )
        self._stack.push_async_callback(self.desk.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)

    def _new_secret(self) -> str:
        self.planted.append(self._secret())
        return self.planted[-1]

    async def consent(self, address: str) -> str:
        """Where the provider's page sends a browser whose person says yes (or what ``deny`` says)."""
        async with self.browser.get(URL(address, encoded=True), allow_redirects=False) as page:
            assert page.status == 302, await page.text()
            return page.headers["Location"]

    async def begun(self, account: str = "books", **asked: Any) -> dict[str, Any]:
        return await self.desk.begin(account, **asked)

    async def returned(self, login: Mapping[str, Any]) -> str:
        """The landing address of a login that somebody said yes to."""
        return await self.consent(login["authorize_url"])

    async def land(self, address: str, *, browser: str | None = None) -> Landing:
        """As the callback pages do: what the path names goes along."""
        named = urlsplit(address.partition("#")[0]).path.split("/")[2:]
        account, key = [*named, "", ""][:2]
        return await self.desk.land(address, account=account, key=key, browser=browser)

    async def log_in(self, account: str = "books", **asked: Any) -> dict[str, Any]:
        """A whole login; gives its status."""
        login = await self.begun(account, **asked)
        await self.land(await self.returned(login))
        return await self.desk.status(login["id"])

    async def all_done(self) -> None:
        """Until no exchange runs any more."""
        async with asyncio.timeout(10):
            while self.desk._outcomes.tasks.running:
                await asyncio.sleep(0.001)
