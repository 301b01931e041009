"""What the caller's and the upstream's protocol share: flow control in both directions, and one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from math import inf
from typing import Final, cast

WRITE_HIGH: Final = 64 * 1024
"""Bytes waiting in a transport before the writer must wait; asyncio's TLS transports would take 512 KiB."""


_PROBES: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""Seconds of silence, seconds between two probes, and how many go unanswered."""


class Side(asyncio.Protocol):
    """
    One connection.

    ``deadline`` and ``stuck_at`` are times on the clock's monotonic line; one sweep over all sides calls ``expired``
    or ``stuck`` when they have passed. Setting a float costs nothing, a timer per request costs 2 us.
    """

    __slots__ = (
        "connected",
        "deadline",
        "loop",
        "reading_paused",
        "stuck_at",
        "transport",
        "writable",
        "writing_paused",
    )

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.deadline = inf
        """When we give up waiting for what the peer should send."""
        self.stuck_at = inf
        """When we give up waiting for the peer to take what we wrote."""
        self.connected = False
        """Stays true until a waiting payload has got its exception: StreamReader asks for it before it waits."""
        self.reading_paused = False
        self.writing_paused = False
        self.writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.connected = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.connected = False
        self.deadline = self.stuck_at = inf
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)

    def expired(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def stuck(self) -> None:
        """The peer does not read."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        if self.deadline <= now:
            self.deadline = inf
            self.expired()
        if self.stuck_at <= now:
            self.stuck_at = inf
            self.stuck()

    # StreamReader calls these two, the second one on every read: they must be cheap and may come twice.

    def pause_reading(self) -> None:
        if not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - aiohttp's signature
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)

    async def drain(self, deadline: float) -> None:
        """Wait until the peer has taken enough of what was written; raises ``ConnectionError`` when it is gone."""
        if self.writing_paused and self.connected:
            self.writable = self.loop.create_future()
            self.stuck_at = deadline
            try:
                await self.writable
            finally:
                self.writable = None
                self.stuck_at = inf
        if not self.connected:
            raise ConnectionResetError("The peer is gone.")

    def watch(self) -> None:
        """
        Have the kernel ask whether the peer is still there, for connections that may be silent for long: one that lost
        its power never says so, and is found out within two minutes.
        """
        held = self.transport.get_extra_info("socket")
        if held is None or held.family == socket.AF_UNIX:
            return
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _PROBES:
                if hasattr(socket, name):
                    held.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def abort(self) -> None:
        """Drop the connection at once."""
        with contextlib.suppress(AttributeError):  # Python 3.11's TLS transport, once it was closed twice
            self.transport.abort()

    def reset(self) -> None:
        """Drop the connection so that the peer sees a reset: where a close would be the proper end of a body."""
        closing = (
            self.transport.is_closing()
        )  # a TLS transport that was closed twice knows its socket no more
        held = None if closing else self.transport.get_extra_info("socket")
        if held is not None and held.fileno() >= 0:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
