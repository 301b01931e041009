"""A plane on real sockets between a caller that writes a case and an upstream that h11 reads for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self, cast

import h11

from tests.fuzz import reading
from tests.fuzz.grammar import Case
from tests.fuzz.judge import judge_answers, judge_requests
from tests.fuzz.reading import Message
from tests.proxy.actors import PATIENCE, Source, WallClock, route_to
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import Deadlines
from tokenproxy.metrics import Metrics
from tokenproxy.oauth.signer import Prover
from tokenproxy.proxy import Plane, PlaneSettings

LAST = b"GET /books/last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Behind each case: it is answered last, or a part of what came before."""
FIRSTS = {
    method: method + b" /books/first HTTP/1.1\r\nHost: localhost\r\n" + more
    for method, more in {
        b"GET": b"\r\n",
        b"HEAD": b"\r\n",
        b"POST": b"Content-Length: 3\r\n\r\nabc",
    }.items()
}


class Upstream:
    """Answers each request with its number; ``script``, for those to ``/first``, is what an upstream said."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.faults: list[str] = []
        self.script: tuple[bytes, ...] | None = None
        self.closes = False
        self.good = 0
        """Requests that came whole, in all cases."""
        self.lines: set[UpstreamLine] = set()

    def clear(self, case: Case) -> None:
        self.seen.clear()
        self.faults.clear()
        self.script = case.pieces if case.method else None
        self.closes = case.closes


class UpstreamLine(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=reading.MOST)
        self.raw = b""
        self.now: Message | None = None
        self.telling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.upstream.lines.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.lines.discard(self)
        if self.telling is not None:
            self.telling.cancel()

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self.connection.receive_data(data)
        try:
            while self._next():
                pass
        except h11.RemoteProtocolError as error:
            self.upstream.faults.append(f"h11 at the upstream: {error}; it got {self.raw!r}")
            self.transport.abort()

    def _next(self) -> bool:
        if self.connection.they_are_waiting_for_100_continue:
            more = self.connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.transport.write(more or b"")
        event = self.connection.next_event()
        if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            return False
        if event is h11.PAUSED:
            raise h11.RemoteProtocolError("two requests at once, or another protocol")
        if isinstance(event, h11.Request):
            self.now = reading.message(event)
            self.upstream.seen.append(self.now)
            if not self.raw.startswith(self.now.head):
                self.upstream.faults.append(f"A head that is written oddly: {self.raw!r}")
            return True
        assert self.now is not None
        self.now.take(event)
        if self.now.whole:
            self.raw = b""
            self._answer(self.now)
        return True

    def _answer(self, request: Message) -> None:
        upstream = self.upstream
        upstream.good += 1
        number = b"%d" % (len(upstream.seen) - 1)
        told = reading.answered(self.connection, request, b"answer " + number, number=number)
        if upstream.script is not None and request.start[1] == b"/first":
            self.telling = asyncio.get_running_loop().create_task(self._tell(upstream.script))
        else:
            self.transport.write(told)

    async def _tell(self, pieces: tuple[bytes, ...]) -> None:
        for piece in pieces:
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            await _breath()
        if self.upstream.closes:
            self.transport.close()


class Arena:
    """Open once, for any number of cases; connections to the upstream live on from one to the next."""

    def __init__(self) -> None:
        self.upstream = Upstream()
        self.address = ("", 0)
        self.cases = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: UpstreamLine(self.upstream), "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self._planes = {}
        for first_byte in (PATIENCE, 0.1):
            clock = WallClock()
            deadlines = Deadlines(
                head=0.05,
                body_idle=0.05,
                first_byte=first_byte,
                upstream_idle=first_byte,
                keep_alive=PATIENCE,
            )
            settings = PlaneSettings(routes=RouteTable.of([route_to(port)]), deadlines=deadlines)
            plane = Plane(settings, source=Source(), prover=Prover(clock), clock=clock, metrics=Metrics())
            host, _, at = (await plane.listen("127.0.0.1:0")).rpartition(":")
            self._planes[first_byte] = plane, (host, int(at))
        return self

    async def __aexit__(self, *_: object) -> None:
        for plane, _ in self._planes.values():
            await plane.close(drain=0)
        self._server.close()
        for line in list(self.upstream.lines):
            line.transport.abort()
        await asyncio.sleep(0)

    async def run(self, case: Case) -> None:
        """Raises ``Disagreement``."""
        self.cases += 1
        self.upstream.clear(case)
        if case.method:
            got = await self._ask(0.1, (FIRSTS[case.method] + LAST,))
            judge_answers(case, got, self.upstream.faults)
        else:
            got = await self._ask(PATIENCE, (*case.pieces, LAST))
            judge_requests(b"".join(case.pieces) + LAST, self.upstream.seen, got, self.upstream.faults)

    async def _ask(self, plane: float, pieces: tuple[bytes, ...]) -> bytes:
        """Everything that comes back for some bytes until the proxy closes."""
        reader, writer = await asyncio.open_connection(*self._planes[plane][1])
        got = b""
        try:
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionError):
                    for piece in pieces:
                        if writer.is_closing():
                            break
                        writer.write(piece)
                        await _breath()
                with contextlib.suppress(ConnectionError):
                    while piece := await reader.read(1 << 16):
                        got += piece
        finally:
            writer.transport.abort()
        return got


async def _breath() -> None:
    """Long enough that the next piece is a segment of its own, nearly always."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
