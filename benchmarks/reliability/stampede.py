"""
R7, R8 and R10: very many requests wait for one renewal, in one process and over several on one PostgreSQL.

Callers and the API are as lean as asyncio lets them be, so that what is measured is mostly ours.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.reliability.database import Database
from benchmarks.reliability.result import Result
from benchmarks.running import allow_descriptors
from tests.simulators import AskaraProvider, write_config
from tests.stories.serving import Serve, imported, serving
from tokenproxy.stores import create_key_file

LATENCY: Final = 0.05
"""Seconds that the provider takes for a token call."""
PATIENCE: Final = 30.0
_ASK: Final = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
_BEARER: Final = b"\r\nAuthorization: Bearer "


def _answer(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok".encode()


_TAKEN: Final = _answer("200 OK")
_REFUSED: Final = _answer("401 Unauthorized")


class Api:
    """Takes a live token of the provider; 401 for anything else, at once or within ``refuse_within`` seconds."""

    def __init__(self, provider: AskaraProvider) -> None:
        self.provider = provider
        self.refuse_within = 0.0
        self.refused = 0
        self._crowd: tuple[int, asyncio.Event] | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _ApiSide(self), "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def refuses(self, count: int) -> None:
        """Until it has refused so many since this began."""
        event = asyncio.Event()
        self._crowd = (self.refused + count, event)
        async with asyncio.timeout(PATIENCE):
            await event.wait()

    def count_refused(self) -> None:
        self.refused += 1
        if self._crowd is not None and self.refused >= self._crowd[0]:
            self._crowd[1].set()


class _ApiSide(asyncio.Protocol):
    """One request at a time, each without a body."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if not self._head.endswith(b"\r\n\r\n"):
            return
        token = self._head.partition(_BEARER)[2].partition(b"\r\n")[0].decode()
        self._head = b""
        if self._api.provider.live(token):
            self._api.provider.used(token)
            self._transport.write(_TAKEN)
            return
        self._api.count_refused()
        if self._api.refuse_within:
            late = random.uniform(0, self._api.refuse_within)
            asyncio.get_running_loop().call_later(late, self._transport.write, _REFUSED)
        else:
            self._transport.write(_REFUSED)


class Caller(asyncio.Protocol):
    """A kept-alive connection on which one request at a time is sent."""

    def __init__(self) -> None:
        self._got = b""
        self._waiting: asyncio.Future[tuple[int, float]] | None = None

    @classmethod
    async def to(cls, serve: Serve) -> Caller:
        host, _, port = serve.addresses["proxy"].rpartition(":")
        _, caller = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        return caller

    def ask(self) -> asyncio.Future[tuple[int, float]]:
        """Status, and when the answer was there (monotonic seconds); 0 where the connection ended instead."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(_ASK)
        return self._waiting

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, blank, body = self._got.partition(b"\r\n\r\n")
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if blank and len(body) >= int(length):
            self._got = b""
            self._tell(int(head[9:12]))

    def connection_lost(self, _: Exception | None) -> None:
        self._tell(0)

    def _tell(self, status: int) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((status, time.monotonic()))


@dataclass(slots=True)
class Tally:
    expiries: int = 0
    token_calls: int = 0
    reuses: int = 0
    unanswered: int = 0
    """Requests that got anything but 200."""
    waits: list[float] = field(default_factory=list)
    """Seconds from the provider's answer to the caller's."""
    live: list[float] = field(default_factory=list)
    """Seconds from asking to the answer, for the same crowd with a live token: what so many requests take anyway."""
    faults: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, float | int]:
        p50, p99, most = percentiles(self.waits)
        live = percentiles(self.live) if self.live else (0.0, 0.0, 0.0)
        return {
            "expiries": self.expiries,
            "token calls": self.token_calls,
            "reuses": self.reuses,
            "not answered": self.unanswered,
            "added wait p50, ms": round(p50 * 1000, 1),
            "p99": round(p99 * 1000, 1),
            "max": round(most * 1000, 1),
            "with a live token p50": round(live[0] * 1000, 1),
            "its p99": round(live[1] * 1000, 1),
        }

    @property
    def added(self) -> float:
        """Seconds by which the p99 lies above that of the same crowd with a live token."""
        return percentiles(self.waits)[1] - percentiles(self.live)[1]


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """p50, p99 and the largest."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98], max(values)


