"""
What 100,000 accounts cost: ``python -m benchmarks.accounts``.

Makes a SQLite store with so many logins (access tokens of 1.2 kB), starts the real ``serve`` on it and on one with a single
login, and asks both in turns, each request for one login by
``account = "crm/{header:x-user}"``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from benchmarks.footprint import ready
from benchmarks.parts import Answering
from benchmarks.running import free_port
from tokenproxy import stores
from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.provider import Account, ClientAuth, Provider, Registration
from tokenproxy.core.tokens import TokenSet

TOKEN_BYTES: Final = 1200
CONFIG: Final = """
[server]
listen = "127.0.0.1:{proxy}"
[admin]
listen = "127.0.0.1:{admin}"
[store]
url = "sqlite:store.db"
key = "file:store.key"
cache = "{cache}"
[providers.bench]
token_url = "http://127.0.0.1:9/token"
client_auth = "none"
refresh_idle = "60 d"
[accounts.crm]
provider = "bench"
client_id = "bench"
[routes.crm]
upstream = "http://127.0.0.1:{upstream}"
account = "crm/{{header:x-user}}"
trust_account_header = true
"""


def user(number: int) -> str:
    return f"user{number:06}@example.com"


async def make(folder: Path, count: int) -> None:
    """A store as so many logins would have left it, in a few seconds instead of one sync for each."""
    stores.create_key_file(folder / "store.key")
    keys = stores.read_key_file(folder / "store.key")
    bench = Provider(name="bench", token_url="http://127.0.0.1:9/token", client_auth=ClientAuth.NONE)
    spec = Account(name="crm", provider=bench, registration=Registration(client_id="bench"))
    store: Any = await stores.open_store(f"sqlite:{folder / 'store.db'}", keys)
    await store._engine.run("open", "PRAGMA synchronous=OFF")  # noqa: SLF001 - a sync for each takes minutes
    now = datetime.now(UTC)
    standing = Standing(State.OK, Reason.NONE, now)
    for start in range(0, count, 500):
        await asyncio.gather(
            *(
                store.adopt(
                    f"crm/{user(number)}",
                    TokenSet(
                        access_token=secrets.token_urlsafe(TOKEN_BYTES)[:TOKEN_BYTES],
                        refresh_token=secrets.token_urlsafe(48),
                        issued_at=now,
                        expires_at=now + timedelta(days=1),
                    ),
                    bound_to=spec.bound_to,
                    standing=standing,
                    now=now,
                )
                for number in range(start, min(start + 500, count))
            )
        )
    await store.close()


def pin(process: int, core: int) -> None:
    """
    A process to one of two cores: the two ``serve`` to the first, which only one of them uses at a time, and who asks
    them to the second. Else the system puts one of them beside who asks, and that is what is measured.
    """
    cores = sorted(os.sched_getaffinity(os.getppid()))
    if len(cores) > 1:
        os.sched_setaffinity(process, {cores[core]})


class Served:
    """A running ``serve``."""

    def __init__(self, folder: Path, upstream: int, cache: str) -> None:
        self.proxy, self.admin = free_port(), free_port()
        config = folder / "config.toml"
        text = CONFIG.format(proxy=self.proxy, admin=self.admin, upstream=upstream, cache=cache)
        config.write_text(text)
        began = time.perf_counter()
        words = [sys.executable, "-m", "tokenproxy", "serve", "--config", str(config)]
        self._process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        pin(self._process.pid, 0)
        while not ready(self.admin):
            if self._process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit("serve did not become ready")
            time.sleep(0.005)
        self.started = time.perf_counter() - began

    @property
    def resident(self) -> float:
        """MB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class Caller:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, number: int) -> float:
        """Seconds until the whole answer is there."""
        began = time.perf_counter()
        request = f"GET /crm/x HTTP/1.1\r\nHost: localhost\r\nX-User: {user(number)}\r\n\r\n"
        self._writer.write(request.encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:16]:
            raise SystemExit("the answer is not 200: " + head.decode("latin-1"))
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)
        return time.perf_counter() - began


