"""
Which requests a route lets through (``allow``): by method and path, decided on the very bytes that go upstream.

Upstreams differ in what they make of a path: some decode twice, some merge slashes, some cut parameters off behind a
semicolon. So a route with a list takes only paths that all of them read alike: what is written in a way that is not the
plainest is refused before it is compared, and the query is never looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from tokenproxy.core.globs import meaning

ANY: Final = "*"
OVERRIDES: Final = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-http-path-override",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
"""Fields by which frameworks let a request say that it means another method or path than it has, in lower case
and with hyphens."""

_PLAIN: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,=:@-]+/)*[A-Za-z0-9._~!$&'()*+,=:@-]*")
"""A path of which nothing can be read in two ways, dots aside."""
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,=:@/;-]|%[0-9A-Fa-f]{2})*")
"""RFC 3986 section 3.3, ``path-absolute``, empty segments included."""
_DOTS: Final = re.compile(r"/\.{1,2}(?:/|$)")
_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_NEVER_ENCODED: Final = re.compile(
    r"%(?:[01][0-9a-f]|2[35def]|3[0-9bf]|[46][1-9a-f]|[57][0-9a]|5c|5f|7e|7f)", re.IGNORECASE
)
"""Controls, separators (``/ \\ ; ? # %``) and what needs no encoding (RFC 3986 section 2.3): letters, digits, ``-._~``."""
_SEPARATORS: Final = frozenset("/\\.;%?#")
_ENTRY: Final = re.compile(r"(\*|[A-Z]{3,20}(?:\|[A-Z]{3,20})*) +(/\S*)")
_NEVER: Final = frozenset({"CONNECT", "TRACE"})


class RefusedError(ValueError):
    """Why a request is not let through; one sentence that quotes nothing of it."""

    malformed = False
    """It is no path at all, whatever the list says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One item of ``allow``."""

    methods: frozenset[str]
    """``HEAD`` is among them where ``GET`` is, as with nginx; ``*`` for every method."""
    pattern: str
    means: Callable[[str], object] = field(init=False, repr=False, compare=False)
    """True for the paths of the pattern."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", _spelt(self.pattern))
        object.__setattr__(self, "means", meaning(self.pattern))

    @classmethod
    def of(cls, text: str) -> Entry:
        """``GET /v2/**``, ``GET|POST /x`` or ``* /x``; raises ``ValueError`` with a sentence."""
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise ValueError(
                'must be a method and a path such as "GET /v2/**", "GET|POST /users" or "* /users/*"'
            )
        methods = frozenset(found[1].split("|"))
        if methods & _NEVER:
            raise ValueError("CONNECT and TRACE are for no route")
        path = found[2]
        if "**" in path and not all(each == "**" or "**" not in each for each in path.split("/")):
            raise ValueError('has "**" beside other characters; it stands for whole segments, as in "/v2/**"')
        if "?" in path:
            raise ValueError("has a query, which is never looked at")
        try:
            check_path(path)
        except RefusedError as refused:
            raise ValueError(f"can never be met: {refused}") from None
        return cls(methods=methods | {"HEAD"} if "GET" in methods else methods, pattern=path)


@dataclass(frozen=True, slots=True)
class Allow:
    """The list of a route; what none of its entries means is refused."""

    entries: tuple[Entry, ...]

    def check(self, method: str, target: str, names: Iterable[bytes] = ()) -> None:
        """
        Raise ``RefusedError`` for what is not let through.

        ``target`` is what is left of the request's behind the route's prefix, ``names`` are those of its fields, spelt
        as ``OVERRIDES`` are.
        """
        path = target.partition("?")[0]
        check_path(path)
        if not OVERRIDES.isdisjoint(names):
            raise RefusedError(
                "A header of the request asks for another method or path than the request has."
            )
        path = _spelt(path)
        for entry in self.entries:
            if (method in entry.methods or ANY in entry.methods) and entry.means(path):
                return
        if any(entry.means(path) for entry in self.entries):
            raise RefusedError("The entries of allow for this path do not have this method.")
        raise RefusedError("No entry of allow has this path.")


def check_path(path: str) -> None:
    """Raise ``RefusedError`` unless every upstream reads the path alike."""
    if _PLAIN.fullmatch(path):
        if "/." in path and _DOTS.search(path):
            raise RefusedError("The path has a dot segment.")
        return
    if not _PATH.fullmatch(path):
        malformed = RefusedError(
            "The path has characters that must be percent-encoded, or a percent sign that encodes none."
        )
        malformed.malformed = True
        raise malformed
    if "//" in path:
        raise RefusedError("The path has an empty segment.")
    if ";" in path:
        raise RefusedError("The path has a semicolon.")
    if _NEVER_ENCODED.search(path):
        raise RefusedError("The path encodes a separator, a control character or what needs no encoding.")
    if _DOTS.search(path):
        raise RefusedError("The path has a dot segment.")
    try:
        text = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:  # overlong forms of "/" among them
        raise RefusedError("The path encodes bytes that are not UTF-8.") from None
    beyond = "".join(each for each in text if not each.isascii())
    if not _SEPARATORS.isdisjoint(unicodedata.normalize("NFKC", beyond)):
        raise RefusedError("The path has a character that is a separator to whoever simplifies it.")


def _spelt(path: str) -> str:
    """``%c3`` and ``%C3`` are the same (RFC 3986 section 6.2.2.1)."""
    return _ENCODED.sub(lambda found: found[0].upper(), path) if "%" in path else path
