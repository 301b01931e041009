"""The load: ``wrk`` where it is installed, else kept-alive connections of our own that send one request at a time."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.parts import BEST_LOOP, new_loop

WRK: Final = re.compile(
    r"50%\s+([\d.]+)(us|ms|s).*?99%\s+([\d.]+)(us|ms|s).*?(\d+) requests in.*?Requests/sec:\s+([\d.]+)",
    re.DOTALL,
)
UNITS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}
BROWSER: Final = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
    b"Accept: application/json, text/plain, */*\r\nAccept-Language: en-US,en;q=0.9,de;q=0.8\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nX-Requested-With: XMLHttpRequest\r\nCache-Control: no-cache\r\n"
    b"Referer: http://localhost/app/items/%d\r\nCookie: session=%d; theme=dark\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What callers send."""

    connections: int = 32
    fields: int = 0
    """0: Host only; 8: as a browser."""
    body: int = 0
    """Bytes; then it is a POST."""
    same: bool = False
    """The same request over and over, else each has another path and other ids."""
    own: bool = not shutil.which("wrk")
    """By the generator of our own."""


@dataclass(frozen=True, slots=True)
class Found:
    count: int
    per_second: float
    p50_ms: float
    p99_ms: float


def send(load: Load, port: int, seconds: float) -> Found:
    return (by_own if load.own else by_wrk)(load, port, seconds)


def by_wrk(load: Load, port: int, seconds: float) -> Found:
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    command += ["-s", str(Path(__file__).with_name("wrk.lua")), f"http://127.0.0.1:{port}/", "--"]
    command += [str(load.fields), str(load.body), "same" if load.same else "vary"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = WRK.search(said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk saw errors:\n{said}")
    p50, unit50, p99, unit99, count, rate = found.groups()
    return Found(int(count), float(rate), float(p50) * UNITS[unit50], float(p99) * UNITS[unit99])


def by_own(load: Load, port: int, seconds: float) -> Found:
    words = ["--port", str(port), "--seconds", str(seconds), "--connections", str(load.connections)]
    words += ["--fields", str(load.fields), "--body", str(load.body), *(["--same"] if load.same else [])]
    command = [sys.executable, "-m", "benchmarks.load", *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        raise SystemExit(f"the load generator failed: {said.stderr}")
    return Found(**json.loads(said.stdout))


def requests(load: Load) -> Iterator[bytes]:
    """As wrk.lua makes them."""
    number = int(time.time()) % 10_000 * 1000
    method = b"POST" if load.body else b"GET"
    tail = (
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (load.body, b"x" * load.body)
        if load.body
        else b"\r\n"
    )
    while True:
        number += not load.same
        fields = BROWSER % (number, number * 104729) if load.fields else b""
        yield b"%b /bench/v2/items/%d?page=%d&trace=%d HTTP/1.1\r\nHost: localhost\r\n%b%b" % (
            method,
            number,
            number % 97,
            number * 7919,
            fields,
            tail,
        )


class Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], tally: list[float]) -> None:
        self.requests = requests
        self.tally = tally
        self.size = 0
        self.got = 0
        self.sent = 0.0
        self.running = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.send()

    def send(self) -> None:
        self.got = 0
        self.sent = time.perf_counter()
        self.transport.write(next(self.requests))

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

    def connection_lost(self, _: Exception | None) -> None:
        if self.running:
            raise SystemExit("a connection was closed in the middle")


async def run(load: Load, port: int, seconds: float) -> Found:
    tally: list[float] = []
    made = requests(load)
    loop = asyncio.get_running_loop()
    connections = []
    began = time.perf_counter()
    for _ in range(load.connections):
        _, connection = await loop.create_connection(lambda: Connection(made, tally), "127.0.0.1", port)
        connections.append(connection)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    found = sorted(tally)
    for connection in connections:
        connection.running = False
        connection.transport.abort()
    return Found(
        count=len(found),
        per_second=len(found) / took,
        p50_ms=found[len(found) // 2] * 1000,
        p99_ms=found[len(found) * 99 // 100] * 1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--fields", type=int, default=0)
    parser.add_argument("--body", type=int, default=0)
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    load = Load(connections=args.connections, fields=args.fields, body=args.body, same=args.same)
    with asyncio.Runner(loop_factory=lambda: new_loop(BEST_LOOP)) as runner:
        print(json.dumps(asdict(runner.run(run(load, args.port, args.seconds)))))


if __name__ == "__main__":
    main()
