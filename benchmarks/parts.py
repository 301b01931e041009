"""The processes of a benchmark, each started alone: ``python -m benchmarks.parts NAME``; prints its port when ready."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

from tokenproxy import app, config, log

TOKEN: Final = "benchmark-token"
BODY: Final = (
    json.dumps({"items": [{"id": n, "name": "x" * 20} for n in range(20)]}).encode().ljust(908)[:908]
)
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Server: benchmark\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)
HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)


BEST_LOOP: Final = "uvloop" if find_spec("uvloop") else "asyncio"


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


class Answering(asyncio.Protocol):
    """An upstream that costs next to nothing: counts blank lines and answers each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))


async def upstream(_: argparse.Namespace) -> int:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def plain(args: argparse.Namespace) -> int:
    """What a Python program does with aiohttp alone, done well: streams, one session, no limits, no cookies."""
    session = ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        timeout=ClientTimeout(total=None),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )
    target = args.target

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        headers.append(("Authorization", f"Bearer {TOKEN}"))
        body = request.content if request.body_exists else None
        async with session.request(
            request.method, target + request.raw_path[6:], headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
            out = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in kept:
                out.headers.add(name, value)
            await out.prepare(request)
            async for piece in answer.content.iter_any():
                await out.write(piece)
            await out.write_eof()
            return out

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    port: int = runner.addresses[0][1]
    return port


CLOSERS: Final[list[Callable[[], Coroutine[Any, Any, None]]]] = []
CONFIG: Final = """
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[providers.bench]
token_url = "http://127.0.0.1:9/token"
client_auth = "none"
[accounts.bench]
provider = "bench"
client_id = "bench"
[routes.bench]
upstream = "{target}"
account = "bench"
"""


async def tokenproxy(args: argparse.Namespace) -> int:
    """The whole product as ``serve`` runs it: store, renewal, scheduler, metrics, deadlines, admin listener."""
    folder = Path(tempfile.mkdtemp(prefix="tokenproxy-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "config.toml"
    path.write_text(CONFIG.format(target=args.target))
    running = await app.start(config.load(path, {}), environ={})
    await running.accounts.import_answer("bench", json.dumps({"access_token": TOKEN}).encode())
    CLOSERS.append(running.close)
    return int(running.addresses["proxy"].rpartition(":")[2])


PARTS: Final[dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, int]]]] = {
    "upstream": upstream,
    "plain": plain,
    "tokenproxy": tokenproxy,
}


async def until_told() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    for close in CLOSERS:
        await close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--loop", default=BEST_LOOP, choices=["uvloop", "asyncio"])
    parser.add_argument("--target", default="")
    args = parser.parse_args()
    log.setup("error")
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 65536), hard), hard))
    with asyncio.Runner(loop_factory=lambda: new_loop(args.loop)) as runner:
        port = runner.run(PARTS[args.part](args))
        print(port, flush=True)
        runner.run(until_told())


if __name__ == "__main__":
    main()
