"""An outgoing proxy as companies have one: tunnels for CONNECT, and plain requests in absolute-form sent on."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from types import TracebackType
from typing import Self

from tests.simulators.server import LOOPBACK

_PIECE = 64 * 1024
_REASONS = {403: b"Forbidden", 407: b"Proxy Authentication Required", 502: b"Bad Gateway"}


class OutgoingSimulator:
    """
    Whatever host it is asked for, it connects to ``port`` on loopback; ``asked`` has every head that it got.

    The knobs may be changed while it runs.
    """

    def __init__(self, port: int, *, login: str = "", tls: ssl.SSLContext | None = None) -> None:
        """``login``: ``name:password``, which it then wants."""
        self.port = 0
        self.asked: list[bytes] = []
        self.answer = b""
        """Said to whoever asks, in the place of a tunnel."""
        self.silent = False
        """Take what comes, and say nothing."""
        self.refuse = 0
        """The status of such an answer."""
        self._to = port
        self._login = b"Basic " + b64encode(login.encode()) if login else b""
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lines(self) -> list[bytes]:
        """First lines of what was asked."""
        return [head.split(b"\r\n")[0] for head in self.asked]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        if self.silent:
            await reader.read()
            return
        status = self.refuse
        if self._login and b"Proxy-Authorization: " + self._login not in head.split(b"\r\n"):
            status = 407
        if status or self.answer:
            said = b"HTTP/1.1 %d %s\r\nContent-Length: 0\r\n\r\n" % (status, _REASONS.get(status, b""))
            writer.write(self.answer or said)
            await writer.drain()
            await reader.read()
            return
        there, onward = await asyncio.open_connection(LOOPBACK, self._to)
        try:
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                onward.write(_origin_form(head))
            await asyncio.wait(
                [asyncio.ensure_future(_pass(reader, onward)), asyncio.ensure_future(_pass(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            onward.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()


def _origin_form(head: bytes) -> bytes:
    first, _, rest = head.partition(b"\r\n")
    method, target, version = first.split(b" ")
    path = b"/" + target.split(b"/", 3)[3]
    lines = [line for line in rest.split(b"\r\n") if not line.lower().startswith(b"proxy-")]
    return b"\r\n".join([b" ".join((method, path, version)), *lines])
