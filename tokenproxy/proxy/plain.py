"""
Heads of the common form, read without a parser: nearly all of them are of it, and it costs a third.

A proxy needs of a head what its lines are, not what they say; the C parsers build a multidict, a URL and text of it all.
What is not of the form, down to a blank too many, is left to the parser from its first byte on. So the form is a strict
subset of what the parser takes, and means the same; ``tests/proxy/test_plain.py`` holds both against each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import itemgetter
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.http_parser import RawRequestMessage, RawResponseMessage
from aiohttp.streams import StreamReader

from tokenproxy.proxy.parsers import MAX_FIELDS

Field = tuple[int, bytes, bytes, bytes, int]
"""Kind, name, value, the line as it goes on, and which of the bits below the line sets."""

HOST: Final = 1
LENGTH: Final = 2
KEEPS: Final = 4
CLOSES: Final = 8
CONNECTION: Final = KEEPS | CLOSES
"""The bit of a name; what the line sets depends on its value."""
DATE: Final = 1 << 12
LEADS: Final = 1 << 13
"""It is looked at before it goes on, as ``Location`` is."""
_LOOKED_AT: Final = DATE | LEADS
ODD: Final = -1
"""Nothing for this form: what frames or hands over a connection in another way."""

KNOWN: Final = 1024
"""Names, and whole lines, that are remembered; emptied when full, so that no peer can make it grow."""
LONGEST: Final = 256
"""Bytes of a line, or a name, that is remembered."""
LONGEST_LENGTH: Final = 18
"""Digits of a Content-Length: an exabyte, and far below 2**64 - 1, which the parser takes for "no length"."""

_line: Final = itemgetter(3)
_METHODS: Final[Mapping[bytes, str]] = {
    method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
_TARGET: Final = bytes(range(0x21, 0x7F))
_VALUE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_NAME: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([ -~]*)")
_BODYLESS: Final = frozenset({204, 304})

_ONCE: Final[Mapping[bytes, int]] = {b"host": HOST} | {
    name: 16 << number
    for number, name in enumerate(
        b"content-location content-range content-type etag max-forwards server user-agent".split()
    )
}
"""The parser is strict about a second one of these."""
_REPEATED: Final = frozenset(
    b"""
    accept accept-charset accept-encoding accept-language accept-ranges access-control-allow-credentials
    access-control-allow-headers access-control-allow-methods access-control-allow-origin alt-svc cache-control connection
    content-encoding content-language content-length content-security-policy content-type cross-origin-opener-policy
    cross-origin-resource-policy date dnt expires host pragma priority referrer-policy sec-ch-ua sec-ch-ua-mobile
    sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user server strict-transport-security
    upgrade-insecure-requests user-agent vary via x-content-type-options x-frame-options x-powered-by x-requested-with
    x-xss-protection
    """.split()
)
"""Fields that say the same again and again, and never a secret: only their lines are remembered."""


class PlainRequest:
    """Like aiohttp's ``RawRequestMessage`` where that matters here."""

    __slots__ = ("fields", "length", "lines", "method", "path", "should_close")

    version = HttpVersion11
    upgrade = chunked = False

    def __init__(self, lines: Lines, method: str, path: str, fields: list[Field]) -> None:
        self.lines = lines
        """Who said of which kind the fields are."""
        self.method = method
        self.path = path
        self.fields = fields
        self.length: int | None = None
        """Content-Length."""
        self.should_close = False

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple([(name, value) for _, name, value, _, _ in self.fields])


class PlainAnswer:
    """Like aiohttp's ``RawResponseMessage`` where that matters here."""

    __slots__ = ("code", "fields", "length", "lines", "passing", "reason", "should_close")

    version = HttpVersion11
    upgrade = chunked = False

    def __init__(self, lines: Lines, code: int, reason: str, fields: list[Field], length: int) -> None:
        self.lines = lines
        self.code = code
        self.reason = reason
        self.fields = fields
        self.length = length
        """Content-Length."""
        self.passing = b""
        """The lines that go on, where nothing is to be added to them."""
        self.should_close = False

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple([(name, value) for _, name, value, _, _ in self.fields])

    def with_fields(
        self, raw_headers: Iterable[tuple[bytes, bytes]], *, reason: str | None = None
    ) -> PlainAnswer:
        said = self.reason if reason is None else reason
        answer = PlainAnswer(self.lines, self.code, said, self.lines.of(raw_headers), self.length)
        answer.should_close = self.should_close
        return answer


class Whole:
    """A body that came with its head: a ``StreamReader`` at its end, for a tenth of the price."""

    __slots__ = ("_data", "total_bytes")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.total_bytes = len(data)

    def is_eof(self) -> bool:
        return True

    def at_eof(self) -> bool:
        return not self._data

    def read_nowait(self) -> bytes:
        data, self._data = self._data, b""
        return data

    async def readany(self) -> bytes:
        return self.read_nowait()

    def exception(self) -> None:
        """Nothing can go wrong with it any more."""

    def set_exception(self, error: BaseException) -> None:
        pass


Message = RawRequestMessage | PlainRequest
Answer = RawResponseMessage | PlainAnswer
Payload = StreamReader | Whole


