"""aiohttp's C parsers, set up for a proxy: nothing decompressed, everything strict, and checked at the start."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import Any, Final

from aiohttp import http_parser
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, HttpResponseParser
from aiohttp.streams import StreamReader

from tokenproxy.errors import TokenproxyError
from tokenproxy.proxy.problem import ProblemError, bad_request
from tokenproxy.proxy.side import Side

compiled: Any = None
with contextlib.suppress(ImportError):  # no wheel for this machine
    compiled = importlib.import_module("aiohttp._http_parser")

BUFFER: Final = 64 * 1024
"""Bytes of a body that wait on either side (twice that before reading pauses); 256 KiB measured no faster."""
MAX_FIELDS: Final = 128
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNK_SLACK: Final = 64 * 1024
"""
What chunk framing, extensions and trailers may take beyond eight times the body.

RFC 9112 section 7.1.1 asks for a bound; a body in chunks of one byte needs six times its size.
"""


def request_parser(protocol: Any, loop: asyncio.AbstractEventLoop, *, line: int) -> HttpRequestParser:
    """
    A parser for one caller; ``line`` bounds the target and each field, in bytes.

    One message a call (``max_msg_queue_size``): a parser that meets broken bytes forgets the messages before them.
    """
    return HttpRequestParser(
        protocol,
        loop,
        BUFFER,
        max_line_size=line,
        max_field_size=line,
        max_headers=MAX_FIELDS,
        auto_decompress=False,
        max_msg_queue_size=1,
    )


def response_parser(
    protocol: Any,
    loop: asyncio.AbstractEventLoop,
    *,
    line: int,
    headless: bool = False,
    lenient: bool = False,
) -> HttpResponseParser:
    """
    A parser for the answers of one upstream connection; ``headless`` after HEAD, whose answers have no body.

    The strict mode hangs on a module flag that the constructor reads. It is put back at once: ``ClientSession``
    towards token endpoints, in the same process, keeps its lenient parser.
    """
    before = compiled.DEBUG
    compiled.DEBUG = not lenient
    try:
        return HttpResponseParser(
            protocol,
            loop,
            BUFFER,
            max_line_size=line,
            max_field_size=line,
            max_headers=MAX_FIELDS,
            response_with_body=not headless,
            read_until_eof=True,
            auto_decompress=False,
        )
    finally:
        compiled.DEBUG = before


def stream(protocol: Any, loop: asyncio.AbstractEventLoop) -> StreamReader:
    """A body that is filled without a parser; ``protocol`` is paused while too much of it waits."""
    return StreamReader(protocol, BUFFER, loop=loop)


def between_messages(parser: Any) -> bool:
    """
    Whether a parser that has given a whole message holds nothing of another one; else it is of no use afterwards.

    It tries to make a message of what it has, so that a fault in it means that there is something.
    """
    try:
        return parser.feed_eof() is None
    except HttpProcessingError:
        return False


def check_parsers() -> None:
    """
    Raise unless the parsers are the C ones and strict.

    The pure-Python parser is where most of aiohttp's smuggling advisories were; and the strict mode hangs on a
    private name, so we look whether it does what we need before the first caller comes.
    """
    if compiled is None or http_parser.HttpRequestParser is not compiled.HttpRequestParser:
        raise TokenproxyError(
            "aiohttp runs without its C extensions, whose strict parsers tokenproxy needs.",
            next_step="Unset AIOHTTP_NO_EXTENSIONS, or install aiohttp from a wheel.",
        )
    loop = asyncio.new_event_loop()
    try:
        parser = response_parser(Side(loop), loop, line=BUFFER)
        parser.feed_data(b"HTTP/1.1 204 No Content\r\nX-Folded: a\r\n b\r\n\r\n")
    except HttpProcessingError:
        return
    finally:
        loop.close()
    raise TokenproxyError(
        "This version of aiohttp parses answers leniently, which tokenproxy cannot allow.",
        next_step="Install aiohttp >=3.14.3,<3.15.",
    )


def request_problem(error: HttpProcessingError) -> ProblemError:
    """What to tell a caller about a parser's error; the error's own text quotes the input and stays here."""
    if isinstance(error, LineTooLong) or error.message.startswith("Too many headers"):
        return head_too_large()
    return bad_request("The request cannot be parsed as HTTP/1.1.")


def head_too_large() -> ProblemError:
    return ProblemError(
        "head_too_large",
        "The head of the request has more bytes or fields than this proxy takes.",
        next_step="Send less, or raise head under [limits].",
    )