class Stampede:
    """Real ``serve`` processes with logged-in callers at each."""

    def __init__(self, provider: AskaraProvider, api: Api, callers: Sequence[Caller]) -> None:
        self._provider = provider
        self.api = api
        self._callers = callers
        self._answered = 0.0
        self.tally = Tally()
        provider.answer_override = self._stamped

    def _stamped(self, answer: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        self._answered = time.monotonic()
        return 200, {"Content-Type": "application/json"}, json.dumps(answer)

    async def expiry(self, *, crowded: bool = True) -> None:
        """
        The token is dead, everybody asks, and all are answered.

        ``crowded``: the provider answers only when the API has refused all of them, so that all wait.
        """
        provider, calls, reuses = self._provider, self._provider.token_calls, self._provider.reuses
        provider.revoke_all_access()
        provider.delay = 0.0 if crowded else LATENCY
        provider.gate = asyncio.Event() if crowded else None
        crowd = asyncio.ensure_future(self.api.refuses(len(self._callers))) if crowded else None
        asking = [caller.ask() for caller in self._callers]
        if crowd is not None and provider.gate is not None:
            await crowd
            await provider.token_call_arrived(timeout=PATIENCE)
            await asyncio.sleep(LATENCY)  # those whose 401 is on its way to them
            provider.gate.set()
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*asking)
        tally = self.tally
        tally.expiries += 1
        tally.waits += [max(0.0, at - self._answered) for status, at in answers if status == 200]
        tally.unanswered += (bad := sum(status != 200 for status, _ in answers))
        tally.token_calls += (made := provider.token_calls - calls)
        tally.reuses += (reused := provider.reuses - reuses)
        if (made, reused, bad) != (1, 0, 0):
            tally.faults.append(
                f"expiry {tally.expiries}: {made} token calls, {reused} reuses, {bad} not answered"
            )

    async def live(self) -> None:
        """Everybody asks once more, and no renewal is needed."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*[caller.ask() for caller in self._callers])
        self.tally.live += [at - began for _, at in answers]


@asynccontextmanager
async def stampede(folder: Path, *, processes: int, callers: int) -> AsyncIterator[Stampede]:
    """``callers`` at each process; more than one process share a PostgreSQL."""
    allow_descriptors()
    folder.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(AskaraProvider())
        api = await stack.enter_async_context(Api(provider))
        serves = await _serves(folder, stack, provider, api, processes)
        await imported(serves[0].config, "books", provider.new_grant())
        made = [await Caller.to(serve) for serve in serves for _ in range(callers)]
        for each in made:
            stack.callback(each.close)
        for number in range(0, len(made), callers):  # each process knows the login
            status, _ = await made[number].ask()
            assert status == 200, serves[number // callers].written
        yield Stampede(provider, api, made)


async def _serves(
    folder: Path, stack: AsyncExitStack, provider: AskaraProvider, api: Api, processes: int
) -> list[Serve]:
    log = '[log]\nformat = "json"\n'
    limits = "[limits]\nin_flight = 4096\n"
    store, extra = "sqlite:tokenproxy.db", ""
    if processes > 1:
        store = (await stack.enter_async_context(Database())).dsn
        create_key_file(folder / "tokenproxy.key")
        extra = f'key = "file:{folder}/tokenproxy.key"'
    configs = []
    for number in range(processes):
        own = folder / str(number)
        own.mkdir()
        configs.append(
            write_config(own, provider, api.url, store=store, store_extra=extra, extra=log + limits)
        )
    first = await stack.enter_async_context(serving(configs[0]))  # it makes the tables
    rest = [await stack.enter_async_context(serving(config)) for config in configs[1:]]
    return [first, *rest]


async def in_one_process(folder: Path, *, callers: int, expiries: int, most: float) -> list[Result]:
    """R7 and R8. ``most``: seconds that nearly nobody (p99) may wait longer than the provider took."""
    results = []
    async with stampede(folder, processes=1, callers=callers) as crowd:
        for _ in range(expiries):
            await crowd.expiry()
            await crowd.live()
        tally = crowd.tally
        _, wait, _ = percentiles(tally.waits)
        results.append(_judged("R7", f"{callers:,} requests with a dead token at once", tally, wait, most))
        crowd.tally, crowd.api.refuse_within = Tally(), 2.0
        for _ in range(max(1, expiries // 5)):
            await crowd.expiry(crowded=False)
        found = crowd.tally
        figures = {
            name: found.figures[name] for name in ("expiries", "token calls", "reuses", "not answered")
        }
        results.append(Result("R8", f"{callers:,} of which the 401 comes within 2 s", figures, found.faults))
    return results


async def over_replicas(folder: Path, *, processes: int, callers: int, expiries: int, most: float) -> Result:
    """
    R10. ``most``: seconds by which the p99 may lie above that of the same requests with a live token.

    Not beyond the provider's own time, as in R7: so many processes share two cores with callers, API and database, and
    what a thousand requests cost there is no part of how soon waiters are let go.
    """
    async with stampede(folder, processes=processes, callers=callers) as crowd:
        for _ in range(expiries):
            await crowd.expiry()
            await crowd.live()
        what = f"{processes} processes x {callers} requests with a dead token, one PostgreSQL"
        return _judged("R10", what, crowd.tally, crowd.tally.added, most)


def _judged(test: str, what: str, tally: Tally, wait: float, most: float) -> Result:
    faults = list(tally.faults)
    if wait > most:
        faults.append(
            f"p99 of what callers waited for the renewal: {wait * 1000:.0f} ms, more than {most * 1000:.0f}"
        )
    return Result(test, what, tally.figures, faults)
