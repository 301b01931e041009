"""Chunked bodies (RFC 9112 section 7.1), read strictly and within bounds, and the trailers behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from aiohttp.streams import StreamReader

from tokenproxy.proxy.card import canonical
from tokenproxy.proxy.parsers import CHUNK_SLACK, MAX_FIELDS

CRLF: Final = b"\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

Trailers = tuple[tuple[bytes, bytes], ...]

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")
"""An exabyte and no more; no blank before the extension, which nobody sends and parsers disagree about."""
_TRAILER: Final = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\t -~\x80-\xff]*)")
_NAME: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

_NEVER_TRAILS: Final = frozenset(
    b"""
    authorization authentication-info cookie cookie2 dpop www-authenticate proxy-authenticate set-cookie set-cookie2
    connection http2-settings keep-alive te trailer transfer-encoding upgrade
    content-encoding content-length content-range content-type
    age cache-control date expires location pragma realm retry-after vary warning
    expect forwarded host max-forwards origin range referer via
    """.split()
)
_NEVER_TRAILING: Final = re.compile(rb"(?:if|proxy|sec|tokenproxy|x-forwarded|x-proxy)-")
"""
What frames, routes, authenticates, modifies or controls a message, or says what its content is, must be known before
the content (RFC 9110 section 6.5.1); a recipient that merges trailers into its fields would believe it.
"""
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

SIZE, DATA, BEHIND, TRAILER, WHOLE = range(5)


class BrokenChunksError(Exception):
    """Bytes that are no chunked body; says why in one sentence without them."""


class ChunkedBody(StreamReader):
    """A body that came in chunks; ``trailers`` are complete when it is."""

    __slots__ = ("trailers",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trailers: Trailers = ()


class ChunkReader:
    """
    Takes the bytes behind a head and fills its body.

    Stricter than the grammar: lines end with CR LF, and a size is followed by its extension at once. Extensions are
    ignored (RFC 9112 section 7.1.1); all framing together is bounded against the content.
    """

    __slots__ = ("_body", "_framing", "_held", "_left", "_longest", "_state", "_trailers", "_trailing")

    def __init__(self, body: ChunkedBody, *, longest: int) -> None:
        """``longest``: bytes of one line at most, and of all trailers together."""
        self._body = body
        self._longest = longest
        self._state = SIZE
        self._held = b""
        """The beginning of a line whose end has not come."""
        self._left = 0
        """Bytes of the present chunk that have not come."""
        self._framing = 0
        self._trailing = 0
        self._trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> bytes:
        """Take what came; what of it is behind the body's end. Raises ``BrokenChunksError``."""
        if self._held:
            data, self._held = self._held + data, b""
        at, most = 0, len(data)
        while self._state != WHOLE:
            if self._state == DATA:
                if at >= most:
                    return b""
                piece = data[at : at + self._left]
                self._body.feed_data(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = BEHIND
                continue
            end = data.find(CRLF, at)
            if end < 0:
                self._hold(data[at:])
                return b""
            self._line(data[at:end])
            at = end + 2
        return data[at:]

    def _hold(self, rest: bytes) -> None:
        most = 1 if self._state == BEHIND else self._longest
        if len(rest) > most or b"\n" in rest:
            raise BrokenChunksError("A line between its chunks has no end.")
        self._held = rest

    def _line(self, line: bytes) -> None:
        if self._state == SIZE:
            self._begin_chunk(line)
        elif self._state == BEHIND:
            if line:
                raise BrokenChunksError("One of its chunks is longer than it says.")
            self._state = SIZE
        elif line:
            self._trail(line)
        else:
            self._state = WHOLE
            self._body.trailers = tuple(self._trailers)
            self._body.feed_eof()

    def _begin_chunk(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None or len(line) > self._longest:
            raise BrokenChunksError("The size of one of its chunks is none.")
        self._framing += len(line) + 4
        if self._framing > CHUNK_SLACK + 8 * self._body.total_bytes:
            raise BrokenChunksError("Its chunks are nearly all framing.")
        self._left = int(found[1], 16)
        self._state = DATA if self._left else TRAILER

    def _trail(self, line: bytes) -> None:
        found = _TRAILER.fullmatch(line)
        if found is None:
            raise BrokenChunksError("One of its trailers is no field.")
        if canonical(found[1]) in _FRAMING:
            raise BrokenChunksError("One of its trailers would frame it anew.")
        self._trailing += len(line) + 2
        if self._trailing > self._longest or len(self._trailers) >= MAX_FIELDS:
            raise BrokenChunksError("Its trailers are too large.")
        self._trailers.append((found[1], found[2].rstrip(b" \t")))


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def last_chunk(body: object, withheld: frozenset[bytes] | None) -> bytes:
    """
    The end of a whole body for the next hop, with its trailers where it has some; ``withheld`` as from ``announced``,
    None: without them.
    """
    trailers: Trailers = getattr(body, "trailers", ())
    if withheld is None or not trailers:
        return LAST_CHUNK
    lines = [b"%b: %b\r\n" % field for field in trailers if _may_trail(field[0], withheld)]
    return b"0\r\n%b\r\n" % b"".join(lines)


def announcement(values: Iterable[bytes], withheld: frozenset[bytes]) -> bytes:
    """
    The ``Trailer`` line for the next hop, with the names of ``values`` that may go on; empty where none may.

    ``withheld``: names that do not, canonical.
    """
    names = [
        name
        for value in values
        for each in value.split(b",")
        if _NAME.fullmatch(name := each.strip(b" \t")) and _may_trail(name, withheld)
    ]
    return b"Trailer: %b\r\n" % b", ".join(names) if names else b""


def announces(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a head says that trailers will come (RFC 9110 section 6.6.2)."""
    return any(name.lower() == b"trailer" for name, _ in fields)


def wants_trailers(te: bytes) -> bool:
    """Whether a TE field says ``trailers``, which takes no parameter (RFC 9110 section 10.1.4)."""
    return any(member.strip(b" \t").lower() == b"trailers" for member in te.split(b","))


def _may_trail(name: bytes, withheld: frozenset[bytes]) -> bool:
    one = canonical(name)
    return one not in _NEVER_TRAILS and not _NEVER_TRAILING.match(one) and one not in withheld
