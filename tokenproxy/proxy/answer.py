"""The head of an upstream's answer: checked, and made ready for the caller."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11

from tokenproxy.core.problems import BODY_NOT_REPLAYABLE
from tokenproxy.proxy import plain
from tokenproxy.proxy.card import canonical
from tokenproxy.proxy.chunks import announcement
from tokenproxy.proxy.parsers import CHUNKED
from tokenproxy.proxy.plain import KNOWN, LONGEST, LONGEST_LENGTH, Answer, Field, Lines, PlainAnswer
from tokenproxy.proxy.problem import upstream_invalid
from tokenproxy.proxy.revise import with_fields

PLAIN, HOP, CONNECTION, LENGTH, ENCODING, DATE, TRAILER, LEADS = range(8)

KINDS: Final[Mapping[bytes, int]] = {
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"date": DATE,
    b"trailer": TRAILER,
    # RFC 9110 section 7.6.1
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"te": HOP,
    b"upgrade": HOP,
    b"tokenproxy-error": HOP,  # says that we made the answer, which no upstream may say
}
CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
MARK: Final = b"Tokenproxy-Error: %s\r\n" % BODY_NOT_REPLAYABLE.encode()

LEADING: Final = frozenset({b"location", b"content-location", b"link", b"refresh"})
"""Fields that lead on: they quote the address that was asked for, or one close to it."""
SHORTEST_UNSAID: Final = 6
"""Bytes of a value that is looked for in an answer; shorter ones stand there by chance."""

_status_lines: Final[dict[tuple[int, str], bytes]] = {}


class AnswerHead:
    """How an answer goes to the caller."""

    __slots__ = ("announces", "fields", "sized", "status_line", "withheld")

    leads = False
    """One of ``LEADING`` is among the fields."""

    def __init__(self, status_line: bytes, fields: bytes) -> None:
        self.status_line = status_line
        self.fields = fields
        """As they came, in order, without what belongs to the upstream's connection."""
        self.sized = False
        """Content-Length, or no body at all: the caller knows where the answer ends."""
        self.announces = b""
        """The line that says which trailers will come."""
        self.withheld: frozenset[bytes] | None = None
        """None: no trailers are announced; else the names, canonical, that Connection keeps back."""


class _LeadingHead(AnswerHead):
    __slots__ = ()

    leads = True


def read_answer(message: Answer, *, headless: bool, date: Callable[[], bytes]) -> AnswerHead:  # noqa: C901, PLR0912 - one pass over the fields
    """
    Check a final answer and make its head; raises ``upstream_invalid``. ``headless`` where the request was HEAD,
    ``date`` makes a Date line for answers that have none (RFC 9110 section 6.6.1).
    """
    if isinstance(message, PlainAnswer) and message.passing:
        head = AnswerHead(status_line(message.code, message.reason), message.passing)
        head.sized = True
        return head
    version = message.version
    if version != HttpVersion11 and version != HttpVersion10:  # noqa: PLR1714 - cheaper than building a tuple
        raise upstream_invalid("The upstream speaks neither HTTP/1.0 nor HTTP/1.1.")
    fields: list[Field] = []
    nominated: frozenset[bytes] = frozenset()
    encodings: tuple[bytes, ...] = ()
    trailing: tuple[bytes, ...] = ()
    sized = dated = leads = False
    code = message.code
    bodyless = headless or code == 204 or code == 304  # noqa: PLR1714 - cheaper than building a set
    for field in message.fields if isinstance(message, PlainAnswer) else LINES.of(message.raw_headers):
        kind = field[0]
        if kind == PLAIN:
            fields.append(field)
        elif kind == DATE:
            dated = True
            fields.append(field)
        elif kind == LEADS:
            leads = True
            fields.append(field)
        elif kind == LENGTH:
            if len(field[2]) > LONGEST_LENGTH:
                raise upstream_invalid("The upstream's answer has a length that is none.")
            if code != 204:  # RFC 9110 section 8.6
                sized = True
                fields.append(field)
        elif kind == ENCODING:
            encodings += (field[2],)
        elif kind == CONNECTION:
            nominated |= frozenset(name.strip(b" \t").lower() for name in field[2].split(b","))
        elif kind == TRAILER:
            trailing += (field[2],)
    if encodings:
        _check_encoding(
            encodings, chunked=bodyless or bool(message.chunked), modern=bodyless or version == HttpVersion11
        )
    if nominated and nominated - {b"keep-alive", b"close"}:
        nominated -= {b"content-length"}
        fields = [field for field in fields if field[1].lower() not in nominated]
        dated = any(field[0] == DATE for field in fields)
    lines = [field[3] for field in fields]
    if not dated:
        lines.append(date())
    head = (_LeadingHead if leads else AnswerHead)(status_line(code, message.reason), b"".join(lines))
    head.sized = sized or bodyless
    if trailing:
        head.withheld = frozenset(map(canonical, nominated))
        head.announces = announcement(trailing, head.withheld) if message.chunked else b""
    return head


