"""A load generator where ``wrk`` is not installed: kept-alive connections, one request at a time on each."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from typing import Any

from benchmarks.parts import BEST_LOOP, new_loop


class Connection(asyncio.Protocol):
    def __init__(self, request: bytes, tally: list[float]) -> None:
        self.request = request
        self.tally = tally
        self.size = 0
        self.got = 0
        self.sent = 0.0
        self.errors = 0
        self.running = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.send()

    def send(self) -> None:
        self.got = 0
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.size:  # every answer is like the first one
            head, _, body = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit("the answer is not 200: " + head.decode("latin-1"))
            lower = head.lower()
            length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
            self.size = len(data) - len(body) + length
        self.got += len(data)
        if self.got >= self.size:
            self.tally.append(time.perf_counter() - self.sent)
            if self.running:
                self.send()


async def run(args: argparse.Namespace) -> dict[str, float]:
    fields = b"".join(b"X-Field-%d: some value of a browser\r\n" % n for n in range(args.fields))
    request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (args.path.encode(), fields)
    tally: list[float] = []
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(args.connections):
        _, connection = await loop.create_connection(
            lambda: Connection(request, tally), "127.0.0.1", args.port
        )
        connections.append(connection)
    await asyncio.sleep(args.warmup)
    warmed = len(tally)
    tally.clear()
    began = time.perf_counter()
    await asyncio.sleep(args.seconds)
    took = time.perf_counter() - began
    found = sorted(tally)
    for connection in connections:
        connection.running = False
        connection.transport.abort()
    return {
        "count": warmed + len(found),
        "per_second": len(found) / took,
        "p50_ms": found[len(found) // 2] * 1000,
        "p99_ms": found[len(found) * 99 // 100] * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/bench/items")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--fields", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--core", type=int, default=None)
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    with asyncio.Runner(loop_factory=lambda: new_loop(BEST_LOOP)) as runner:
        print(json.dumps(runner.run(run(args))))


if __name__ == "__main__":
    main()
