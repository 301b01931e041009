"""A wire between two actors that cuts, delays and swallows on command."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from tests.simulators.server import LOOPBACK, Changes

_PIECE = 64 * 1024


class TcpProxy:
    """
    Passes bytes on between its own loopback port and ``port``, whatever they mean.

    The knobs may be changed while connections are open.
    """

    def __init__(self, port: int, *, host: str = LOOPBACK) -> None:
        self.port = 0
        self.changes = Changes()

        self.delay = 0.0
        """Seconds that each piece waits, in both directions."""
        self.black_hole = False
        """Take everything and pass nothing on: a firewall that drops."""
        self.cut_answers = 0
        """So many connections are cut when the first byte of an answer comes: the request was served, nobody hears."""
        self.cut_after_up: int | None = None
        """Cut a connection once that many bytes of it went up."""

        self.connections = 0
        """Accepted so far."""
        self.bytes_up = 0
        self.bytes_down = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def authority(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._open)
        self.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every open connection, on both sides."""
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()

    async def connected(self, count: int = 1) -> None:
        """Wait until at least ``count`` connections in all were accepted."""
        await self.changes.until(lambda: self.connections >= count, what=f"{count} connection(s)")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = [writer]
        self.connections += 1
        self.changes.happened()
        try:
            there, onward = await asyncio.open_connection(*self._target)
            self._open[task].append(onward)
            await asyncio.gather(self._up(reader, onward), self._down(there, writer))
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, so the other goes; or the test is over (3.11's streams log a cancelled handler)
        finally:
            for open_writer in self._open.pop(task):
                open_writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        while piece := await reader.read(_PIECE):
            if self.cut_after_up is not None:
                piece = piece[: max(0, self.cut_after_up - sent)]
            sent += len(piece)
            self.bytes_up += len(piece)
            await self._pass(piece, writer)
            if self.cut_after_up is not None and sent >= self.cut_after_up:
                raise ConnectionResetError
        self._half_close(writer)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if self.cut_answers > 0:
                self.cut_answers -= 1
                raise ConnectionResetError
            self.bytes_down += len(piece)
            await self._pass(piece, writer)
        self._half_close(writer)

    async def _pass(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        if not self.black_hole:
            writer.write(piece)
            await writer.drain()
        self.changes.happened()

    def _half_close(self, writer: asyncio.StreamWriter) -> None:
        if not self.black_hole and writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()
