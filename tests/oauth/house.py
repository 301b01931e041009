"""The token side of tokenproxy without its proxy: a real provider on loopback, a real store, a clock that we move."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from tests.simulators import Changes, FakeClock, PlainProvider
from tests.simulators import Provider as Simulator
from tokenproxy.config import Origins, presets
from tokenproxy.core.interfaces import Record, Spool, Store
from tokenproxy.core.provider import Account, ClientAuth, Provider, Registration, Validate
from tokenproxy.core.replies import read_import
from tokenproxy.core.settings import MIB, RenewPolicy, SharedStore
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import StoreError
from tokenproxy.metrics import Metrics
from tokenproxy.oauth.accounts import OperatorAccounts
from tokenproxy.oauth.endpoint import Endpoint
from tokenproxy.oauth.entries import AWAKE
from tokenproxy.oauth.entry import Entry
from tokenproxy.oauth.source import Source
from tokenproxy.proxy.tls import tls_context
from tokenproxy.stores import open_spool, open_store

KEY = bytes(range(32))
ROUTE = "books"


def profile(simulator: Simulator, **changes: Any) -> Provider:
    """The preset of a simulator with its addresses; ``PlainProvider`` has none, so it is spelled out."""
    if isinstance(simulator, PlainProvider):
        provider = Provider(name="plain", token_url="", client_auth=ClientAuth.POST, scopes=("read",))
    else:
        provider = presets()[simulator.name].provider
    validate = (
        Validate(url=simulator.url + (simulator.validate_path or "")) if simulator.validate_path else None
    )
    provider = replace(provider, token_url=simulator.url + simulator.token_path, validate=validate)
    return replace(provider, **changes)


def table(
    simulator: Simulator, name: str = "books", *, provider: Provider | None = None, **changes: Any
) -> Account:
    """``[accounts.NAME]`` at a simulator."""
    made = Account(
        name=name,
        provider=provider or profile(simulator),
        registration=Registration(client_id=simulator.client_id, client_secret=simulator.client_secret),
        scopes=tuple((simulator.default_scope or "").split()),
    )
    return replace(made, **changes)


class Unreliable:
    """A real store, of which chosen methods fail or wait at a gate before they do their work."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.failing: dict[str, int] = {}
        """Method -> how many further calls fail, with nothing done."""
        self.gates: dict[str, asyncio.Event] = {}
        self.late: dict[str, list[asyncio.Event]] = {}
        """Method -> gates behind the work of its next calls, one each."""
        self.done: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.changes = Changes()

    def watch(self, on_change: Callable[[str, int], None]) -> None:
        self.store.watch(on_change)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            self.changes.happened()
            if name in self.gates:
                await self.gates[name].wait()
            if self.failing.get(name, 0) > 0:
                self.failing[name] -= 1
                raise StoreError("the disk is full", next_step="make room")
            found = await method(*args, **kwargs)
            self.done[name] += 1
            self.changes.happened()
            if self.late.get(name):
                await self.late[name].pop(0).wait()
            return found

        return call

    async def called(self, name: str, count: int = 1) -> None:
        await self.changes.until(lambda: self.calls[name] >= count, what=f"{count} call(s) of {name}")


