"""R13, R15, R23: what takes minutes, hours and years, on a clock of our own; the provider and the store are real."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Final

from benchmarks.reliability.result import Result
from tests.oauth.house import KEY, ROUTE, House
from tests.simulators import Api, AskaraProvider, FakeClock, PlainProvider, Provider, write_config
from tests.stories.serving import calling, serving
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.settings import MIB, RenewPolicy
from tokenproxy.core.tokens import Sendable
from tokenproxy.errors import AccountError
from tokenproxy.oauth import scheduler

HOUR: Final = 3600
OUTAGE: Final = 300
RECOVERED: Final = 30
"""Seconds after an outage in which whoever asks has a live token again."""
APART: Final = 10
"""Seconds per call that one login costs a provider that is down."""
BURST: Final = 2.0
"""Times the average of calls in a second, at most, once a provider is back."""
GROWTH: Final = 5 * MIB
SMALL_TOKEN: Final = 64


@asynccontextmanager
async def ticking(house: House) -> AsyncIterator[None]:
    task = asyncio.ensure_future(scheduler.run(house.source, clock=house.clock, policy=lambda: house.policy))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def token_of(house: House, account: str) -> Sendable | None:
    """What a request gets; None: an error."""
    try:
        return house.source.ready(account) or await house.source.current(account)
    except AccountError:
        return None


# -- R13 -------------------------------------------------------------------------------------------------------------


def _unavailable(provider: Provider, *, down: bool) -> None:
    provider.outage = 503 if down else None


def _unreachable(provider: Provider, *, down: bool) -> None:
    provider.refuse_connections = down


OUTAGES: Final[dict[str, Callable[..., None]]] = {"503": _unavailable, "no connection": _unreachable}


class Outage:
    """Logins of which half end while their provider is away, and all are due then; each has a request every second."""

    def __init__(self, *, logins: int, down: Callable[..., None], seed: int) -> None:
        self._names = [f"books/{number:03}" for number in range(logins)]
        self._down = down
        self._random = random.Random(seed)
        self._ends: dict[str, float] = {}
        """When each login's first token truly ends."""
        self.denied_early = 0
        self.denied = 0
        self.attempts = Counter[str]()
        """Renewals begun during the outage, by login."""
        self.recovery = 0.0
        self.calls: list[int] = []
        """In each second after the outage, until the last login was renewed."""
        self.reuses = 0

    async def run(self) -> None:
        clock = FakeClock()
        async with (
            AskaraProvider(clock=clock) as provider,
            House(provider, clock=clock, jitter=lambda: self._random.uniform(-1, 1)) as house,
            ticking(house),
        ):
            provider.token_size, provider.jwt_life = SMALL_TOKEN, None
            half = len(self._names) // 2
            await self._log_in(house, self._names[:half], HOUR)
            await self._seconds(house, 2260, every=60)
            await self._log_in(house, self._names[half:], 600)
            await self._seconds(house, 390)
            self._down(provider, down=True)
            await self._seconds(house, OUTAGE, judged=True)
            self._down(provider, down=False)
            await self._recovers(house, provider)
            self.reuses = provider.reuses

    async def _log_in(self, house: House, names: Sequence[str], lifetime: int) -> None:
        for name in names:
            await house.login(name, expires_in=lifetime)
            self._ends[name] = house.clock.monotonic() + lifetime

    async def _seconds(self, house: House, seconds: int, *, judged: bool = False, every: int = 1) -> None:
        for _ in range(0, seconds, every):
            await self._requests(house, judged=judged)
            await house.clock.advance(every)
            await house.idle()

    async def _requests(self, house: House, *, judged: bool = False) -> bool:
        """One for each login; whether all had a token."""
        now, all_had = house.clock.monotonic(), True
        for name in self._ends:
            fails = house.held(name).standing.fails
            tokens = await token_of(house, name)
            all_had = all_had and tokens is not None
            if judged:
                self.denied += tokens is None
                self.denied_early += tokens is None and now < self._ends[name] - 1
                self.attempts[name] = max(self.attempts[name], fails, house.held(name).standing.fails)
        return all_had

    async def _recovers(self, house: House, provider: Provider) -> None:
        began, seen, well = house.clock.monotonic(), len(provider.requests), False
        while not well and house.clock.monotonic() - began < OUTAGE:
            well = await self._requests(house)
            self.recovery = house.clock.monotonic() - began
            await house.clock.advance(1)
            await house.idle()
        await self._seconds(house, 2 * RECOVERED)
        per_second = Counter(int(call.at - began) for call in provider.requests[seen:])
        self.calls = [per_second[second] for second in range(max(per_second, default=0) + 1)]


