"""One connection to an upstream: bytes in, checked messages out."""

from __future__ import annotations

import asyncio
import re
import select
import types
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from tokenproxy.core.retries import CONNECT, RESET
from tokenproxy.proxy.answer import LINES
from tokenproxy.proxy.chunks import BrokenChunksError, ChunkedBody, ChunkReader, announces
from tokenproxy.proxy.parsers import BUFFER, CHUNK_SLACK, between_messages, response_parser, stream
from tokenproxy.proxy.plain import Answer, Payload, Whole
from tokenproxy.proxy.problem import LostError, ProblemError, upstream_invalid
from tokenproxy.proxy.side import Side
from tokenproxy.proxy.untasked import ANSWER

if TYPE_CHECKING:
    from tokenproxy.proxy.pool import Pool

QUEUE: Final = 32
"""1xx answers that may wait to be passed on; more at once is an attack."""
BLANK_LINE: Final = b"\r\n\r\n"
BLANKS: Final = b"\r\n"
STALE: Final = select.POLLIN | select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
"""An idle connection that has anything to say has died, or says what nobody asked for."""
UNCLEAN: Final = re.compile(rb"\n[^:\n]*[ \t]:|[^\r]\n|\r[^\n]|\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""In a head that ends with CR LF: lone CR or LF, obs-fold, control characters (RFC 9112 sections 2.2 and 5.2)."""


class UpstreamSide(Side):
    """
    A connection of a pool.

    Between ``begin`` and ``release`` it serves one exchange; ``queue`` has the heads one after the other, and
    ``fail`` is the one way to end an exchange badly: whoever waits for head or body gets the reason.
    """

    __slots__ = (
        "arrivals",
        "busy",
        "chunked",
        "chunks",
        "early",
        "fed",
        "head",
        "headless",
        "left",
        "lenient",
        "parser",
        "payload",
        "pool",
        "problem",
        "queue",
        "silent",
        "spoiled",
        "step",
        "waiter",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.pool = pool
        self.headless = False
        self.parser = self._parser()
        self.queue: deque[Answer] = deque()
        self.waiter: asyncio.Future[None] | None = None
        """Of a task that waits in ``heard``."""
        self.step: Callable[[], None] | None = None
        """Of one that waits there without a task."""
        self.payload: Payload | None = None
        """Of the final answer, once its head is here."""
        self.problem: ProblemError | None = None
        self.head = b""
        """What came of a head that is not complete, for the second look."""
        self.early = b""
        """What came behind a 101: the first bytes of another protocol."""
        self.fed = 0
        """Bytes received since the final head's segment, framing included."""
        self.busy = False
        self.chunked = False
        self.left = 0
        """Bytes that are still to come of a body that is read without the parser."""
        self.chunks: ChunkReader | None = None
        """Reads the body of an answer that announced trailers: the parser drops them."""
        self.lenient = False
        """The parser took a duplicate field of this answer; it must not be as kind to the next one."""
        self.silent = True
        """No byte of an answer has come in this exchange."""
        self.spoiled = False
        """More came than was asked for: the connection must not be used again."""

    # the exchange's side

    def begin(self, data: bytes, *, headless: bool, deadline: float) -> None:
        """Send a head (and a body that is already here); ``headless`` for HEAD, whose answer has no body."""
        if headless is not self.headless:
            self.headless = headless
            self.parser = self._parser()
        self.busy = True
        self.silent = True
        self.deadline = deadline
        if self.connected:
            self.transport.write(data)
        else:
            lost = _lost()
            lost.unsent = True
            lost.fault = CONNECT
            self.problem = lost

    @types.coroutine
    def heard(self, step: Callable[[], None] | None) -> Generator[Any, Any, None]:
        """
        Wait while ``queue`` is empty, where heads come one after the other: 1xx ones first, then the final one, whose body
        is in ``payload``. ``step`` is what to call then; None: a task waits.

        Raises ``LostError`` where the connection ended before a byte of it, else ``ProblemError``.
        """
        if self.problem is not None:
            raise self.problem
        if step is None:
            self.waiter = self.loop.create_future()
            yield from self.waiter
            return
        self.step = step
        try:
            yield ANSWER
        finally:
            self.step = None

    def release(self, message: Answer, *, uploaded: bool, now: float) -> None:
        """The exchange is through: back into the pool, unless anything at all is odd."""
        payload = self.payload
        if (
            uploaded
            and self.connected
            and not self.spoiled
            and not message.should_close
            and message.version == HttpVersion11
            and not self.queue
            and not self.reading_paused
            and self.problem is None
            and payload is not None
            and payload.is_eof()
            and not self.transport.is_closing()
            # else a part of another answer waits inside; with ``chunks``, what is behind the answer has told on it
            and (self.chunks is not None or between_messages(self.parser))
        ):
            self.busy = False
            self.payload = None
            self.head = b""
            if self.chunked or self.lenient:
                # The last trailer of a chunked answer stays in the parser and comes out as the first field of
                # the next answer on this connection: another caller's. Only a new parser forgets it.
                self.chunked = self.lenient = False
                self.chunks = None
                self.parser = self._parser()
            self.deadline = now + self.pool.idle_timeout
            self.pool.give_back(self)
        else:
            self.abort()

    def fail(self, problem: ProblemError) -> None:
        """End the exchange: head, body and connection at once."""
        if self.problem is None:
            self.problem = problem
        self.queue.clear()  # what nobody has seen yet need not be said any more
        if self.payload is not None and not self.payload.is_eof():
            self.payload.set_exception(problem)
        self._wake()
        self.abort()

    def leave(self) -> None:
        """Close; for a peer that stopped reading an upload after its answer nobody waits."""
        if self.transport.get_write_buffer_size():
            self.abort()
        else:
            self.transport.close()

    def expired(self) -> None:
        if not self.busy:
            self.leave()
        elif self.payload is None:
            self.fail(_timeout("The upstream did not begin its answer in time."))
        else:
            self.fail(_timeout("The upstream stopped in the middle of its answer."))

    def stuck(self) -> None:
        self.fail(_timeout("The upstream stopped reading the request's body."))

    # the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.arrivals = select.poll()
        """What waits in the kernel; to be asked only while the connection is open, as its descriptor is used again."""
        self.arrivals.register(self.transport.get_extra_info("socket").fileno(), STALE)

    def data_received(self, data: bytes) -> None:
        if self.payload is not None:
            self._feed_body(self.payload, data)
        elif self.busy:
            self._feed_head(data)
        else:  # nobody asked: never an answer to anybody (RFC 9112 section 6.3)
            self.abort()

    def eof_received(self) -> None:
        return None  # the transport closes itself, and ``connection_lost`` judges what that means

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.lost(self)
        if self.payload is not None:
            if not self.payload.is_eof():
                self._end_of_body(self.payload, exc)
        elif self.busy and self.problem is None:
            self.problem = (
                _lost()
                if self.silent
                else upstream_invalid(
                    "The upstream closed the connection in the middle of its answer's head."
                )
            )
            self.problem.fault = RESET
        super().connection_lost(exc)
        self._wake()

    # inside

    def _parser(self, *, lenient: bool = False) -> Any:
        return response_parser(
            self, self.loop, line=self.pool.max_head, headless=self.headless, lenient=lenient
        )

    def _wake(self) -> None:
        if self.step is not None:
            self.loop.call_soon(self.step)
            self.step = None
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def _feed_head(self, data: bytes) -> None:
        self.silent = False
        if not self.head and self._take_plain(data):
            return
        self.head = self.head + data if self.head else data
        if self.head[0] in BLANKS:  # RFC 9112 section 2.2 lets a request begin so, and no answer
            self.fail(upstream_invalid("The upstream's answer begins with an empty line."))
            return
        try:
            messages, upgraded, tail = self.parser.feed_data(data)
        except HttpProcessingError:
            self._second_look()
            return
        if messages:
            if upgraded:
                self._switched(messages, self.head, tail)
                return
            self._arrived(messages, self.head)
        if self.payload is None and len(self.head) > self.pool.max_head:
            self.fail(_head_too_large())

    def _take_plain(self, data: bytes) -> bool:
        """Take a final answer of the common form, which the parser need not see; False: it must."""
        end = data.find(BLANK_LINE)
        if end < 0 or end > self.pool.max_head or self.headless:
            return False
        answer = LINES.answer(data[:end])
        if answer is None:
            return False
        body = data[end + len(BLANK_LINE) :]
        left = answer.length - len(body)
        if left < 0:
            return False
        self.left = left
        if left == 0:
            self.payload = Whole(body)
        else:
            self.payload = stream(self, self.loop)
            self.payload.feed_data(body)
        self.queue.append(answer)
        if self.step is None:
            self._wake()
        else:
            self.step()  # all that came is in ``payload``: whoever waits may go on here and now
        return True

    def _take_more(self, payload: StreamReader, data: bytes) -> None:
        """More of a body that the parser does not see."""
        self.left -= len(data)
        if self.left < 0:
            data = data[: self.left]
            self.left = 0
            self.spoiled = True
        payload.feed_data(data)
        if not self.left:
            payload.feed_eof()

    def _switched(self, messages: Any, heads: bytes, tail: bytes) -> None:
        """Whether anybody asked for a 101 is for the exchange to say; until it does nothing more is read."""
        self.early = tail
        self.spoiled = True
        self.pause_reading()
        self._arrived(messages, heads)

    def _arrived(self, messages: Any, heads: bytes) -> None:
        """``heads`` begins with the heads of these messages."""
        for number, (message, payload) in enumerate(messages, 1):
            if number > 1 and _behind(heads, number - 1)[0] in BLANKS:
                self.fail(upstream_invalid("The upstream's answer begins with an empty line."))
                return
            if self.payload is not None:
                self.spoiled = True  # a second final answer
                break
            self.queue.append(message)
            if message.code >= 200:
                self.payload = payload
                self.chunked = bool(message.chunked)
                self.fed = 0
                if self.chunked and announces(message.raw_headers) and not self._bodyless(message.code):
                    self._read_chunks(_behind(heads, number))
        if self.payload is not None:
            self.head = b""
        elif len(self.queue) > QUEUE:
            self.fail(upstream_invalid("The upstream sends interim answers without end."))
        else:
            self.head = _behind(heads, len(messages))
            if self.head[:1] and self.head[0] in BLANKS:
                self.fail(upstream_invalid("The upstream's answer begins with an empty line."))
                return
        self._wake()

    def _second_look(self) -> None:
        """
        Parse again, each head apart from what follows it.

        A parser that meets broken bytes forgets the whole messages that came before them in the same segment. And the
        strict parser refuses a second ``Server`` or ``Content-Type``, which Google's APIs among others send: such a
        head, if it is clean otherwise, is read leniently.
        """
        data = self.head
        while self.payload is None:
            end = data.find(BLANK_LINE)
            if end < 0 or data[0] in BLANKS:
                self._refuse_head(data)
                return
            head, data = data[: end + len(BLANK_LINE)], data[end + len(BLANK_LINE) :]
            messages = self._parse_alone(head)
            if not messages:
                self._refuse_head(head)
                return
            if messages[-1][0].code == 101:
                self._switched(messages, head, data)
                return
            self._arrived(messages, head)
            if self.problem is not None:
                return
        if data:
            self._feed_body(self.payload, data)

    def _refuse_head(self, head: bytes) -> None:
        too_large = len(head) > self.pool.max_head
        unreadable = "The upstream's answer cannot be parsed as HTTP/1.1."
        self.fail(_head_too_large() if too_large else upstream_invalid(unreadable))

    def _parse_alone(self, head: bytes) -> Any:
        self.parser = self._parser()
        try:
            return self.parser.feed_data(head)[0]
        except HttpProcessingError as error:
            if not error.message.startswith("Duplicate '") or UNCLEAN.search(head):
                return ()
        self.lenient = True
        self.parser = self._parser(lenient=True)
        try:
            return self.parser.feed_data(head)[0]
        except HttpProcessingError:
            return ()

    def _bodyless(self, code: int) -> bool:
        return self.headless or code == 204 or code == 304  # noqa: PLR1714 - cheaper than building a set

    def _read_chunks(self, data: bytes) -> None:
        """Read the body here, beginning with these bytes, and not in the parser."""
        body = ChunkedBody(self, BUFFER, loop=self.loop)
        self.payload, self.chunks = body, ChunkReader(body, longest=self.pool.max_head)
        if data:
            self._feed_chunks(self.chunks, data)

    def _feed_chunks(self, chunks: ChunkReader, data: bytes) -> None:
        try:
            rest = chunks.feed(data)
        except BrokenChunksError as broken:
            self.fail(upstream_invalid(f"The body of the upstream's answer is broken. {broken}"))
            return
        self.spoiled = self.spoiled or bool(rest)

    def _feed_body(self, payload: Payload, data: bytes) -> None:
        if isinstance(payload, Whole):
            self.spoiled = True
            return
        if self.chunks is not None:
            self._feed_chunks(self.chunks, data)
            return
        if self.left:
            self._take_more(payload, data)
            return
        self.fed += len(data)
        try:
            messages, _, _ = self.parser.feed_data(data)
        except HttpProcessingError:
            # The payload is not told by the parser; one that is whole already is a good answer.
            self.spoiled = True
            if not payload.is_eof():
                self.fail(upstream_invalid("The body of the upstream's answer is broken."))
            return
        if messages or payload.is_eof():
            self.spoiled = self.spoiled or bool(messages)
        elif self.chunked and self.fed > CHUNK_SLACK + 8 * payload.total_bytes:
            self.fail(upstream_invalid("The upstream's chunked body is nearly all framing."))

    def _end_of_body(self, payload: Payload, exc: Exception | None) -> None:
        """
        The connection ended in a body. That is its end only where neither length nor chunks say otherwise and the
        peer closed properly; after a reset, ``feed_eof`` would make a cut body look whole. Over TLS, whoever can cut
        the line could end the body with a mere FIN: only the peer's closure alert counts (RFC 9112 section 9.8).
        """
        if (
            exc is None
            and not self.left
            and self.chunks is None
            and self.transport.get_extra_info("goodbye", True)
        ):
            try:
                self.parser.feed_eof()
            except HttpProcessingError:
                pass
            else:
                return
        payload.set_exception(
            upstream_invalid("The upstream closed the connection in the middle of its answer.")
        )


def _behind(heads: bytes, number: int) -> bytes:
    """What follows so many heads."""
    for _ in range(number):
        heads = heads[heads.find(BLANK_LINE) + len(BLANK_LINE) :]
    return heads


def _lost() -> LostError:
    return LostError(
        "upstream_unreachable",
        "The upstream closed the connection without an answer.",
        next_step="Look whether the request was carried out before you send it again.",
    )


def _head_too_large() -> ProblemError:
    return ProblemError(
        "upstream_invalid",
        "The head of the upstream's answer has more bytes than this proxy takes.",
        next_step="Raise head under [limits] if the upstream's answers are so by nature.",
    )


def _timeout(detail: str) -> ProblemError:
    return ProblemError(
        "upstream_timeout", detail, next_step="Try again; raise [deadlines] if it is slow by nature."
    )
