"""R11: who holds the lease is killed, or stopped and later continued, at each step of a renewal; another replica takes over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

from benchmarks.reliability.database import Database
from benchmarks.reliability.result import Result
from tests.simulators import Api, AskaraProvider, write_config
from tests.stories.serving import Serve, calling, imported, serving
from tokenproxy.stores import create_key_file

LEASE: Final = 2.0
HEARTBEAT: Final = 0.3
PATIENCE: Final = 20.0

How = Literal["SIGKILL", "SIGSTOP"]
SIGNALS: Final[Sequence[How]] = ("SIGKILL", "SIGSTOP")


@dataclass(frozen=True, slots=True)
class Point:
    """Where in a renewal its holder ends."""

    name: str
    step: str
    """Of ``dying``; "": while the provider has the request, or has done what it asks and not answered yet."""
    hold: Literal["before", "after"] = "after"
    grace: float = 30.0
    """Of the provider; where nothing was sent it needs none."""


POINTS: Final = (
    Point("before send", "after_mark", grace=0.0),
    Point("after send", ""),
    Point("after answer", "before_store"),
)


@dataclass(slots=True)
class Tally:
    rounds: int = 0
    lost: int = 0
    reuses: int = 0
    slowest: float = 0.0
    """Seconds from the signal until the other replica had new tokens."""
    faults: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.rounds += other.rounds
        self.lost += other.lost
        self.reuses += other.reuses
        self.slowest = max(self.slowest, other.slowest)
        self.faults += other.faults


class Pair:
    """Two replicas: the first one ends, the second one takes over."""

    def __init__(
        self, folder: Path, provider: AskaraProvider, api: Api, caller: aiohttp.ClientSession
    ) -> None:
        self._provider = provider
        self._api = api
        self._caller = caller
        self._armed = folder / "armed"
        self._configs: list[Path] = []
        self._running = AsyncExitStack()
        self._first: Serve
        self._second: Serve
        self.tally = Tally()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, dsn: str) -> AsyncIterator[Pair]:
        """On an empty database or schema of its own."""
        folder.mkdir(parents=True)
        create_key_file(folder / "tokenproxy.key")
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(AskaraProvider())
            api = await stack.enter_async_context(Api(provider))
            pair = cls(folder, provider, api, await stack.enter_async_context(calling()))
            shared = f'key = "file:{folder}/tokenproxy.key"\nlease = "{LEASE} s"\nheartbeat = "{HEARTBEAT} s"'
            for name in ("first", "second"):
                (folder / name).mkdir()
                pair._configs.append(
                    write_config(
                        folder / name,
                        provider,
                        api,
                        store=dsn,
                        store_extra=shared,
                        extra='[log]\nformat = "json"\n',
                    )
                )
            pair._second = await stack.enter_async_context(serving(pair._configs[1]))
            stack.push_async_callback(pair._close)
            await pair._start()
            await imported(pair._configs[1], "books", provider.new_grant())
            yield pair

    async def ended_at(self, point: Point, how: How) -> None:
        """One renewal whose holder ends there."""
        provider, reuses = self._provider, self._provider.reuses
        provider.grace = point.grace
        for serve in (self._first, self._second):
            await self._ask(serve)  # it knows the newest tokens
        generation = (await self._status())["generation"]
        provider.revoke_all_access()
        if point.step:
            self._armed.write_text(f"{point.step} {how}")
        else:
            provider.gate, provider.hold = asyncio.Event(), point.hold
        asking = asyncio.ensure_future(self._ask(self._first))
        if not point.step:
            await provider.token_call_arrived()
            self._first.process.send_signal(signal.Signals[how])
        await self._gone(how)
        ended = time.monotonic()
        if provider.gate is not None:
            provider.gate.set()
            provider.gate = None
        status = await self._ask(self._second)
        took = time.monotonic() - ended
        await self._again(how)
        await asking
        self.tally.rounds += 1
        self.tally.slowest = max(self.tally.slowest, took)
        self.tally.reuses += provider.reuses - reuses
        await self._judge(f"{point.name}, {how}", status, took, generation, provider.reuses - reuses)

    # inside

    async def _judge(self, where: str, status: int, took: float, generation: int, reuses: int) -> None:
        after = await self._status()
        if status != 200 or after["state"] != "ok":
            self.tally.lost += 1
            self._fault(where, f"lost: {status}, {after['state']} {after['reason']}")
            await imported(self._configs[1], "books", self._provider.new_grant())
            return
        if reuses:
            self._fault(where, "a spent refresh token was refused")
        if took > LEASE + 1:
            self._fault(where, f"taken over after {took:.1f} s")
        if after["generation"] != generation + 1:
            self._fault(where, f"generation {generation} was followed by {after['generation']}")
        for serve in (self._first, self._second):
            status = await self._ask(serve)
            newest = self._provider.latest()["access_token"]
            if status != 200 or self._api.requests[-1].token != newest:
                self._fault(where, f"a replica has other tokens than the newest: {status}")

    def _fault(self, where: str, text: str) -> None:
        self.tally.faults.append(f"{where}: {text}")

    async def _ask(self, serve: Serve) -> int:
        """0 where the process died meanwhile."""
        try:
            async with self._caller.get(f"{serve.url}/books/x") as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, ConnectionError):
            return 0

    async def _status(self) -> dict[str, Any]:
        async with self._caller.get(f"{self._second.admin}/api/accounts/books") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def _start(self) -> None:
        module = ("benchmarks.reliability.dying", str(self._armed))
        self._first = await self._running.enter_async_context(serving(self._configs[0], module=module))

    async def _gone(self, how: How) -> None:
        if how == "SIGKILL":
            await self._first.ended()
            return
        process = Path(f"/proc/{self._first.process.pid}/stat")
        async with asyncio.timeout(PATIENCE):
            while process.read_text().rpartition(") ")[2][0] != "T":
                await asyncio.sleep(0.005)

    async def _again(self, how: How) -> None:
        if how == "SIGSTOP":
            self._first.process.send_signal(signal.SIGCONT)
            return
        await self._close()
        self._running = AsyncExitStack()
        await self._start()

    async def _close(self) -> None:
        await self._running.aclose()


async def holders_end(
    folder: Path,
    *,
    each: int,
    lanes: int = 2,
    points: Sequence[Point] = POINTS,
    signals: Sequence[How] = SIGNALS,
) -> list[Result]:
    """R11; one result for each point and signal."""
    results = []
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(Database()) for _ in range(lanes)]
        pairs = [
            await stack.enter_async_context(Pair.open(folder / str(number), database.dsn))
            for number, database in enumerate(databases)
        ]
        for point in points:
            for how in signals:
                tally = await _in_lanes(pairs, partial(Pair.ended_at, point=point, how=how), each)
                figures: dict[str, float | int] = {
                    "rounds": tally.rounds,
                    "lost": tally.lost,
                    "reuses": tally.reuses,
                    "slowest takeover, s": round(tally.slowest, 2),
                }
                what = f"the holder of a lease of {LEASE:.0f} s gets {how} {point.name}"
                results.append(Result("R11", what, figures, tally.faults))
    return results


async def _in_lanes(
    pairs: Sequence[Pair], work: Callable[[Pair], Coroutine[Any, Any, None]], count: int
) -> Tally:
    rest = iter(range(count))

    async def lane(pair: Pair) -> Tally:
        pair.tally = Tally()
        for _ in rest:
            await work(pair)
        return pair.tally

    tally = Tally()
    for each in await asyncio.gather(*(lane(pair) for pair in pairs)):
        tally.add(each)
    return tally