def zipf(count: int) -> Callable[[], int]:
    """Some are asked for all the time and most hardly ever, as users are: the n-th with a weight of 1/n."""
    shuffled = random.sample(range(count), count)
    weights = [1 / (number + 1) for number in range(count)]
    drawn = iter(random.choices(shuffled, weights=weights, k=2_000_000))
    return lambda: next(drawn)


async def paired(one: Served, many: Served, pick: Callable[[], int], rounds: int) -> tuple[float, float]:
    """Median latencies in microseconds, the two asked in turns so that a noisy moment hits both."""
    first, second = await Caller.to(one.proxy), await Caller.to(many.proxy)
    alone, among = [], []
    for _ in range(rounds):
        alone.append(await first.ask(0))
        among.append(await second.ask(pick()))
    return statistics.median(alone) * 1e6, statistics.median(among) * 1e6


async def traffic(served: Served, pick: Iterator[int]) -> float:
    """Requests per second over 32 connections until ``pick`` has no more."""
    began, done = time.perf_counter(), 0

    async def ask() -> None:
        nonlocal done
        caller = await Caller.to(served.proxy)
        for number in pick:
            await caller.ask(number)
            done += 1

    await asyncio.gather(*(ask() for _ in range(32)))
    return done / (time.perf_counter() - began)


async def longest_stall(served: Served) -> tuple[float, float]:
    """Seconds for the whole of ``GET /api/accounts``; the longest request (ms) that went through the proxy meanwhile."""

    def read() -> float:
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{served.admin}/api/accounts") as answer:
            while answer.read(1 << 20):
                pass
        return time.perf_counter() - began

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    caller, worst = await Caller.to(served.proxy), 0.0
    while not reading.done():
        worst = max(worst, await caller.ask(0))
        await asyncio.sleep(0.002)
    return await reading, worst * 1000


@contextmanager
def served(folder: Path, upstream: int, cache: str) -> Iterator[Served]:
    running = Served(folder, upstream, cache)
    try:
        yield running
    finally:
        running.close()


async def measure(count: int, rounds: int, cache: str) -> dict[str, float]:
    pin(0, 1)
    upstream = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
    port = upstream.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as top:
        alone, crowd = Path(top, "one"), Path(top, "many")
        for folder, logins in ((alone, 1), (crowd, count)):
            folder.mkdir()
            await make(folder, logins)
        with served(alone, port, cache) as one, served(crowd, port, cache) as many:
            found = {"start, one login, s": one.started, f"start, {count:,} logins, s": many.started}
            found["resident after start, MB"] = many.resident
            pick = zipf(count)
            found["requests/s while every login is asked for once"] = await traffic(many, iter(range(count)))
            found["resident after all of them, MB"] = many.resident
            crowds: list[tuple[str, Callable[[], int]]] = [
                ("a thousand in use", lambda: random.randrange(min(1000, count))),
                ("as users are (1/n)", pick),
                ("evenly over all", lambda: random.randrange(count)),
            ]
            for name, choose in crowds:
                await traffic(many, (choose() for _ in range(rounds * 4)))
                one_us, many_us = await paired(one, many, choose, rounds)
                found[f"p50 of one login, us; paired with {name}"] = one_us
                found[f"p50 {name}, us"] = many_us
                found[f"ratio, {name}"] = many_us / one_us
            (
                found["all of /api/accounts, s"],
                found["longest request meanwhile, ms"],
            ) = await longest_stall(many)
            found["resident at the end, MB"] = many.resident
    upstream.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5000, help="pairs of requests (default 5000)")
    parser.add_argument("--cache", default="176 MiB", help="store.cache (default: its default)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = asyncio.run(measure(chosen.accounts, chosen.rounds, chosen.cache))
    if chosen.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:62}{value:12.3f}")


if __name__ == "__main__":
    main()