def without_token(message: Answer, parameter: bytes) -> Answer:
    """
    The answer without the parameter that carried our token, where a field quotes the address that we asked for.

    A redirect to the same place with a slash at its end is enough: its ``Location`` is the caller's to follow.
    """
    if not any(parameter in value for _, value in message.raw_headers):
        return message
    name = parameter.partition(b"=")[0] + b"="
    return with_fields(
        message, tuple((field, value.replace(parameter, name)) for field, value in message.raw_headers)
    )


def unsaid(message: Answer, said: Mapping[bytes, bytes]) -> Answer:
    """
    The answer with placeholders back in their places, where a field that leads on quotes what was put into the target.

    ``said``: value -> placeholder. What a redirect says is the caller's to follow, and the caller does not know it.
    """
    known = {value: name for value, name in said.items() if len(value) >= SHORTEST_UNSAID}
    if not known or not any(field.lower() in LEADING for field, _ in message.raw_headers):
        return message
    pattern = re.compile(b"|".join(re.escape(value) for value in sorted(known, key=len, reverse=True)))
    return with_fields(
        message,
        tuple(
            (field, pattern.sub(lambda found: known[found[0]], value) if field.lower() in LEADING else value)
            for field, value in message.raw_headers
        ),
    )


def is_event_stream(message: Answer) -> bool:
    """Server-sent events (WHATWG HTML section 9.2)."""
    return any(
        name.lower() == b"content-type" and value.partition(b";")[0].strip().lower() == b"text/event-stream"
        for name, value in message.raw_headers
    )


def interim(message: Answer) -> bytes:
    """A whole 1xx answer for the caller (RFC 9110 section 15.2)."""
    lines = [
        b"%b: %b\r\n" % field
        for field in message.raw_headers
        if canonical(field[0]) not in KINDS or field[0].lower() == b"date"
    ]
    return status_line(message.code, message.reason) + b"".join(lines) + b"\r\n"


def switched(answer: Answer, protocol: bytes) -> bytes:
    """
    The head of a 101 for the caller, without the blank line; raises ``upstream_invalid`` for one to another protocol than
    was asked for.
    """
    named = [value.strip(b" \t").lower() for name, value in answer.raw_headers if name.lower() == b"upgrade"]
    if not answer.upgrade or answer.version != HttpVersion11 or named != [protocol.lower()]:
        raise upstream_invalid("The upstream switched to a protocol that nobody asked for.")
    nominated = {
        option.strip(b" \t").lower()
        for name, value in answer.raw_headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    }
    lines = [
        b"%b: %b\r\n" % field
        for field in answer.raw_headers
        if field[0].lower() not in nominated and _passes(field[0])
    ]
    lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocol)
    return status_line(answer.code, answer.reason) + b"".join(lines)


def _passes(name: bytes) -> bool:
    one = canonical(name)
    return one == b"date" or not (one in KINDS or one.startswith(b"proxy-"))


def ending(head: AnswerHead, *, modern: bool, keep: bool, marked: bool) -> tuple[bytes, bool, bool]:
    """The last lines of the head, whether the body is chunked, and whether the connection may be kept."""
    chunked = not head.sized and modern
    keep = keep and (head.sized or chunked)
    lines = (MARK if marked else b"") + (CHUNKED + head.announces if chunked else b"")
    if not keep:
        lines += b"Connection: close\r\n"
    elif not modern:
        lines += b"Connection: keep-alive\r\n"
    return lines + b"\r\n", chunked, keep


def _kind_of(name: bytes) -> int:
    lower = name.lower()
    kind = LEADS if lower in LEADING else KINDS.get(lower, PLAIN)
    if kind == PLAIN and (canonical(name) in KINDS or name[:6].lower() == b"proxy-"):
        return HOP
    return kind


LINES: Final = Lines(
    _kind_of,
    bits={
        PLAIN: 0,
        DATE: plain.DATE,
        CONNECTION: plain.CONNECTION,
        LENGTH: plain.LENGTH,
        LEADS: plain.LEADS,
    },
)


def status_line(code: int, reason: str) -> bytes:
    line = _status_lines.get((code, reason))
    if line is None:
        if CONTROL.search(reason):  # RFC 9112 section 4: a reason holds visible characters and blanks
            raise upstream_invalid("The upstream's status line has control characters.")
        line = b"HTTP/1.1 %d %b\r\n" % (code, reason.encode("utf-8", "surrogateescape"))
        if len(reason) <= LONGEST:
            if len(_status_lines) >= KNOWN:
                _status_lines.clear()
            _status_lines[code, reason] = line
    return line


def _check_encoding(encodings: tuple[bytes, ...], *, chunked: bool, modern: bool) -> None:
    if len(encodings) != 1 or encodings[0].lower() != b"chunked" or not chunked or not modern:
        raise upstream_invalid("The upstream's answer has a transfer coding that is not chunked alone.")