class Lines:
    """What the lines of heads are, on one side of the proxy."""

    __slots__ = ("_bits", "_kind_of", "_names", "_seen")

    def __init__(self, kind_of: Callable[[bytes], int], *, bits: Mapping[int, int]) -> None:
        """``kind_of`` says of which kind a name is, ``bits`` which kinds a plain head may have, and the bit of each."""
        self._kind_of = kind_of
        self._bits = bits
        self._names: dict[bytes, tuple[int, int, bool]] = {}
        """In each spelling that came: its kind, its bit, and whether its lines are remembered."""
        self._seen: dict[bytes, Field] = {}

    @property
    def remembered(self) -> Collection[bytes]:
        """Lines that are known, as they came."""
        return self._seen.keys()

    @property
    def names(self) -> Collection[bytes]:
        """Names that are known, as they came."""
        return self._names.keys()

    def of(self, raw_headers: Iterable[tuple[bytes, bytes]]) -> list[Field]:
        """The fields that a parser has read."""
        names = self._names
        return [
            ((names.get(name) or self._learn(name))[0], name, value, b"%b: %b\r\n" % (name, value), 0)
            for name, value in raw_headers
        ]

    def request(self, head: bytes) -> PlainRequest | None:
        """A request of the common form; None for any other. ``head`` ends with its blank line, the first one."""
        lines = head[:-4].split(b"\r\n")
        first = lines.pop(0).split(b" ")
        if len(first) != 3 or first[2] != b"HTTP/1.1":
            return None
        method = _METHODS.get(first[0])
        target = first[1]
        if method is None or target[:1] != b"/" or target.translate(None, _TARGET):
            return None
        found = self._fields(lines)
        if found is None:
            return None
        fields, bits, length = found
        if not bits & HOST:
            return None
        request = PlainRequest(self, method, target.decode("ascii"), fields)
        if bits & LENGTH:
            request.length = int(length)
        request.should_close = bits & CLOSES != 0
        return request

    def answer(self, head: bytes) -> PlainAnswer | None:
        """A final answer of the common form, with a length; None for any other. ``head`` is without its blank line."""
        lines = head.split(b"\r\n")
        status = _statuses.get(lines[0]) or _status(lines[0])
        if status is None:
            return None
        del lines[0]
        found = self._fields(lines)
        if found is None:
            return None
        fields, bits, length = found
        if not bits & LENGTH:
            return None
        answer = PlainAnswer(self, *status, fields, int(length))
        answer.should_close = bits & CLOSES != 0
        if bits & _LOOKED_AT == DATE:
            answer.passing = b"".join(map(_line, fields))
        return answer

    def _fields(self, lines: list[bytes]) -> tuple[list[Field], int, bytes] | None:
        """Fields, the bits that they set, and the length that they tell."""
        if len(lines) > MAX_FIELDS:
            return None
        seen = self._seen
        fields = []
        bits = 0
        length = b""
        for line in lines:
            field = seen.get(line) or self._field(line)
            if field is None:
                return None
            bit = field[4]
            if bit:
                if bits & bit:
                    return None
                bits |= bit
                if bit == LENGTH:
                    length = field[2]
            fields.append(field)
        if bits & CONNECTION == CONNECTION:
            return None
        return fields, bits, length

    def _field(self, line: bytes) -> Field | None:
        name, colon, value = line.partition(b": ")
        if name not in self._names and not _NAME.fullmatch(name):
            return None
        kind, bit, repeated = self._names.get(name) or self._learn(name)
        if bit == ODD or not colon or value.strip(b" \t") != value or value.translate(None, _VALUE):
            return None
        if bit == CONNECTION:
            bit = _CONNECTIONS.get(value.lower(), ODD)
            if bit == ODD:
                return None
        elif bit == LENGTH and not (value.isdigit() and len(value) <= LONGEST_LENGTH):
            return None
        onward = b"" if bit & CONNECTION else line + b"\r\n"  # this one holds for one hop
        field = (kind, name, value, onward, bit)
        if repeated and len(line) <= LONGEST:
            if len(self._seen) >= KNOWN:
                self._seen.clear()
            self._seen[line] = field
        return field

    def _learn(self, name: bytes) -> tuple[int, int, bool]:
        """A field's name that is new in this spelling."""
        kind = self._kind_of(name)
        lower = name.lower()
        bit = self._bits.get(kind, ODD)
        known = (kind, bit or _ONCE.get(lower, 0), lower in _REPEATED)
        if lower == b"sec-websocket-key1":  # the parser refuses it
            known = (kind, ODD, False)
        if len(name) <= LONGEST:
            if len(self._names) >= KNOWN:
                self._names.clear()
            self._names[name] = known
        return known


_CONNECTIONS: Final[Mapping[bytes, int]] = {b"keep-alive": KEEPS, b"close": CLOSES}
_statuses: Final[dict[bytes, tuple[int, str]]] = {}


def _status(line: bytes) -> tuple[int, str] | None:
    """Code and reason of a status line that is new."""
    found = _STATUS.fullmatch(line)
    if found is None or int(found[1]) in _BODYLESS:
        return None
    status = int(found[1]), found[2].decode("ascii")
    if len(line) <= LONGEST:
        if len(_statuses) >= KNOWN:
            _statuses.clear()
        _statuses[line] = status
    return status
