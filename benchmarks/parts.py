"""
Programs of ours that a benchmark starts: ``python -m benchmarks.parts NAME PORT ...``.

``upstream`` answers with a body of a given size once it has the whole request, or after a while (``--wait``), or
streams it (a size beyond a MiB). ``plain`` is the proxy that everybody writes first with aiohttp.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

TOKEN: Final = "benchmark-token"
BEST_LOOP: Final = "uvloop" if find_spec("uvloop") else "asyncio"
HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)
PIECE: Final = bytes(256 * 1024)


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


def answer(size: int) -> bytes:
    """A whole answer as an API gives it, with so large a body."""
    items = json.dumps({"items": [{"id": n, "name": "x" * 20} for n in range(size // 38 + 1)]}).encode()
    return answer_head(size) + items.ljust(size)[:size]


def answer_head(size: int) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
        b"Server: benchmark\r\nContent-Length: %d\r\n\r\n" % size
    )


class Answering(asyncio.Protocol):
    """An upstream that costs next to nothing: counts blank lines and answers each."""

    ready = answer(908)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.ready * data.count(b"\r\n\r\n"))


class Reading(Answering):
    """Answers a request with a body when all of it has come; one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.head = self.last = b""
        self.missing = 0
        """Bytes of the body; below zero until the last chunk has come."""

    def data_received(self, data: bytes) -> None:
        if not self.missing:
            self.head += data
            head, blank, data = self.head.partition(b"\r\n\r\n")
            if not blank:
                return
            self.head = b""
            self.missing = self.length(head.lower())
        if self.missing < 0:
            self.last = (self.last + data)[-5:]
            self.missing = 0 if self.last == b"0\r\n\r\n" else -1
        else:
            self.missing -= len(data)
        if not self.missing:
            self.reply()

    @staticmethod
    def length(head: bytes) -> int:
        if b"\r\ntransfer-encoding: chunked" in head:
            return -1
        return int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)

    def reply(self) -> None:
        self.transport.write(self.ready)


class Streaming(Reading):
    """Streams its answer as fast as it is taken; reads requests of any size."""

    size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.going = asyncio.Event()
        self.going.set()

    def pause_writing(self) -> None:
        self.going.clear()

    def resume_writing(self) -> None:
        self.going.set()

    def length(self, head: bytes) -> int:  # type: ignore[override]
        self.streams = head.startswith(b"get ")
        return super().length(head)

    def reply(self) -> None:
        if not self.streams:
            self.transport.write(Answering.ready)
            return
        self.task = asyncio.create_task(self.stream())

    async def stream(self) -> None:
        self.transport.write(answer_head(self.size))
        for _ in range(self.size // len(PIECE)):
            await self.going.wait()
            self.transport.write(PIECE)


class Slow(Reading):
    """Takes a while for each answer."""

    wait = 0.0

    def reply(self) -> None:
        asyncio.get_running_loop().call_later(self.wait, self.transport.write, self.ready)


async def upstream(args: argparse.Namespace) -> None:
    kind: type[Answering] = Reading if args.reading else Answering
    if args.wait:
        Slow.wait = args.wait
        kind = Slow
    if args.size > 2**20:
        Streaming.size = args.size
        kind = Streaming
    else:
        kind.ready = answer(args.size)
    await asyncio.get_running_loop().create_server(kind, "127.0.0.1", args.port, backlog=4096)


async def plain(args: argparse.Namespace) -> None:
    """What a Python program does with aiohttp alone, done well: streams, one session, no limits, no cookies."""
    tls = ssl.create_default_context(cafile=args.ca) if args.ca else True
    session = ClientSession(
        connector=TCPConnector(limit=0, ssl=tls),
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
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", args.port, backlog=4096).start()


PARTS: Final[dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, None]]]] = {
    "upstream": upstream,
    "plain": plain,
}


async def until_told(part: Coroutine[Any, Any, None]) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await part
    await told.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("port", type=int)
    parser.add_argument("--loop", default=BEST_LOOP, choices=["uvloop", "asyncio"])
    parser.add_argument("--size", type=int, default=908, help="upstream: of the answer's body, bytes")
    parser.add_argument("--reading", action="store_true", help="upstream: requests have bodies")
    parser.add_argument("--wait", type=float, default=0.0, help="upstream: seconds before each answer")
    parser.add_argument("--target", default="", help="plain: the upstream's address")
    parser.add_argument("--ca", default="", help="plain: whom to trust, a file")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: new_loop(args.loop)) as runner:
        runner.run(until_told(PARTS[args.part](args)))


if __name__ == "__main__":
    main()
