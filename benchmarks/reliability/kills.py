"""R1 and R2: ``kill -9`` of the real ``serve`` in the middle of renewals, at random moments and at every step."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.reliability.result import Result
from tests.simulators import Api, AskaraProvider, write_config
from tests.stories.serving import Serve, calling, imported, serving

STEPS: Final = (
    "before_mark",
    "after_mark",
    "sent",
    "committed",
    "before_store",
    "after_store",
    "before_settle",
    "after_settle",
)
"""Of a renewal, in order; ``sent`` and ``committed`` are the provider's: its answer never comes."""
AT_THE_PROVIDER: Final = {"sent": "before", "committed": "after"}
"""Step -> where the provider holds its call while we are killed."""
BETWEEN_SEND_AND_STORE: Final = frozenset({"sent", "committed", "before_store"})
"""Where the new pair exists only on its way: only the provider can give it again."""
RANDOM_WITHIN: Final = 0.06
"""Seconds after the request in which a random kill comes."""
PROMPTLY: Final = 5.0
"""Seconds from the next start to the repeated token call; the shortest window of a known provider is 10."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a provider treats a refresh token that comes a second time."""

    name: str
    set_up: Callable[[AskaraProvider], None]
    forgives: bool


def _grace(provider: AskaraProvider) -> None:
    provider.grace = 30.0


def _first_use(provider: AskaraProvider) -> None:
    provider.spend_on_first_use = True


RULES: Final = (
    Rule("a grace of 30 s", _grace, forgives=True),
    Rule("until the new token is used", _first_use, forgives=True),
    Rule("no grace", lambda _provider: None, forgives=False),
)


@dataclass(slots=True)
class Tally:
    kills: int = 0
    lost: int = 0
    reuses: int = 0
    replays: int = 0
    slowest: float = 0.0
    """Seconds from the start after a kill to the token call that repeats what was in doubt."""
    faults: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.kills += other.kills
        self.lost += other.lost
        self.reuses += other.reuses
        self.replays += other.replays
        self.slowest = max(self.slowest, other.slowest)
        self.faults += other.faults

    @property
    def figures(self) -> dict[str, float | int]:
        return {
            "kills": self.kills,
            "lost": self.lost,
            "reuses": self.reuses,
            "answers got again": self.replays,
            "slowest repeat, s": round(self.slowest, 2),
        }


