"""One connection of a caller: requests in, one at a time, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from tokenproxy import log
from tokenproxy.proxy.chunks import BrokenChunksError, ChunkedBody, ChunkReader
from tokenproxy.proxy.parsers import BUFFER, head_too_large, request_parser, request_problem, stream
from tokenproxy.proxy.plain import LONGEST_LENGTH, Message, Payload, Whole
from tokenproxy.proxy.problem import ProblemError, bad_request, render
from tokenproxy.proxy.record import Refusal
from tokenproxy.proxy.side import Side
from tokenproxy.proxy.untasked import ANSWER, Rest, tasked

if TYPE_CHECKING:
    from tokenproxy.proxy.doors import Door
    from tokenproxy.proxy.plane import Plane
    from tokenproxy.proxy.register import Proof, Register
    from tokenproxy.proxy.tunnel import Tunnel

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 256 * 1024
"""
After an answer that leaves input unread: closing at once would reset the connection and may destroy the answer on
its way (RFC 9112 section 9.6). Without a bound in bytes a caller could keep us reading for nothing.
"""
CLIENT_HELLO: Final = b"\x16"
"""The first byte of TLS (RFC 8446 section 5.1), and of no request."""
BLANK_LINE: Final = b"\r\n\r\n"
LINE_END: Final = b"\r\n"
REST_OF_LINE: Final = len("  HTTP/1.1")

_log: Final = logging.getLogger("tokenproxy.proxy")


class Turn(Protocol):
    """One request of a caller, and what comes of it."""

    def __init__(self, caller: CallerSide, message: Message, payload: Any) -> None: ...

    @property
    def request(self) -> object | None:
        """None: it was not understood, or refused."""

    async def run(self) -> bool:
        """Answer; whether the connection may take another request."""


class CallerSide(Side):
    """
    A caller's connection.

    It is in one of these states: waiting for a head (``head`` is what is here of it), serving a request (``serving``), or
    lingering until the caller has read the last answer.

    The parser is given one head at a time and, where its length is known, that head's body; chunks are read by
    ``chunks``. So it never holds a byte of another message, and no trailer: it would put the last one before the next
    message's fields (RFC 9110 section 6.5.1).
    """

    exchange: ClassVar[type[Turn] | None] = None
    """What answers a request; None: what the plane says."""

    __slots__ = (
        "chunks",
        "counted",
        "door",
        "early",
        "head",
        "length",
        "lingered",
        "lingering",
        "over",
        "parser",
        "payload",
        "plane",
        "proofs",
        "serving",
        "task",
        "tunnel",
        "unsent",
    )

    def __init__(self, plane: Plane, loop: asyncio.AbstractEventLoop, door: Door) -> None:
        super().__init__(loop)
        self.plane = plane
        self.door = door
        self.parser: Any = None
        """From the first head on that is not of the common form."""
        self.serving: Coroutine[Any, Any, None] | None = None
        """Answers the requests that are here; an idle caller has none."""
        self.task: asyncio.Task[None] | None = None
        """What carries ``serving`` on, once it has waited for more than an upstream's answer."""
        self.over: asyncio.Future[None] | None = None
        """Where somebody waits until ``serving`` has ended."""
        self.payload: Payload | None = None
        self.early = b""
        """What came for the next requests while one is served."""
        self.head = b""
        """What came of a head that is not complete."""
        self.length = 0
        """Bytes of the body whose length is known."""
        self.counted = False
        """The body is filled here, its head having been read without the parser."""
        self.chunks: ChunkReader | None = None
        """Reads the body that comes in chunks."""
        self.lingering = False
        self.lingered = 0
        self.unsent: float = inf
        """Bytes of the last answer that had not gone when we last looked."""
        self.tunnel: Tunnel | None = None
        """What the connection has become."""
        self.proofs: tuple[Register, tuple[Proof, ...]] | None = None
        """Whose connection it is, by whose register; looked at with the first request that asks."""

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.deadline = self.plane.monotonic() + self.plane.settings.deadlines.head
        self.plane.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self.serving is not None:
            if self.payload is not None:
                self._take_more(self.payload, data)
            else:
                self._keep_for_later(data)
        elif self.lingering:
            self._discard(data)
        elif not (data.endswith(BLANK_LINE) and self._take_bare(data)):
            found = self._take_head(data)
            if found is not None:
                self._begin(*found)

    def eof_received(self) -> None:
        """A caller that closes its half is gone, as for nginx, HAProxy and Go; the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.plane.left(self)
        if self.payload is not None and not self.payload.is_eof():
            self.payload.set_exception(ConnectionResetError("The caller is gone."))
        super().connection_lost(exc)
        if self.task is not None:
            self.task.cancel()
        elif self.serving is not None:
            self.serving.close()

    # the exchange's side

    def in_task(self) -> Awaitable[None]:
        """To be awaited before anything that needs a task: time limits, above all."""
        return tasked(self.task is None)

    @property
    def next_step(self) -> Callable[[], None] | None:
        """What the answer that is waited for must call; None: a task waits for it."""
        return self.step if self.task is None else None

    def step(self) -> None:
        """Go on with ``serving`` where it has no task; it gets one as soon as it waits for anything but an answer."""
        if self.serving is None:
            return
        try:
            awaited = self.serving.send(None)
        except StopIteration:
            return
        if awaited is not ANSWER:
            self.task = self.loop.create_task(Rest(self.serving, awaited))

    def ended(self) -> asyncio.Future[None]:
        """For the drain: done when nothing is served any more."""
        if self.over is None:
            self.over = self.loop.create_future()
        return self.over

    def early_bytes(self) -> bytes:
        """What came behind a request that asked for a tunnel; nothing on this connection is HTTP from now on."""
        early, self.early = self.early, b""
        return early

    # deadlines

    def expired(self) -> None:
        if self.lingering:
            self._lingered_on()
        elif self.serving is not None:
            if self.payload is not None and not self.payload.is_eof():
                self.payload.set_exception(_too_slow("body", self.plane.settings.deadlines.body_idle))
        elif self.head:
            self.refuse(_too_slow("head", self.plane.settings.deadlines.head))
        else:
            self.transport.close()

    def stuck(self) -> None:
        self.abort()

    def close_if_idle(self) -> None:
        """For the drain: nobody waits for an answer on this connection."""
        # A TLS transport of asyncio that is closed twice cannot be aborted any more.
        idle = self.serving is None and self.tunnel is None and not self.lingering
        if idle and not self.transport.is_closing():
            self.transport.close()

    # inside

    def _parse(self, data: bytes) -> Any:
        if self.parser is None:
            self.parser = request_parser(self, self.loop, line=self.plane.settings.limits.head)
        return self.parser.feed_data(data)[0]

    def _take_bare(self, data: bytes) -> bool:
        """Begin with a request that is one head of the common form and nothing else; False: ``_take_head`` must see it."""
        size = len(data)
        end = data.find(BLANK_LINE) + len(BLANK_LINE)
        if self.head or end != size or size > self.plane.settings.limits.head:
            return False
        message = self.plane.gate.lines.request(data)
        if message is None or message.length:
            return False
        self._begin(message, EMPTY_PAYLOAD)
        return True

    def _take_head(self, data: bytes) -> tuple[Message, Payload] | None:
        """
        The next request where its head is whole, with what is here of its body; what follows that waits in ``early``.

        None: more must come, or the caller has been refused.
        """
        whole = self.head + data if self.head else data
        start = 0
        while whole.startswith(LINE_END, start):  # empty lines before a request (RFC 9112 section 2.2)
            start += 2
        end = whole.find(BLANK_LINE, start) + len(BLANK_LINE)
        try:
            if end < len(BLANK_LINE):
                self._take_part(whole, data)
                return None
            return self._take_whole(whole, start, end)
        except ProblemError as problem:
            self.refuse(problem)
        except HttpProcessingError as error:
            tls = not self.head and data[:1] == CLIENT_HELLO
            self.refuse(self._tls_spoken() if tls else request_problem(error))
        return None

    def _take_part(self, whole: bytes, data: bytes) -> None:
        if len(whole) > self.plane.settings.limits.head:
            raise head_too_large()
        if self._parse(data):  # it finds faults as early as it can
            raise _two_ends()
        if not self.head:
            # From the first byte on, whatever comes: a head that drips in does not buy time.
            head = self.plane.monotonic() + self.plane.settings.deadlines.head
            self.deadline = min(self.deadline, head)
        self.head = whole

    def _take_whole(self, whole: bytes, start: int, end: int) -> tuple[Message, Payload]:
        if end > self.plane.settings.limits.head:
            raise head_too_large()
        if not start and not self.head:
            message = self.plane.gate.lines.request(whole if end == len(whole) else whole[:end])
            if message is not None:
                return message, self._body_behind(whole, end, message.length or 0)
        messages = self._parse(whole[len(self.head) : end])
        self.head = b""
        if not messages:
            raise _two_ends()
        message, payload = messages[0]
        self.counted = False
        # The parser takes several blanks for one, and more than empty lines before the first word.
        if whole.find(LINE_END, start) - start != len(message.method) + len(message.path) + REST_OF_LINE:
            raise bad_request("The request line is not three words with one blank between them.")
        if message.method == "CONNECT":
            payload = EMPTY_PAYLOAD  # the parser would put the tunnel's bytes there
        elif payload is not EMPTY_PAYLOAD:
            payload = self._body_of(message, payload)
        if len(whole) > end:
            self._take_more(payload, whole[end:])
            broken = payload.exception()
            if broken is not None:
                raise broken
        return message, payload

    def _body_behind(self, whole: bytes, end: int, length: int) -> Payload:
        """The body of a request whose head ends there and was read without the parser."""
        last = end + length
        if len(whole) > last:
            self._keep_for_later(whole[last:])
        if not length:
            return EMPTY_PAYLOAD
        if len(whole) >= last:
            return Whole(whole[end:last])
        self.length, self.counted = length, True
        payload = stream(self, self.loop)
        payload.feed_data(whole[end:])
        return payload

    def _body_of(self, message: RawRequestMessage, payload: StreamReader) -> StreamReader:
        if not message.chunked:
            length = message.headers.get("Content-Length", "")
            self.length = int(length) if 0 < len(length) <= LONGEST_LENGTH else 0  # the gate refuses others
            if not message.upgrade:
                return payload
            self.counted = True  # the parser takes what follows for the other protocol
            return stream(self, self.loop)
        body = ChunkedBody(self, BUFFER, loop=self.loop)
        self.chunks = ChunkReader(body, longest=self.plane.settings.limits.head)
        return body

    def _begin(self, message: Message, payload: Payload) -> None:
        self.payload = payload
        self.serving = self._serve(message, payload)
        self.step()

    async def _serve(self, message: Message, payload: Payload) -> None:
        """Answer the requests that are here, one after the other."""
        try:
            while True:
                self.deadline = inf
                exchange = (self.exchange or self.plane.exchange)(self, message, payload)
                if not await exchange.run() or self.door.closed:
                    if self.tunnel is not None:
                        return
                    # A caller that did not ask for the close, or whom we did not understand, may be sending more.
                    asked = message.should_close and exchange.request is not None
                    self._finish(unread=bool(self.early) or not payload.is_eof() or not asked)
                    return
                found = self._following()
                if found is None:
                    return
                message, payload = found
                self.payload = payload
                await asyncio.sleep(0)  # a burst that waits for nothing must not be one step of the loop
        except Exception as error:  # noqa: BLE001 - a task's top: this connection, and only this one, must end
            log.event(_log, "unexpected_error", error=error, where="a request")
            self.abort()
        finally:
            self.serving = self.task = None
            if self.over is not None:
                self.over.set_result(None)
                self.over = None

    def _following(self) -> tuple[Message, Payload] | None:
        """The next request where it is here already; None: the connection waits for it, or has been refused."""
        self.payload = None
        if self.chunks is not None:
            self.chunks = None
            self.parser = None  # this one still waits for the body
        data, self.early = self.early, b""
        found = self._take_head(data) if data else None
        if self.lingering:
            return None
        if len(self.early) <= BUFFER:
            self.resume_reading()
        if found is not None:
            return found
        deadlines = self.plane.settings.deadlines
        now = self.plane.monotonic()
        self.deadline = now + (deadlines.head if data else deadlines.keep_alive)
        if self.plane.draining:
            self.transport.close()
        return None

    def _take_more(self, payload: Payload, data: bytes) -> None:
        """More of a body, and what follows it."""
        rest = data
        # Behind a fault nothing is part of the body: its end, found there, would keep a connection whose framing is lost.
        if isinstance(payload, StreamReader) and not payload.is_eof() and payload.exception() is None:
            try:
                rest = self._feed_body(payload, data)
            except BrokenChunksError as broken:
                payload.set_exception(bad_request(f"The body of the request is broken. {broken}"))
                return
        if rest:
            self._keep_for_later(rest)

    def _feed_body(self, payload: StreamReader, data: bytes) -> bytes:
        if self.chunks is not None:
            return self.chunks.feed(data)
        left = self.length - payload.total_bytes
        piece = data if len(data) <= left else data[:left]
        if not self.counted:
            self.parser.feed_data(piece)
            return data[left:]
        payload.feed_data(piece)
        if len(data) >= left:
            payload.feed_eof()
        return data[left:]

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
        if self.plane.on_refused is not None:
            self.plane.on_refused(Refusal(problem.code, "", self.peer()))
        head, body = render(problem, date=self.plane.date_line())
        self.transport.write(head + body)
        self._finish(unread=True)

    def peer(self) -> str:
        """The other end's address; empty for a Unix socket's."""
        found = self.transport.get_extra_info("peername")
        return str(found[0]) if isinstance(found, tuple) else ""

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

    def _lingered_on(self) -> None:
        """A slow caller may still take the last answer: as long as it does, it has time."""
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self.unsent:
            self.unsent = unsent
            self.deadline = self.plane.monotonic() + self.plane.settings.deadlines.body_idle
        else:
            self.abort()

    def _discard(self, data: bytes) -> None:
        self.lingered += len(data)
        if self.lingered > LINGER_BYTES:
            self.abort()


def _two_ends() -> ProblemError:
    return bad_request("The head of the request ends where two readers of it disagree.")


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
