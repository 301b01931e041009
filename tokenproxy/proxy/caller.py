"""One connection of a caller: requests in, one at a time, in order."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from tokenproxy import log
from tokenproxy.proxy.exchange import Exchange
from tokenproxy.proxy.parsers import (
    BUFFER,
    CHUNK_SLACK,
    between_messages,
    head_too_large,
    request_parser,
    request_problem,
)
from tokenproxy.proxy.problem import ProblemError, bad_request, render
from tokenproxy.proxy.request import Request
from tokenproxy.proxy.side import Side

if TYPE_CHECKING:
    from tokenproxy.proxy.doors import Door
    from tokenproxy.proxy.plane import Plane

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 256 * 1024
"""
After an answer that leaves input unread: closing at once would reset the connection and may destroy the answer on
its way (RFC 9112 section 9.6). Without a bound in bytes a caller could keep us reading for nothing.
"""
CLIENT_HELLO: Final = b"\x16"
"""The first byte of TLS (RFC 8446 section 5.1), and of no request."""
BLANK_LINE: Final = b"\r\n\r\n"

_log: Final = logging.getLogger("tokenproxy.proxy")


class CallerSide(Side):
    """
    A caller's connection.

    It is in one of these states: waiting for a head (``begun`` tells whether some of it is here), serving a request
    (``task``), or lingering until the caller has read the last answer.
    """

    __slots__ = (
        "begun",
        "door",
        "early",
        "fed",
        "lingered",
        "lingering",
        "parser",
        "payload",
        "plane",
        "task",
    )

    def __init__(self, plane: Plane, loop: asyncio.AbstractEventLoop, door: Door) -> None:
        super().__init__(loop)
        self.plane = plane
        self.door = door
        self.parser = self._parser()
        self.task: asyncio.Task[None] | None = None
        """One per burst of requests, not per connection: an idle caller costs no task."""
        self.payload: StreamReader | None = None
        self.early = b""
        """What came for the next requests while one is served."""
        self.begun = 0
        """Bytes of a head that is not complete."""
        self.fed = 0
        """Bytes of the body received after the head's segment, framing included."""
        self.lingering = False
        self.lingered = 0

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.deadline = self.plane.monotonic() + self.plane.settings.deadlines.head
        self.plane.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self.task is not None:
            payload = self.payload
            if payload is not None and not payload.is_eof():
                self._feed_body(payload, data)
            else:
                self._keep_for_later(data)
        elif self.lingering:
            self._discard(data)
        else:
            self._feed_head(data)

    def eof_received(self) -> None:
        """A caller that closes its half is gone, as for nginx, HAProxy and Go; the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.plane.left(self)
        if self.payload is not None and not self.payload.is_eof():
            self.payload.set_exception(ConnectionResetError("The caller is gone."))
        super().connection_lost(exc)
        if self.task is not None:
            self.task.cancel()

    # the exchange's side

    def clean(self, request: Request) -> bool:
        """
        Whether the parser can be trusted with the next request.

        The last trailer line of a chunked request stays in the parser and comes out as the first field of the next
        one, so that ``_following`` replaces it; what it still holds would be lost, which only a close makes up for.
        """
        if not request.chunked:
            return True
        if self.payload is None or not self.payload.is_eof():
            return False
        try:
            messages, _, _ = self.parser.feed_data(b"")
        except HttpProcessingError:
            return False
        return not messages and between_messages(self.parser)

    # deadlines

    def expired(self) -> None:
        if self.lingering:
            self.abort()
        elif self.task is not None:
            if self.payload is not None and not self.payload.is_eof():
                self.payload.set_exception(_too_slow("body", self.plane.settings.deadlines.body_idle))
        elif self.begun:
            self.refuse(_too_slow("head", self.plane.settings.deadlines.head))
        else:
            self.transport.close()

    def stuck(self) -> None:
        self.abort()

    def close_if_idle(self) -> None:
        """For the drain: nobody waits for an answer on this connection."""
        if self.task is None and not self.lingering:
            self.transport.close()

    # inside

    def _parser(self) -> Any:
        return request_parser(self, self.loop, line=self.plane.settings.limits.head)

    def _feed_head(self, data: bytes) -> None:
        try:
            messages = self.parser.feed_data(data)[0]
        except HttpProcessingError as error:
            tls = not self.begun and data[:1] == CLIENT_HELLO
            self.refuse(self._tls_spoken() if tls else request_problem(error))
            return
        first = not self.begun
        self.begun += len(data)
        if self._too_large(messages):
            self.refuse(head_too_large())
        elif messages:
            self._begin(*messages[0])
        elif first:
            # From the first byte on, whatever comes: a head that drips in does not buy time.
            head = self.plane.monotonic() + self.plane.settings.deadlines.head
            self.deadline = min(self.deadline, head)

    def _too_large(self, messages: Any) -> bool:
        """The parser bounds each line, and this the head as a whole."""
        limit = self.plane.settings.limits.head
        return self.begun > limit and (not messages or _size_of(messages[0][0]) > limit)

    def _begin(self, message: RawRequestMessage, payload: StreamReader) -> None:
        self.payload = payload
        self.task = self.loop.create_task(self._serve(message, payload))

    async def _serve(self, message: RawRequestMessage, payload: StreamReader) -> None:
        """Answer the requests that are here, one after the other."""
        try:
            while True:
                self.begun = self.fed = 0
                self.deadline = inf
                if not await Exchange(self, message, payload).run() or self.door.closed:
                    self._finish(unread=bool(self.early) or not payload.is_eof())
                    return
                found = self._following(chunked=bool(message.chunked))
                if found is None:
                    return
                message, payload = found
                self.payload = payload
                await asyncio.sleep(0)  # a burst that waits for nothing must not be one step of the loop
        except Exception as error:  # noqa: BLE001 - a task's top: this connection, and only this one, must end
            log.event(_log, "unexpected_error", error=error, where="a request")
            self.abort()
        finally:
            self.task = None

    def _following(self, *, chunked: bool) -> tuple[RawRequestMessage, StreamReader] | None:
        """The next request where it is here already; None: the connection waits for it, or has been refused."""
        self.payload = None
        if chunked:
            self.parser = self._parser()
        data = b""
        try:
            messages = self.parser.feed_data(b"")[0]
            if not messages and self.early:
                data, self.early = self.early, b""
                messages = self.parser.feed_data(data)[0]
        except HttpProcessingError as error:
            self.refuse(request_problem(error))
            return None
        if len(self.early) <= BUFFER:
            self.resume_reading()
        # What the parser had in store of it was never counted; a request that came ahead of its turn may be weighed.
        self.begun = _size_of(messages[0][0]) if messages else len(data)
        if self._too_large(messages):
            self.refuse(head_too_large())
            return None
        if messages:
            message, payload = messages[0]
            if self.early and not payload.is_eof():  # the store is empty: its body goes on in what came later
                rest, self.early = self.early, b""
                self.fed = 0
                self._feed_body(payload, rest)
                self.resume_reading()
            return message, payload
        deadlines = self.plane.settings.deadlines
        now = self.plane.monotonic()
        self.deadline = now + (deadlines.head if data else deadlines.keep_alive)
        if self.plane.draining:
            self.transport.close()
        return None

    def _feed_body(self, payload: StreamReader, data: bytes) -> None:
        self.fed += len(data)
        try:
            self.parser.feed_data(data)
        except HttpProcessingError:
            if not payload.is_eof():
                payload.set_exception(bad_request("The body of the request is broken."))
            return
        # After feeding, not before: before, a large piece would count as framing.
        if not payload.is_eof() and self.fed > CHUNK_SLACK + 8 * payload.total_bytes:
            payload.set_exception(bad_request("The chunked body of the request is nearly all framing."))

    def _keep_for_later(self, data: bytes) -> None:
        self.early += data
        if len(self.early) > BUFFER:
            self.pause_reading()  # only now: a transport that does not read does not see the caller leave

    def _tls_spoken(self) -> ProblemError:
        self.door.tell("TLS where plain HTTP is spoken")
        return ProblemError(
            "bad_request",
            "The caller speaks TLS to a port that speaks plain HTTP.",
            next_step="Write http:// in the app's base URL, or give this entry of listen a cert_file.",
        )

    def refuse(self, problem: ProblemError) -> None:
        """Answer input that never became a request, and close."""
        refused = self.plane.metrics.refused
        refused[problem.code] = refused.get(problem.code, 0) + 1
        head, body = render(problem, date=self.plane.date_line())
        self.transport.write(head + body)
        self._finish(unread=True)

    def _finish(self, *, unread: bool) -> None:
        """Close so that the caller can still read the answer."""
        self.deadline = self.plane.monotonic() + LINGER_SECONDS
        self.lingering = True
        if unread and self.transport.can_write_eof() and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:  # the caller has gone while we did not read
                self.abort()
                return
            self.resume_reading()
        else:
            self.deadline = self.plane.monotonic() + self.plane.settings.deadlines.body_idle
            self.transport.close()

    def _discard(self, data: bytes) -> None:
        self.lingered += len(data)
        if self.lingered > LINGER_BYTES:
            self.abort()


def _size_of(message: RawRequestMessage) -> int:
    """Bytes of a head, without its first and last line's ends."""
    return len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


def _too_slow(part: str, seconds: float) -> ProblemError:
    return ProblemError(
        "body_timeout",
        f"The {part} of the request did not arrive within {seconds:g} s.",
        next_step="Send it faster, or raise [deadlines].",
    )


def overload_answer(plane: Plane) -> bytes:
    """For a connection that is one too many."""
    problem = ProblemError(
        "overloaded",
        "Too many callers are connected.",
        next_step="Connect again later, or raise connections under [limits].",
        retry_after=1,
    )
    head, body = render(problem, date=plane.date_line())
    return head + body