class House:
    """One ``serve`` with a provider and an API of its own, killed and started again and again."""

    def __init__(self, folder: Path, rule: Rule, promptly: float) -> None:
        self._rule = rule
        self._promptly = promptly
        self._armed = folder / "armed"
        self._running = AsyncExitStack()
        self.tally = Tally()
        self.provider: AskaraProvider
        self._config: Path
        self._serve: Serve
        self._caller: aiohttp.ClientSession

    @classmethod
    async def open(cls, folder: Path, rule: Rule, stack: AsyncExitStack, *, promptly: float) -> House:
        folder.mkdir(parents=True)
        house = cls(folder, rule, promptly)
        house.provider = await stack.enter_async_context(AskaraProvider())
        rule.set_up(house.provider)
        api = await stack.enter_async_context(Api(house.provider))
        house._config = write_config(folder, house.provider, api, extra='[log]\nformat = "json"\n')
        house._caller = await stack.enter_async_context(calling())
        stack.push_async_callback(house._stop)
        await house._start()
        await house._log_in()
        return house

    async def killed_at(self, step: str) -> None:
        """One renewal that ends there; then the next start, and what it makes of it."""
        self.provider.revoke_all_access()
        asking = asyncio.ensure_future(self._ask())
        if step in AT_THE_PROVIDER:
            self._hold(AT_THE_PROVIDER[step])
            await self.provider.token_call_arrived()
            self._serve.process.send_signal(signal.SIGKILL)
        else:
            self._armed.write_text(step)
        await self._ended()
        await asking
        loses = not self._rule.forgives and step in BETWEEN_SEND_AND_STORE
        await self._judge(step, loses=loses, asked_already=step in BETWEEN_SEND_AND_STORE)

    async def killed_after(self, seconds: float) -> None:
        """A kill at a moment that nobody chose."""
        self.provider.revoke_all_access()
        self.provider.hold = random.choice(("before", "after"))
        self.provider.delay = 0.008
        asking = asyncio.ensure_future(self._ask())
        await asyncio.sleep(seconds)
        self._serve.process.send_signal(signal.SIGKILL)
        await self._ended()
        await asking
        await self._judge(f"{seconds * 1000:.1f} ms", loses=False, asked_already=False)

    # inside

    async def _judge(self, step: str, *, loses: bool, asked_already: bool) -> None:
        killed, calls, reuses = time.monotonic(), self.provider.token_calls, self.provider.reuses
        replays = self.provider.replays
        self._armed.unlink(missing_ok=True)
        self.provider.delay = 0.0
        if self.provider.gate is not None:
            self.provider.gate.set()
            self.provider.gate = None
        await self._start()
        status, code = await self._ask()
        found = await self._status()
        self.tally.kills += 1
        self.tally.replays += self.provider.replays - replays
        self.tally.reuses += self.provider.reuses - reuses
        repeated = self.provider.requests[calls:]
        if asked_already and repeated:
            self.tally.slowest = max(self.tally.slowest, repeated[0].at - killed)
            if repeated[0].at - killed > self._promptly:
                self._fault(step, f"asked again only {repeated[0].at - killed:.1f} s after the start")
        if asked_already and not repeated:
            self._fault(step, "the lost answer was not asked for again")
        if self.provider.reuses - reuses > 1:
            self._fault(step, "a spent refresh token was sent more than once")
        if status != 200:
            self.tally.lost += 1
            if not loses:
                self._fault(step, f"lost: {status} {code}, {found['state']} {found['reason']}")
            elif (code, found["state"], found["reason"]) != (
                "login_required",
                "login_required",
                "rotation_lost",
            ):
                self._fault(step, f"told as {code}, {found['state']} {found['reason']}")
            await self._log_in()
        elif found["state"] != "ok":
            self._fault(step, f"told as {found['state']} {found['reason']}")

    def _fault(self, step: str, text: str) -> None:
        self.tally.faults.append(f"{self._rule.name}, {step}: {text}")

    def _hold(self, where: str) -> None:
        self.provider.gate = asyncio.Event()
        self.provider.hold = "before" if where == "before" else "after"

    async def _ask(self) -> tuple[int, str]:
        """Status and our own error code; (0, "") where the process died meanwhile."""
        try:
            async with self._caller.get(f"{self._serve.url}/books/x") as answer:
                await answer.read()
                return answer.status, answer.headers.get("Tokenproxy-Error", "")
        except (aiohttp.ClientError, ConnectionError):
            return 0, ""

    async def _status(self) -> dict[str, Any]:
        async with self._caller.get(f"{self._serve.admin}/api/accounts/books") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def _start(self) -> None:
        module = ("benchmarks.reliability.dying", str(self._armed))
        self._serve = await self._running.enter_async_context(serving(self._config, module=module))

    async def _ended(self) -> None:
        await self._serve.ended()
        await self._running.aclose()
        self._running = AsyncExitStack()

    async def _stop(self) -> None:
        await self._running.aclose()

    async def _log_in(self) -> None:
        await imported(self._config, "books", self.provider.new_grant())


Work = Callable[[House], Coroutine[Any, Any, None]]
"""One kill."""


async def in_lanes(folder: Path, rule: Rule, work: Sequence[Work], *, lanes: int, promptly: float) -> Tally:
    """Spread over so many houses at once, each on its own; their tallies together."""
    rest = iter(work)

    async def lane(number: int) -> Tally:
        async with AsyncExitStack() as stack:
            name = f"{rule.name.replace(' ', '-')}-{number}"
            house = await House.open(folder / name, rule, stack, promptly=promptly)
            for each in rest:
                await each(house)
            return house.tally

    tally = Tally()
    for each in await asyncio.gather(*(lane(number) for number in range(lanes))):
        tally.add(each)
    return tally


async def random_kills(folder: Path, *, kills: int, lanes: int = 2, promptly: float = PROMPTLY) -> Result:
    """R1."""
    work = [partial(House.killed_after, seconds=random.uniform(0, RANDOM_WITHIN)) for _ in range(kills)]
    tally = await in_lanes(folder, RULES[0], work, lanes=lanes, promptly=promptly)
    what = f"kill -9 at random moments of renewals, {RULES[0].name}"
    return Result("R1", what, tally.figures, tally.faults)


async def kills_at_every_step(
    folder: Path,
    *,
    each: int,
    rules: Sequence[Rule] = RULES,
    lanes: int = 2,
    promptly: float = PROMPTLY,
) -> list[Result]:
    """R2; one result for each rule."""
    results = []
    for rule in rules:
        work = [partial(House.killed_at, step=step) for _ in range(each) for step in STEPS]
        tally = await in_lanes(folder, rule, work, lanes=lanes, promptly=promptly)
        hopeless = 0 if rule.forgives else each * len(BETWEEN_SEND_AND_STORE)
        faults = list(tally.faults)
        if tally.lost != hopeless:
            faults.append(f"{tally.lost} lost, where no client could help in {hopeless}")
        what = f"kill -9 at each of {len(STEPS)} steps of a renewal, {rule.name}"
        results.append(Result("R2", what, tally.figures, faults))
    return results
