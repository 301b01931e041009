"""
Requests whose head is not made at the gate: those that may hold placeholders, and those of the ``X-Proxy-*`` form.

The gate decides where a request goes; only then are placeholders replaced, and never in what decided it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from tokenproxy.core.placeholders import (
    UnresolvedError,
    Values,
    found_in,
    found_in_target,
    in_body,
    in_header,
    in_target,
    looked_through,
)
from tokenproxy.core.targets import UnfitURLError, allowed, matches, tidied, wanted
from tokenproxy.proxy.card import canonical, without_parameter
from tokenproxy.proxy.lane import Lane
from tokenproxy.proxy.problem import ProblemError, bad_request

Fields = list[tuple[bytes, bytes]]

URL, METHOD, HEADERS = b"x-proxy-url", b"x-proxy-method", b"x-proxy-headers"
FORM: Final = b"x-proxy-"
"""What begins so is the form's, and goes no further."""
_PASSED_OUTSIDE: Final = frozenset(
    {b"accept", b"accept-language", b"content-encoding", b"content-type", b"user-agent"}
)
"""Fields of the request itself that go on where ``X-Proxy-Headers`` does not say others; never Cookie or Referer."""
_NEVER_INSIDE: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"tokenproxy-key",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Hop-by-hop fields, what frames and addresses the request, and the key that callers prove themselves with."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_BODYLESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class Draft:
    """What a request's head will be made of; placeholders are still in it."""

    __slots__ = ("fields", "said", "target")

    def __init__(self, target: str, fields: Fields) -> None:
        self.target = target
        """Path and query as the upstream will see them."""
        self.fields = fields
        """In order, without what frames the message."""
        self.said: dict[bytes, bytes] = {}
        """What was put into the target, and the placeholder that it stands for."""

    def written(self, lane: Lane, values: Values | None) -> tuple[str, Fields]:
        """Target and fields with all placeholders replaced; raises ``ProblemError``."""
        target, fields = self.target, self.fields
        if values is not None:
            try:
                target = in_target(target.encode("utf-8", "surrogateescape"), values, self.said).decode()
                fields = [(name, in_header(value, values)) for name, value in fields]
            except UnresolvedError as unresolved:
                raise unresolved_problem(unresolved) from None
        if lane.target is None:
            return target, fields
        target = tidied(target)
        if not matches(lane.target.path, target.partition("?")[0]):
            raise unresolved_problem(
                "With its placeholders replaced, the address is not one of targets any more."
            )
        return target, fields

    @property
    def names_values(self) -> bool:
        """Whether target or fields hold a placeholder."""
        target = self.target.encode("utf-8", "surrogateescape")
        return found_in_target(target) or any(found_in(value) for _, value in self.fields)

    @property
    def body_kind(self) -> str:
        """Content-Type where the body is text that may hold placeholders, else empty."""
        named = {name.lower(): value for name, value in self.fields}
        if named.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            return ""
        kind = named.get(b"content-type", b"").decode("latin-1")
        return kind if looked_through(kind) else ""


def replaced_body(body: bytes, kind: str, values: Values) -> bytes:
    try:
        return in_body(body, kind, values)
    except UnresolvedError as unresolved:
        raise unresolved_problem(unresolved) from None


def unresolved_problem(what: UnresolvedError | str) -> ProblemError:
    return ProblemError(
        "placeholder_unresolved",
        str(what),
        next_step="Put it there (docs/placeholders.md), or correct the request; nothing was sent.",
    )


def plain(lane: Lane, target: str, fields: Fields, nominated: frozenset[bytes]) -> tuple[Draft, bool]:
    """
    A request to a route with placeholders, and whether it brings its own credential in our token's place.

    A field that would be dropped goes on where it holds a placeholder: whoever wrote it means it.
    """
    kept = [
        (name, value)
        for name, value in fields
        if name.lower() not in nominated
        and name.lower() != b"content-length"
        and (canonical(name) not in lane.dropped or _meant(lane, name, value))
    ]
    kept, own = _settled(lane, kept, ours=not lane.route.tokenless)
    target, asked = _own_parameter(lane, target)
    return Draft(target, kept), own or asked


def _own_parameter(lane: Lane, target: str) -> tuple[str, bool]:
    """The target, and whether it brings a credential of its own in the place that our token takes in a query."""
    if not (lane.route.placeholders and lane.route.inject.query):
        return target, False
    raw = target.encode("utf-8", "surrogateescape")
    name = canonical(lane.route.inject.query.encode())
    meant = without_parameter(raw, name, but=found_in_target)
    if meant == without_parameter(raw, name):
        return target, False  # what else stands there is dropped when ours is put in
    return meant.decode("utf-8", "surrogateescape"), True


def _settled(lane: Lane, fields: Fields, *, ours: bool) -> tuple[Fields, bool]:
    """The fields that go on, and whether a credential is among them: else ours follows, with what we set beside it."""
    place = canonical(lane.route.inject.header.encode())
    if any(canonical(name) == place for name, _ in fields):
        return fields, True
    return [field for field in fields if not ours or canonical(field[0]) not in lane.beside], False


def _meant(lane: Lane, name: bytes, value: bytes) -> bool:
    """Whether a field that is dropped otherwise names a value; what names the account never goes on."""
    one = canonical(name)
    chooses = lane.by_header is not None and one == canonical(lane.by_header[1].encode())
    return lane.route.placeholders and not chooses and one not in lane.changed and found_in(value)


