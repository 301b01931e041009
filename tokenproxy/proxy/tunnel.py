"""Connections that stop being HTTP: after an upgrade, or a CONNECT, bytes go both ways as they come."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

from tokenproxy.proxy.plain import Message
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.side import Side

if TYPE_CHECKING:
    from tokenproxy.proxy.caller import CallerSide
    from tokenproxy.proxy.draft import Draft
    from tokenproxy.proxy.lane import Lane
    from tokenproxy.proxy.plane import Plane

WEBSOCKET: Final = b"websocket"
ESTABLISHED: Final = b"HTTP/1.1 200 OK\r\n"
"""To a CONNECT, with Date and nothing else: a length or a coding has no meaning there (RFC 9110 section 9.3.6)."""


class Handshake:
    """A request that asks for another protocol (RFC 9110 section 7.8), and that its route lets through."""

    __slots__ = ("draft", "protocol")

    def __init__(self, protocol: bytes, draft: Draft | None) -> None:
        self.protocol = protocol
        """As the caller wrote it: the one of those it offers that goes upstream."""
        self.draft = draft
        """What the head is to be made of, where it was not made at the gate."""

    @property
    def lines(self) -> bytes:
        return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % self.protocol


class Connect:
    """A CONNECT that its route lets through: no head goes upstream, and no token."""

    __slots__ = ()


def offered(message: Message, allowed: frozenset[bytes]) -> tuple[bytes, bool]:
    """
    The first protocol of a request's ``Upgrade`` that is allowed, as it is written there, else empty; and whether
    WebSocket is among those that are offered.
    """
    values = [value for name, value in message.raw_headers if name.lower() == b"upgrade"]
    names = [name.strip(b" \t") for value in values for name in value.split(b",")]
    found = next((name for name in names if name.lower() in allowed), b"")
    return found, any(name.lower() == WEBSOCKET for name in names)


class Fresh(Side):
    """A connection that was opened for a tunnel, until the tunnel stands: what comes first is kept."""

    __slots__ = ("early", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.early = b""
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.early += data
        self.pause_reading()

    def eof_received(self) -> bool:
        self.ended = True
        return True


class End(Side):
    """One of a tunnel's two connections: what it receives, the other one sends; what the other cannot send, waits here."""

    __slots__ = ("breaking", "closed", "ended", "other", "tunnel")

    other: End

    def __init__(self, tunnel: Tunnel, side: Side, *, ended: bool = False) -> None:
        """Takes over the connection of ``side``, which hears nothing of it any more."""
        super().__init__(side.loop)
        self.tunnel = tunnel
        self.transport = side.transport
        self.connected = side.connected
        self.reading_paused = side.reading_paused
        self.writing_paused = side.writing_paused
        self.ended = ended
        """The peer has said that nothing more comes."""
        self.closed = False
        """We have closed it."""
        self.breaking = False
        """To be reset as soon as what is still to be sent has gone."""
        self.transport.set_protocol(self)
        self.watch()

    def data_received(self, data: bytes) -> None:
        self.tunnel.count(self, data)
        self.other.send(data)

    def send(self, data: bytes) -> None:
        if self.connected and not self.transport.is_closing():
            self.transport.write(data)

    def eof_received(self) -> bool:
        """
        Passed on as what it is, behind what is still to be sent, so that the other direction can end in its own time;
        TLS knows no half that is closed, and there it ends both.
        """
        self.ended = True
        if self.cut_short:
            return False  # ``lost`` follows
        other = self.other
        halves = self.transport.can_write_eof() and other.transport.can_write_eof()
        self.tunnel.ending()
        if other.ended or not halves or not other.connected:
            other.finish()
            return False
        if not other.transport.is_closing():
            other.transport.write_eof()
        return True

    @property
    def cut_short(self) -> bool:
        """
        That it ended and the peer has not said so: over TLS, whoever can cut the line can also send a FIN, and only the
        closure alert tells that nothing is missing (RFC 8446 section 6.1).
        """
        return not self.closed and not self.transport.get_extra_info("goodbye", True)

    def finish(self) -> None:
        """Close behind what is still to be sent."""
        self.closed = True
        if self.connected:
            self.transport.close()

    def break_off(self) -> None:
        """Reset behind what is still to be sent: what came before a cut is given, and nobody takes it for all."""
        if not self.connected or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():
            self.breaking = True
            self.transport.set_write_buffer_limits(high=0)
        else:
            self.loop.call_soon(self._broken)  # TLS does not tell of all that waits, and uvloop writes last

    def _broken(self) -> None:
        if self.connected:
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.tunnel.lost(self, exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.other.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.breaking:
            self.loop.call_soon(self._broken)  # a transport that has just written is not ready for it
        else:
            self.other.resume_reading()

    def pause_reading(self) -> None:
        if self._reads:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - aiohttp's signature
        if self._reads:
            super().resume_reading()

    @property
    def _reads(self) -> bool:
        return self.connected and not self.ended and not self.transport.is_closing()


class Tunnel:
    """
    A caller's connection and an upstream's, tied together until one of them ends.

    No task lives in it. Its sweep cuts it when nothing has moved for ``deadlines.tunnel``.
    """

    __slots__ = (
        "_caller",
        "_deadline",
        "_idle",
        "_lane",
        "_moved",
        "_plane",
        "_waiting",
        "down",
        "over",
        "up",
    )

    def __init__(self, plane: Plane, lane: Lane, caller: CallerSide, upstream: Side) -> None:
        self._plane = plane
        self._lane = lane
        self._caller = caller
        self._moved = True
        self._waiting = 0
        """Bytes that nobody had taken when the deadline was last put off."""
        self._deadline = inf
        self._idle = plane.settings.deadlines.tunnel or inf
        self.over = caller.loop.create_future()
        """Done when both connections have ended."""
        self.down = End(self, caller)
        """The caller's connection."""
        self.up = End(self, upstream, ended=isinstance(upstream, Fresh) and upstream.ended)
        self.down.other, self.up.other = self.up, self.down
        plane.tunnels.add(self)
        lane.metrics.tunnels += 1

    def begin(self, head: bytes, *, early_up: bytes, early_down: bytes) -> None:
        """Answer the caller; then what either side has sent ahead, and all that follows."""
        self.count(self.up, early_down)
        self.down.send(head + early_down)
        if early_up:
            self.count(self.down, early_up)
            self.up.send(early_up)
        for end in (self.down, self.up):
            if not end.connected:
                self._ended(end)
            elif end.writing_paused:
                end.other.pause_reading()
            else:
                end.other.resume_reading()
        if self.up.ended:
            self.up.ended = False
            self.up.eof_received()

    def count(self, end: End, data: bytes) -> None:
        """Bytes that came on one of the connections."""
        self._moved = True
        if end is self.down:
            self._lane.metrics.bytes_up += len(data)
        else:
            self._lane.metrics.bytes_down += len(data)

    def ending(self) -> None:
        """One peer is through: the other one is waited for no longer than for any that has stopped."""
        self._idle = min(self._idle, self._plane.settings.deadlines.body_idle)
        self._moved = True

    def lost(self, end: End, exc: Exception | None) -> None:
        other = end.other
        if not other.connected:
            self._end()
        elif exc is not None:
            other.reset()
        else:
            self.ending()
            self._ended(end)

    def _ended(self, end: End) -> None:
        if end.cut_short:
            end.other.break_off()
        else:
            end.other.finish()

    def sweep(self, now: float) -> None:
        if self._moved:
            self._moved = False
            self._deadline = now + self._idle
        elif self._deadline <= now:
            waiting = sum(
                end.transport.get_write_buffer_size() for end in (self.down, self.up) if end.connected
            )
            if waiting and waiting != self._waiting:  # a slow reader reads
                self._waiting = waiting
                self._deadline = now + self._idle
            else:
                self.cut()

    def cut(self) -> None:
        """A reset: a protocol that ends with its connection must not take this for its end."""
        for end in (self.down, self.up):
            if end.connected:
                end.reset()

    def _end(self) -> None:
        if self.over.done():
            return
        self.over.set_result(None)
        self._plane.tunnels.discard(self)
        self._plane.tunnel_turns.leave()
        self._lane.metrics.tunnels -= 1
        self._caller.connection_lost(None)


def tunnels_full() -> ProblemError:
    return ProblemError(
        "overloaded",
        "As many tunnels are open as may be.",
        next_step="Connect again when others have ended, or raise tunnels under [limits].",
        retry_after=1,
    )