class House:
    """For ``async with``; a second one on the same ``path`` is the next start of the program."""

    def __init__(
        self,
        simulator: Simulator,
        *,
        path: Path | None = None,
        url: str = "",
        clock: FakeClock | None = None,
        policy: RenewPolicy | None = None,
        cache: int = 64 * MIB,
        awake: int = AWAKE,
        accounts: Mapping[str, Account] | None = None,
        jitter: Callable[[], float] = lambda: 0.0,
        timeout: float = 5.0,
        start: bool = True,
        **changes: Any,
    ) -> None:
        """``path`` of the SQLite file, or ``url`` of another store; None: in memory. ``changes``: the profile's fields."""
        self.simulator = simulator
        self.clock = clock or FakeClock()
        self.policy = policy or RenewPolicy()
        self.accounts = dict(accounts or {"books": table(simulator, provider=profile(simulator, **changes))})
        self.metrics = Metrics()
        self._url = url or (f"sqlite:{path}" if path else "memory:")
        self._cache, self._awake = cache, awake
        self._spool = path.with_name("spool") if path else Path()
        self._jitter = jitter
        self._timeout = timeout
        self._start = start
        self._stack = AsyncExitStack()
        self.store: Unreliable
        self.spool: Spool
        self.source: Source
        self.operator: OperatorAccounts

    async def __aenter__(self) -> Self:
        store = await open_store(
            self._url, [KEY], metrics=self.metrics.store, shared=SharedStore(heartbeat=0.2)
        )
        self._stack.push_async_callback(store.close)
        self.store = Unreliable(store)
        self.spool = open_spool(self._url, [KEY], [self._spool])
        endpoint = Endpoint(
            tls_context,
            origins=Origins(base=Path("/"), environ=os.environ),
            timeout=self._timeout,
            monotonic=self.clock.monotonic,
        )
        self._stack.push_async_callback(endpoint.close)
        self.source = Source(
            self.accounts,
            store=cast("Store", self.store),
            spool=self.spool,
            endpoint=endpoint,
            clock=self.clock,
            metrics=self.metrics,
            policy=self.policy,
            cache=self._cache,
            awake=self._awake,
            jitter=self._jitter,
        )
        self._stack.push_async_callback(self.source.close)
        self.operator = OperatorAccounts(
            self.source,
            store=cast("Store", self.store),
            endpoint=endpoint,
            clock=self.clock,
            accounts=lambda: self.accounts,
        )
        if self._start:
            await self.source.restore()
            await self.source.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def login(self, account: str = "books", **changes: Any) -> TokenSet:
        """Import what a login would have brought; ``changes`` are fields of the answer."""
        answer = self.simulator.new_grant() | changes
        await self.operator.import_answer(account, json.dumps(answer).encode())
        entry = self.source.entry(account)
        assert entry is not None
        return entry.tokens

    async def put(self, tokens: TokenSet, account: str = "books") -> TokenSet:
        return await self.source.adopt(account, tokens)

    async def reload(self, **changes: Any) -> None:
        """Change fields of the account table ``books``."""
        self.accounts["books"] = replace(self.accounts["books"], **changes)
        self.source.configure(self.accounts, self.policy)

    async def reload_provider(self, **changes: Any) -> None:
        await self.reload(provider=replace(self.accounts["books"].provider, **changes))

    async def waiting(self, count: int, account: str = "books") -> None:
        """Until that many ask for the renewal under way."""
        async with asyncio.timeout(10):
            while self.held(account).waiters < count:
                await asyncio.sleep(0.001)

    async def idle(self) -> None:
        """Until nothing that the source began runs any more."""
        async with asyncio.timeout(10):
            while self.source._tasks.running:
                await asyncio.sleep(0.001)

    def held(self, account: str = "books") -> Entry:
        entry = self.source.entry(account)
        assert entry is not None
        return entry

    async def stored(self, account: str = "books") -> Record:
        record = await self.store.store.load(account)
        assert record is not None
        return record

    async def kept(self, account: str = "books") -> TokenSet:
        """What a restart would find."""
        record = await self.stored(account)
        assert record.tokens is not None
        return record.tokens

    def imported(self, answer: Mapping[str, Any]) -> TokenSet:
        provider = self.accounts["books"].provider
        tokens = read_import(json.dumps(answer).encode(), provider=provider, now=self.clock.now(), scope="s")
        assert tokens is not None
        return tokens


async def renewed(house: House, rejected: TokenSet) -> TokenSet:
    """What a request gets whose token an upstream refused, and rightly so."""
    house.simulator.revoke_access(rejected.access_token)
    outcome = await house.source.renew("books", rejected, route=ROUTE)
    assert isinstance(outcome, TokenSet)
    return outcome