def form(
    lane: Lane, method: str, fields: Fields, nominated: frozenset[bytes], *, bodied: bool
) -> tuple[Lane, str, Draft, bool]:
    """
    The request that ``X-Proxy-*`` fields describe: its lane, method and draft, and whether it brings its own credential.

    ``bodied``: it has a body, which the fields of the request itself may describe. Raises ``ProblemError`` where they
    say nothing sensible or nothing allowed.
    """
    said: dict[bytes, bytes] = {}
    outside: Fields = []
    for name, value in fields:
        one = canonical(name)
        if one.startswith(FORM):
            if one in said:
                raise bad_request("The request has one of the X-Proxy fields twice.")
            said[one] = value
        elif (
            one in _PASSED_OUTSIDE
            and name.lower() not in nominated
            and (bodied or not one.startswith(b"content-"))
        ):
            outside.append((name, value))
    if URL not in said:
        raise bad_request("The request has no X-Proxy-Url, and this route takes no others.")
    inner = said.get(METHOD, method.encode()).decode("latin-1").strip().upper()
    if method == "HEAD" and inner != "HEAD":
        raise bad_request("A HEAD request cannot carry another method.")
    try:
        url = wanted(said[URL].decode("latin-1").strip())
        chosen: Lane = allowed(lane.targets, url, inner, of=lambda each: each.target)
    except UnfitURLError as unfit:
        raise ProblemError(
            "not_allowed",
            str(unfit),
            next_step=f"Add it to targets of [routes.{lane.route.name}] if it may be asked.",
        ) from None
    inside = _inside(said.get(HEADERS, b""))
    names = {canonical(name) for name, _ in inside}
    inside += [(name, value) for name, value in outside if canonical(name) not in names]
    if chosen.route.reads_bodies:  # the lane asks for plain bodies itself
        inside = [field for field in inside if canonical(field[0]) != b"accept-encoding"]
    own = canonical(chosen.route.inject.header.encode())
    if chosen.target is not None and chosen.target.token:
        replaced = chosen.route.placeholders
        inside = [
            (name, value)
            for name, value in inside
            if canonical(name) != own or (replaced and found_in(value))
        ]
    inside, brought = _settled(chosen, inside, ours=chosen.target is not None and chosen.target.token)
    asked_for, asked = _own_parameter(chosen, url.target)
    return chosen, inner, Draft(asked_for, inside), brought or asked


def _inside(text: bytes) -> Fields:
    """The fields of ``X-Proxy-Headers``, a JSON object of text."""
    try:
        said: Any = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, Mapping):
        raise bad_request("X-Proxy-Headers is not a JSON object.")
    fields: Fields = []
    for name, value in said.items():
        if not _TOKEN.fullmatch(name) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise bad_request("X-Proxy-Headers has a field that no request can have.")
        one = canonical(name.encode())
        if one not in _NEVER_INSIDE and not one.startswith((FORM, b"proxy-", b"sec-")):
            fields.append((name.encode(), value.strip(" \t").encode("latin-1")))
    return fields


class Preflight:
    """A browser asks whether a page of a listed origin may send what it wants to send (Fetch Standard 3.2)."""

    __slots__ = ("head",)

    def __init__(self, lane: Lane, origin: bytes, *, private: bool, credentials: bool = False) -> None:
        """
        ``private``: the browser asks as well whether a page from elsewhere may reach this machine. ``credentials``: some
        callers show who they are by ``Authorization``.
        """
        names = [
            *(["Authorization"] if credentials else []),
            "Content-Type",
            "Tokenproxy-Key",
            "X-Proxy-Authorization",
            "X-Proxy-Headers",
            "X-Proxy-Method",
        ]
        names += ["X-Proxy-Url", *(lane.by_header[1:] if lane.by_header is not None else ())]
        self.head = b"".join(
            (
                b"HTTP/1.1 204 No Content\r\n",
                cors(origin),
                b"Access-Control-Allow-Methods: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n",
                f"Access-Control-Allow-Headers: {', '.join(names)}\r\n".encode(),
                b"Access-Control-Max-Age: 600\r\n",
                b"Access-Control-Allow-Private-Network: true\r\n" if private else b"",
            )
        )
        """Without Date, Connection and the blank line."""


def cors(origin: bytes) -> bytes:
    """What lets a page of this origin read an answer."""
    return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: *\r\nVary: Origin\r\n" % origin


_CORS_LINE: Final = re.compile(rb"(?i)(?:(?<=\n)|\A)access-control-[^\r\n]*\r\n")
_LENGTH_LINE: Final = re.compile(rb"(?i)(?:(?<=\n)|\A)content-length:[^\r\n]*\r\n")


def answer_fields(fields: bytes, *, cors_lines: bytes, bodyless: bool) -> bytes:
    """
    Of an answer to the ``X-Proxy-*`` form: what an upstream says about origins is about another page than this.

    ``bodyless``: it answers HEAD, and the request that carried it was none.
    """
    if bodyless:
        fields = _LENGTH_LINE.sub(b"", fields) + b"Content-Length: 0\r\n"
    return _CORS_LINE.sub(b"", fields) + cors_lines if cors_lines else fields


def framing(method: str, *, length: int | None, chunked: bool) -> bytes:
    """The line that tells how long the body is."""
    if chunked:
        return b"Transfer-Encoding: chunked\r\n"
    if length is None or (length == 0 and method in _BODYLESS):
        return b""
    return b"Content-Length: %d\r\n" % length