async def outage(*, logins: int = 200, times: int = 5, kinds: Sequence[str] = tuple(OUTAGES)) -> list[Result]:
    """R13; ``times`` outages of each kind, since a second of one is too short to tell chance from a synchronised burst."""
    results = []
    for name in kinds:
        stories = [Outage(logins=logins, down=OUTAGES[name], seed=seed) for seed in range(times)]
        for story in stories:
            await story.run()
        calls = [sum(second) for second in zip_longest(*(story.calls for story in stories), fillvalue=0)]
        calls = calls[:RECOVERED]
        found = {
            "outages": times,
            "logins": logins,
            "refused before their token ended": sum(story.denied_early for story in stories),
            "most calls of a login in 300 s": max(max(story.attempts.values()) for story in stories),
            "slowest recovery, s": round(max(story.recovery for story in stories)),
            "fullest second against the average": round(max(calls) / (sum(calls) / len(calls)), 2),
        }
        faults = []
        if found["refused before their token ended"] or any(story.reuses for story in stories):
            faults.append("requests had no token although theirs lived, or a spent refresh token was sent")
        if not all(story.denied for story in stories):
            faults.append("no token ended during the outage: nothing was tried")
        if found["most calls of a login in 300 s"] > OUTAGE / APART:
            faults.append("a provider that is down was asked too often")
        if found["slowest recovery, s"] > RECOVERED:
            faults.append("recovered late")
        if found["fullest second against the average"] > BURST:
            faults.append(f"a burst: {calls}")
        results.append(Result("R13", f"the provider is away for 5 minutes: {name}", found, faults))
    return results


# -- R15 -------------------------------------------------------------------------------------------------------------


class Day:
    """A request of each login a minute, a 401 now and then, a reload an hour."""

    def __init__(self, *, logins: int, hours: int, seed: int) -> None:
        self._names = [f"books/{number:03}" for number in range(logins)]
        self._hours = hours
        self._random = random.Random(seed)
        self.errors = 0
        self.refreshes = 0
        self.refused = 0
        self.growth = 0
        self.tasks = (0, 0)
        self.descriptors = (0, 0)
        self.reuses = 0

    async def run(self, folder: Path) -> None:
        clock = FakeClock()
        policy = RenewPolicy(due=120.0)  # about once an hour; by default it is every 45 minutes
        async with (
            PlainProvider(clock=clock) as provider,
            House(
                provider,
                path=folder / "t.db",
                clock=clock,
                policy=policy,
                jitter=lambda: self._random.uniform(-1, 1),
            ) as house,
            ticking(house),
        ):
            provider.token_size = SMALL_TOKEN
            for name in self._names:
                await house.login(name, expires_in=self._random.randint(1800, HOUR))
            resident = 0
            for hour in range(self._hours):
                await self._hour(house, provider)
                house.source.configure(house.accounts, house.policy)
                await house.idle()
                _forget_history(provider)
                if hour == 0:
                    resident, begun = _resident(), (len(asyncio.all_tasks()), _descriptors())
            self.growth = _resident() - resident
            self.tasks, self.descriptors = (begun[0], len(asyncio.all_tasks())), (begun[1], _descriptors())
            self.refreshes, self.reuses = provider.refreshes, provider.reuses

    async def _hour(self, house: House, provider: PlainProvider) -> None:
        refused = {minute: self._random.choice(self._names) for minute in self._random.sample(range(60), 2)}
        for minute in range(60):
            for name in self._names:
                await self._request(house, name)
            if minute in refused:
                await self._refusal(house, provider, refused[minute])
            for _ in range(6):
                await house.clock.advance(10)
                await house.idle()

    async def _request(self, house: House, name: str) -> None:
        tokens = await token_of(house, name)
        if tokens is None:
            self.errors += 1
        else:
            house.source.worked(name, tokens)

    async def _refusal(self, house: House, provider: PlainProvider, name: str) -> None:
        tokens = await token_of(house, name)
        if tokens is None:
            self.errors += 1
            return
        provider.revoke_access(tokens.access_token)
        self.refused += 1
        try:
            self.errors += isinstance(await house.source.renew(name, tokens, route=ROUTE), KeepAnswer)
        except AccountError:
            self.errors += 1


def _forget_history(provider: Provider) -> None:
    """What a simulator remembers for tests must not count as our memory."""
    provider.requests.clear()
    for grant in provider.grants:
        newest = grant.answers[-1]
        for token in [each for each in grant.access if each != newest["access_token"]]:
            del grant.access[token]
        del grant.answers[:-1]
        grant.spent.clear()
    provider._issued.clear()  # noqa: SLF001
    live = {grant.refresh_token for grant in provider.grants}
    for table, kept in (
        (provider._by_refresh, live),  # noqa: SLF001
        (provider._by_access, {token for grant in provider.grants for token in grant.access}),  # noqa: SLF001
    ):
        for token in [each for each in table if each not in kept]:
            del table[token]


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def day(folder: Path, *, logins: int = 100, hours: int = 24, seed: int = 1) -> Result:
    """R15."""
    story = Day(logins=logins, hours=hours, seed=seed)
    await story.run(folder)
    expected = logins * hours
    faults = []
    if abs(story.refreshes - expected) > expected / 20:
        faults.append(f"{story.refreshes} refreshes instead of {expected}")
    if story.errors or story.reuses:
        faults.append(f"{story.errors} errors, {story.reuses} reuses")
    if story.growth > GROWTH:
        faults.append(f"{story.growth / MIB:.1f} MiB more memory")
    if story.tasks[0] != story.tasks[1] or story.descriptors[0] != story.descriptors[1]:
        faults.append(f"tasks {story.tasks}, descriptors {story.descriptors}")
    figures = {
        "refreshes": story.refreshes,
        "401s": story.refused,
        "errors": story.errors,
        "memory after the first hour, MiB": round(story.growth / MIB, 1),
        "tasks more": story.tasks[1] - story.tasks[0],
        "descriptors more": story.descriptors[1] - story.descriptors[0],
    }
    return Result("R15", f"{hours} hours, {logins} logins, 1 h tokens, a reload an hour", figures, faults)


