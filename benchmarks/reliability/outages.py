"""R12: PostgreSQL crashes in the middle of renewals, a replica is cut off from it, and a copy that lacks the last commit takes its place."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.reliability.database import Database
from benchmarks.reliability.result import Result
from tests.simulators import Api, AskaraProvider, TcpProxy, write_config
from tests.stories.serving import Serve, calling, imported, serving
from tokenproxy.stores import create_key_file

LEASE: Final = 4.0
HEARTBEAT: Final = 1.0
"""A holder that a busy machine keeps from its database for 2.5 of them is dead to the other replica, and its renewal done again."""
LONG: Final = 5.0
"""Seconds without a database after which leases have run out and signs of life are old."""
PATIENCE: Final = 30.0


@dataclass(slots=True)
class Tally:
    rounds: int = 0
    lost: int = 0
    reuses: int = 0
    alerts: int = 0
    """Rounds in which the metric said that a token set waits for the store."""
    faults: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, float | int]:
        return {"rounds": self.rounds, "lost": self.lost, "reuses": self.reuses, "alerts": self.alerts}


class Pair:
    """Two replicas on one database; the first one's connections can be cut."""

    def __init__(self, provider: AskaraProvider, api: Api, database: Database, wire: TcpProxy) -> None:
        self.provider = provider
        self.database = database
        self.wire = wire
        self._api = api
        self.serves: list[Serve] = []
        self._caller: aiohttp.ClientSession
        self.tally = Tally()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Pair]:
        folder.mkdir(parents=True)
        create_key_file(folder / "tokenproxy.key")
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(Database())
            wire = await stack.enter_async_context(TcpProxy(database.port))
            provider = await stack.enter_async_context(AskaraProvider())
            api = await stack.enter_async_context(Api(provider))
            pair = cls(provider, api, database, wire)
            pair._caller = await stack.enter_async_context(calling())
            shared = f'key = "file:{folder}/tokenproxy.key"\nlease = "{LEASE} s"\nheartbeat = "{HEARTBEAT} s"'
            for name, port in (("first", wire.port), ("second", database.port)):
                (folder / name).mkdir()
                config = write_config(
                    folder / name,
                    provider,
                    api,
                    store=database.dsn_at(port),
                    store_extra=shared,
                    extra='[log]\nformat = "json"\n',
                )
                pair.serves.append(await stack.enter_async_context(serving(config)))
            await pair.log_in()
            yield pair

    async def round(self, what: str, work: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """``work`` kills the token and breaks something; True: a token set had to wait for the store."""
        reuses = self.provider.reuses
        await self._all_know_the_newest(what)
        alert = await work()
        self.tally.rounds += 1
        self.tally.alerts += alert
        statuses = [await self.answered(serve) for serve in self.serves]
        self.provider.revoke_all_access()  # what is left must be good for a further renewal
        statuses += [await self.answered(serve) for serve in self.serves]
        reused = self.provider.reuses - reuses
        self.tally.reuses += reused
        if statuses != [200] * 4:
            self.tally.lost += 1
            self.tally.faults.append(f"{what}: lost: {statuses}")
            await self.log_in()
        elif reused:
            self.tally.faults.append(f"{what}: a spent refresh token was refused")
        else:
            await self._all_know_the_newest(what)

    async def ask(self, serve: Serve) -> int:
        try:
            async with self._caller.get(f"{serve.url}/books/x") as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, ConnectionError):
            return 0

    async def answered(self, serve: Serve) -> int:
        """The status, once it is 200 or a person is needed."""
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self._caller.get(f"{serve.url}/books/x") as answer:
                    code = answer.headers.get("Tokenproxy-Error", "")
                    if answer.status == 200 or code == "login_required":
                        return answer.status
                await asyncio.sleep(0.1)

    async def alerted(self, serve: Serve) -> bool:
        """Once the metric that an alert is made of says that a token set waits for the store."""
        async with asyncio.timeout(PATIENCE):
            while not await self.waiting(serve):
                await asyncio.sleep(0.02)
        return True

    async def calm(self) -> None:
        """Until nothing waits for the store any more."""
        async with asyncio.timeout(PATIENCE):
            for serve in self.serves:
                while await self.waiting(serve):
                    await asyncio.sleep(0.02)

    async def waiting(self, serve: Serve) -> int:
        async with self._caller.get(f"{serve.admin}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        (found,) = [line for line in lines if line.startswith("tokenproxy_spooled_tokens ")]
        return int(float(found.partition(" ")[2]))

    async def log_in(self) -> None:
        await imported(self.serves[1].config, "books", self.provider.new_grant())
        for serve in self.serves:
            assert await self.answered(serve) == 200, serve.written

    async def renewing(self) -> asyncio.Future[int]:
        """A request at the first replica whose renewal the provider has done and not answered yet."""
        self.provider.gate, self.provider.hold = asyncio.Event(), "after"
        self.provider.revoke_all_access()
        asking = asyncio.ensure_future(self.ask(self.serves[0]))
        await self.provider.token_call_arrived()
        return asking

    def answer(self) -> None:
        assert self.provider.gate is not None
        self.provider.gate.set()
        self.provider.gate = None

    async def _all_know_the_newest(self, what: str) -> None:
        for number, serve in enumerate(self.serves):
            await self.answered(serve)
            if self._api.requests[-1].token != self.provider.latest()["access_token"]:
                self.tally.faults.append(f"{what}: replica {number + 1} has other tokens than the newest")


async def crash_at_random(pair: Pair) -> bool:
    """At any moment of two replicas' wish for new tokens; back at once, or when all leases have run out."""
    pair.provider.revoke_all_access()
    pair.provider.delay, pair.provider.hold = 0.01, random.choice(("before", "after"))
    asking = [asyncio.ensure_future(pair.ask(serve)) for serve in pair.serves]
    await asyncio.sleep(random.uniform(0, 0.06))
    await pair.database.stop()
    waits = any([bool(await pair.waiting(serve)) for serve in pair.serves])
    await asyncio.sleep(random.choice((0.0, LONG)))
    await pair.database.start()
    await asyncio.gather(*asking)
    await pair.calm()
    pair.provider.delay = 0.0
    return waits


async def crash_before_commit(pair: Pair) -> bool:
    """The database is gone when the provider answers, and stays away until all leases have run out."""
    asking = await pair.renewing()
    await pair.database.stop()
    pair.answer()
    alert = await pair.alerted(pair.serves[0])
    await asking
    await asyncio.sleep(LONG)
    await pair.database.start()
    await pair.calm()
    return alert


async def cut_before_commit(pair: Pair) -> bool:
    """All connections of the holder are reset between answer and commit."""
    asking = await pair.renewing()
    pair.wire.cut()
    pair.answer()
    await asking
    waits = bool(await pair.waiting(pair.serves[0]))
    await pair.calm()
    return waits


async def cut_off(pair: Pair) -> bool:
    """The holder cannot reach the database from the provider's answer on, until the other replica has taken over."""
    asking = await pair.renewing()
    pair.wire.black_hole = True
    pair.wire.cut()
    pair.answer()
    other = pair.answered(pair.serves[1])
    alert, _ = await asyncio.gather(pair.alerted(pair.serves[0]), other)
    await asking
    pair.wire.black_hole = False
    pair.wire.cut()
    await pair.calm()
    return alert


async def fail_over(pair: Pair) -> bool:
    """A copy without the last renewal takes the place of the database."""
    await pair.database.keep_copy()
    for serve in pair.serves:
        await pair.answered(serve)
    pair.provider.revoke_all_access()
    for serve in pair.serves:
        await pair.answered(serve)
    await pair.database.fail_over()
    return False


STORIES: Final[Sequence[tuple[str, Callable[[Pair], Coroutine[Any, Any, bool]], float]]] = (
    ("PostgreSQL crashes at random moments of renewals", crash_at_random, 0.0),
    ("PostgreSQL crashes between answer and commit", crash_before_commit, 0.0),
    ("the holder's connections are cut between answer and commit", cut_before_commit, 0.0),
    ("the holder is cut off from answer on, grace 30 s", cut_off, 30.0),
    ("fail-over to a copy that lacks the last renewal", fail_over, 0.0),
)
"""What happens, and the provider's grace: where it is 0, a spent refresh token that is sent ends the login."""


async def outages(
    folder: Path,
    *,
    rounds: int,
    stories: Sequence[tuple[str, Callable[[Pair], Coroutine[Any, Any, bool]], float]] = STORIES,
) -> list[Result]:
    """R12; one result for each story."""
    results = []
    async with Pair.open(folder / "pair") as pair:
        for what, story, grace in stories:
            pair.tally = Tally()
            pair.provider.grace, pair.provider.grace_answer = grace, "new"
            for _ in range(rounds):
                await pair.round(what, lambda story=story: story(pair))  # type: ignore[misc]
            results.append(Result("R12", what, pair.tally.figures, pair.tally.faults))
    return results
