"""
What an upstream may repeat of the token that it got, found in its answers and hidden there.

Each byte of a secret becomes a star, so that nothing gets longer or shorter: lengths, ranges and chunks stay true. The
result is the same however the bytes are cut into pieces: a byte is hidden when some spelling of a secret covers it.
"""

from __future__ import annotations

import html
import json
from base64 import b64decode
from binascii import Error
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

SHORTEST: Final = 6
"""Bytes of a spelling that is looked for; shorter ones stand there by chance."""
_START: Final = 8
"""Bytes of a spelling's beginning by which its place at the end of a piece is found."""
_JSON_ESCAPES: Final = ("", "<>&", "<>&'=", "<>&'+`\"")
"""Characters that encoders write as ``\\u00XX``: none, Go's, Gson's, .NET's."""


class Echoes:
    """The spellings of some secrets."""

    __slots__ = ("_needles", "_starts")

    def __init__(self, secrets: Iterable[str]) -> None:
        self._needles = tuple(sorted({each for secret in secrets for each in spellings(secret)}))
        self._starts = tuple(
            [tuple([needle[:length] for length in range(_START - 1, 0, -1)]) for needle in self._needles]
        )

    def __bool__(self) -> bool:
        return bool(self._needles)

    def hidden(self, text: bytes) -> bytes:
        """The whole text with stars; the same object where there is nothing to hide."""
        spans = [*self.spans(text)]
        return starred(text, spans) if spans else text

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where spellings stand, those that overlap included."""
        for needle in self._needles:
            at = data.find(needle)
            while at >= 0:
                yield at, at + len(needle)
                at = data.find(needle, at + 1)

    def open_end(self, data: bytes) -> int:
        """Where the longest end of the data begins that may be the beginning of a spelling; its length where none is."""
        first = len(data)
        for needle, starts in zip(self._needles, self._starts, strict=True):
            at = data.find(needle[:_START], max(0, len(data) - len(needle) + 1))
            while 0 <= at < first:
                if needle.startswith(data[at:]):
                    first = at
                    break
                at = data.find(needle[:_START], at + 1)
            for start in starts:
                if len(start) <= len(data) - first:
                    break
                if len(start) < len(needle) and data.endswith(start):
                    first = len(data) - len(start)
                    break
        return first


class Sieve:
    """Hides spellings in a body that comes in pieces; holds back no more than what may be the beginning of one."""

    __slots__ = ("_covered", "_echoes", "_held", "found")

    def __init__(self, echoes: Echoes) -> None:
        self._echoes = echoes
        self._held = b""
        self._covered = 0
        """Bytes at the beginning of what is held that are to be hidden whatever follows."""
        self.found = False

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on when this piece has come."""
        data = self._held + piece if self._held else piece
        open_end = self._echoes.open_end(data)
        passed = self._starred(data, open_end)
        self._held = data[open_end:]
        return passed

    def end(self) -> bytes:
        """What was held back, when nothing follows."""
        data, self._held = self._held, b""
        return self._starred(data, len(data))

    def _starred(self, data: bytes, end: int) -> bytes:
        spans = [*self._echoes.spans(data)]
        if spans:
            self.found = True
        covered = self._covered
        # A spelling that lies in what is held is found there again; one that begins before is not.
        self._covered = max((stop - end for start, stop in spans if start < end < stop), default=0)
        self._covered = max(self._covered, covered - end)
        passed = data if end == len(data) else data[:end]
        return starred(passed, [*spans, (0, covered)]) if spans or covered else passed


def starred(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    hidden = bytearray(data)
    for start, stop in spans:
        stop = min(stop, len(hidden))  # noqa: PLW2901 - the part that is here
        hidden[start:stop] = b"*" * (stop - start)
    return bytes(hidden)


def spellings(secret: str) -> frozenset[bytes]:
    """
    How a secret may look in an answer: as it is, and as a URL (once or twice), JSON or HTML quotes it.

    Nearly all tokens consist of characters that nobody quotes, and have one spelling.
    """
    once = quote(secret, safe="", errors="surrogateescape")
    texts = {secret, once, quote(secret, errors="surrogateescape")}
    texts |= {quote_plus(secret, errors="surrogateescape"), quote(once, safe="")}
    texts |= {_lowered(text) for text in (*texts,)}
    texts |= {escaped for text in _in_json(secret) for escaped in (text, text.replace("/", r"\/"))}
    page = html.escape(secret, quote=True)
    texts |= {
        html.escape(secret, quote=False),
        page,
        page.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    }
    texts.add(
        page.replace("&quot;", "&#34;").replace("&#x27;", "&#39;").replace("+", "&#43;")
    )  # Go's templates
    found = [text.encode("utf-8", "surrogateescape") for text in texts]
    return frozenset(each for each in found if len(each) >= SHORTEST)


def _in_json(secret: str) -> Iterator[str]:
    for escaped in _JSON_ESCAPES:
        for form in ("\\u{:04x}", "\\u{:04X}"):
            text = secret.replace("\\", "\\\\")
            text = "".join(form.format(ord(each)) if each in escaped else each for each in text)
            yield text if '"' in escaped else text.replace('"', '\\"')
    yield json.dumps(secret)[1:-1]


def _lowered(text: str) -> str:
    """``%2F`` as ``%2f``."""
    pieces = text.split("%")
    return "%".join([pieces[0], *(piece[:2].lower() + piece[2:] for piece in pieces[1:])])


def shown(token: str, template: str) -> tuple[str, ...]:
    """
    What an upstream knows when it gets the token by this template (``inject.value``).

    Of Basic credentials (RFC 7617) it decodes user and password, and may repeat these.
    """
    if not template.lower().startswith("basic "):
        return (token,)
    try:
        pair = b64decode(token, validate=True).decode("utf-8", "surrogateescape")
    except (Error, ValueError):
        return (token,)
    return token, pair, pair.partition(":")[2]