# -- R23 -------------------------------------------------------------------------------------------------------------


class Stepping(FakeClock):
    """A wall clock that somebody sets; the monotonic one goes on."""

    def __init__(self, start: datetime | None = None) -> None:
        super().__init__(*([start] if start is not None else []))
        self.off = timedelta()

    def now(self) -> datetime:
        return super().now() + self.off


STEPS: Final = {
    "an hour on": timedelta(hours=1),
    "an hour back": timedelta(hours=-1),
    "ten years back at the first boot, then right": timedelta(days=-3652),
    "ten years on at the first boot, then right": timedelta(days=3652),
}


async def clock_steps(*, logins: int = 20) -> list[Result]:
    """R23: the calls that a step costs, at most one for each login, and nobody goes without; also while a pause runs."""
    return [await _stepped(name, step, logins=logins) for name, step in STEPS.items()]


async def _stepped(name: str, step: timedelta, *, logins: int) -> Result:
    clock, faults = Stepping(), []
    names = [f"books/{number:02}" for number in range(logins)]
    boot = "boot" in name
    async with (
        AskaraProvider(clock=clock) as provider,
        House(provider, clock=clock, jitter=lambda: 0.0) as house,
        ticking(house),
    ):
        provider.jwt_life = None
        if boot:
            clock.off = step
        for each in names:
            await house.login(each, expires_in=HOUR)
        refused = await _requests(house, provider, names, 60)
        # A pause that began before the step must end after it when it would have.
        provider.outage = 503
        provider.revoke_access(house.held(names[0]).tokens.access_token)
        refused += await _requests(house, provider, names[:1], 10)
        provider.outage, before = None, provider.token_calls
        clock.off = timedelta() if boot else step
        paused = await _requests(house, provider, names[:1], 60)
        refused = await _requests(house, provider, names, 600)
        calls = provider.token_calls - before
    if calls > logins:
        faults.append(f"{calls} token calls for {logins} logins")
    if refused:
        faults.append(f"{refused} requests went without")
    if paused > 30:
        faults.append(f"a pause of at most 30 s took {paused} s")
    figures = {"logins": logins, "token calls": calls, "refused": refused, "longest pause, s": paused}
    return Result("R23", f"the clock is set: {name}", figures, faults)


async def _requests(house: House, provider: Provider, names: Sequence[str], seconds: int) -> int:
    """One a second for each login, as the data plane does it; how many had no live token."""
    without = 0
    for _ in range(seconds):
        for name in names:
            tokens = await token_of(house, name)
            if tokens is not None and not provider.live(tokens.access_token):
                try:
                    found = await house.source.renew(name, tokens, route=ROUTE)
                    tokens = None if isinstance(found, KeepAnswer) else found
                except AccountError:
                    tokens = None
            without += tokens is None
        await house.clock.advance(1)
        await house.idle()
    return without


async def store_of_the_future(folder: Path) -> Result:
    """R23, through the real ``serve``: its store was written ten years from now, in the middle of a pause."""
    faults = []
    key = folder / "tokenproxy.key"
    key.touch(mode=0o600)
    key.write_text(base64.b64encode(KEY).decode())
    clock = FakeClock(datetime.now(UTC) + timedelta(days=3652))
    async with AskaraProvider() as provider, Api(provider) as api, calling() as caller:
        provider.jwt_life = None
        async with House(provider, path=folder / "t.db", clock=clock) as house:
            first = await house.login()
            provider.outage = 503
            provider.revoke_access(first.access_token)
            with suppress(AccountError):
                await house.source.renew("books", first, route=ROUTE)
        provider.outage, before = None, provider.token_calls
        config = write_config(
            folder,
            provider,
            api,
            store=f"sqlite:{folder / 't.db'}",
            store_extra=f'key = "file:{key}"',
            extra='[log]\nformat = "json"\n',
        )
        async with serving(config) as serve:
            answered = Counter[int]()
            for _ in range(20):
                async with caller.get(f"{serve.url}/books/x") as answer:
                    answered[answer.status] += 1
        calls = provider.token_calls - before
    if calls != 1 or answered != {200: 20}:
        faults.append(f"{calls} token calls, answered {dict(answered)}")
    figures = {"requests": answered.total(), "token calls": calls}
    return Result("R23", "a start on a store that was written ten years from now", figures, faults)
