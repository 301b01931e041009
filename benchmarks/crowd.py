"""
Callers in numbers: slow ones, and more of them at once than a proxy takes.

A process of its own when strain starts it (``python -m benchmarks.crowd``), coroutines when a test does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Final

from benchmarks.parts import BEST_LOOP, new_loop

HALF_HEAD: Final = b"GET /bench/v2/items/1 HTTP/1.1\r\nHost: localhost\r\nX-Half: "
LONG_BODY: Final = b"POST /bench/v2/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
REQUEST: Final = b"GET /bench/v2/items/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(slots=True)
class Tally:
    """What became of the requests of a crowd."""

    served: int = 0
    refused: int = 0
    """503 with ``Retry-After``."""
    other: dict[str, int] = field(default_factory=dict)
    """Anything else, by what it was."""
    longest_ms: float = 0.0
    """Of those that were served."""

    def count(self, head: bytes, took: float) -> None:
        status = head[9:12].decode()
        if status == "200":
            self.served += 1
            self.longest_ms = max(self.longest_ms, took * 1000)
        elif status == "503" and b"\r\nretry-after: " in head.lower():
            self.refused += 1
        else:
            self.other[status] = self.other.get(status, 0) + 1


async def crowd(count: int, seconds: float, caller: Callable[[], Awaitable[None]]) -> None:
    """So many callers at once, each beginning anew when it ends, for so long."""

    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def again_and_again() -> None:
        while loop.time() < until:
            with contextlib.suppress(OSError, EOFError):
                await caller()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(again_and_again()) for _ in range(count)]
    try:
        await asyncio.sleep(seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5)


async def drip(port: int, first: bytes, pause: float) -> None:
    """Begins a request and then sends a byte of it now and then, until it is told to go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(first)
        told = asyncio.create_task(reader.read(1))
        while not told.done():
            writer.write(b"x")
            await asyncio.wait({told}, timeout=pause)
    finally:
        writer.transport.abort()


async def demand(port: int, tally: Tally) -> None:
    """One request after the other on a connection, without ever waiting longer than until the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            began = time.perf_counter()
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            tally.count(head, time.perf_counter() - began)
            if b"\r\nconnection: close" in head.lower():
                return
            if head[9:12] == b"503":
                await asyncio.sleep(0.01)
    finally:
        writer.transport.abort()


async def slow(port: int, count: int, seconds: float, pause: float = 0.5) -> None:
    """Half of them never end a head, half of them never end a body."""
    await asyncio.gather(
        crowd(count // 2, seconds, lambda: drip(port, HALF_HEAD, pause)),
        crowd(count // 2, seconds, lambda: drip(port, LONG_BODY, pause)),
    )


async def many(port: int, count: int, seconds: float) -> Tally:
    tally = Tally()
    await crowd(count, seconds, lambda: demand(port, tally))
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["slow", "many"])
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("seconds", type=float)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: new_loop(BEST_LOOP)) as runner:
        if args.kind == "slow":
            runner.run(slow(args.port, args.count, args.seconds))
        else:
            print(json.dumps(asdict(runner.run(many(args.port, args.count, args.seconds)))))


if __name__ == "__main__":
    main()
