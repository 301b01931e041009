"""One token set as one route's upstream takes it: what a request's head gets, and what is changed in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from tokenproxy.core.echoes import Echoes
from tokenproxy.core.injection import placed
from tokenproxy.core.routes import Route, Upstream, resolved
from tokenproxy.core.tokens import Sendable
from tokenproxy.proxy.problem import ProblemError

_UNSENDABLE: Final = bytes({*range(0x20), 0x7F} - {ord("\t")})
_MARK: Final = "\x00"
"""In the place of a token; no value of a config has it."""
_NAME_ENDS: Final = re.compile(rb"[\[\x00]")
"""PHP and Rails read ``token[x]=y`` as a part of ``token``, and old ones end a name at NUL."""


class Card:
    __slots__ = ("echoes", "key", "line", "parameter", "plain", "query", "tokens", "upstream", "worked")

    upstream: Upstream | None
    """Where the token set leads, where the route leaves it to that."""
    query: bytes

    def __init__(
        self, route: Route, account: str, tokens: Sendable, around: tuple[bytes, bytes] | None = None
    ) -> None:
        """``around`` is the route's ``around_token``. Raises ``misconfigured`` for tokens that it cannot send."""
        self.tokens = tokens
        self.key = tokens.dpop_key if route.dpop else None
        """What each request is to be proven with."""
        self.parameter = b""
        """The query parameter that takes the token, as a lax upstream may read its name."""
        self.echoes: Echoes | None = None
        """How an upstream may repeat it; made when an answer is looked through."""
        self.worked = False
        """The source has been told that an upstream took it."""
        known = tokens.sendable if around is not None else b""
        if around is None or (not known and tokens.captured):
            line, sent = self._made(route, account)
        else:
            self.upstream, self.query = None, b""
            sent = known or tokens.access_token.encode("utf-8", "surrogateescape")
            line = sent.join(around)
        if not (known or _sendable(sent)):
            raise ProblemError(
                "misconfigured",
                "The account's token holds characters that no header may hold, so it is not sent.",
                next_step=f"tokenproxy import {account} < answer.json",
                account=account,
            )
        self.line = line
        """The token's field, others that the profile wants, and the blank line that ends the head."""
        self.plain = not (self.query or self.upstream or self.key)
        """A request's head and ``line`` are all there is to send."""

    def _made(self, route: Route, account: str) -> tuple[bytes, bytes]:
        """``line`` as the profile says, and the values in it; finds out ``upstream`` and ``query``."""
        tokens = self.tokens
        values = {**route.values, **tokens.captured, "access_token": tokens.access_token}
        try:
            what = placed(route.inject, values, bound=self.key is not None)
            self.upstream = resolved(route.upstream, values) if route.upstream.template else None
        except KeyError as missing:
            raise _misconfigured(
                f"The account's tokens came without {missing.args[0]}, which this route's requests need.",
                account,
            ) from None
        except ValueError as wrong:
            raise _misconfigured(f"The account's tokens lead to {wrong}.", account) from None
        self.query, self.parameter = what.query.encode(), canonical(route.inject.query.encode())
        return _written(what.fields)

    def addressed(self, head: bytes) -> tuple[bytes, bytes, bytes]:
        """A request's head as this token set wants it, without ``line``: its first line's method and target, and the rest."""
        first, host, fields = head.split(b"\r\n", 2)
        method, _, rest = first.partition(b" ")
        target = rest.rpartition(b" ")[0]
        if self.upstream is not None:
            target = self.upstream.base.encode() + target
            host = b"Host: " + self.upstream.authority.encode()
        if self.query:
            target = with_parameter(target, self.parameter, self.query)
        return method, target, b"%b\r\n%b" % (host, fields)


def around_token(route: Route) -> tuple[bytes, bytes] | None:
    """
    What stands before and after the access token in ``Card.line``; None where a token set says more than its token.

    So that the line of a login that was not seen lately is joined and not made anew.
    """
    if route.dpop or route.inject.query or route.upstream.template:
        return None
    try:
        what = placed(route.inject, {**route.values, "access_token": _MARK})
    except KeyError:  # only a token set has captured it
        return None
    line, sent = _written(what.fields)
    before, *after = line.split(_MARK.encode())
    return (before, after[0]) if len(after) == 1 and _sendable(sent.replace(_MARK.encode(), b"")) else None


def _written(fields: Iterable[tuple[str, str]]) -> tuple[bytes, bytes]:
    """Fields as they are sent, with the blank line behind them; and their values alone."""
    raw = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in fields]
    line = b"".join([b"%b: %b\r\n" % field for field in raw]) + b"\r\n"
    return line, b"".join([value for _, value in raw])


def _sendable(sent: bytes) -> bool:
    return len(sent.translate(None, _UNSENDABLE)) == len(sent)


def with_parameter(target: bytes, name: bytes, ours: bytes) -> bytes:
    """The target with our parameter at its end, and none before it that a lax upstream could take for it."""
    rest = without_parameter(target, name)
    return rest + (b"&" if b"?" in rest else b"?") + ours


def without_parameter(
    target: bytes, name: bytes, *, but: Callable[[bytes], bool] = lambda _piece: False
) -> bytes:
    """
    The target without what a lax upstream could take for a parameter, except where ``but`` says that it is meant.

    ``name`` is canonical; what else is in the query stays byte for byte. Some upstreams separate by ``;`` as well.
    """
    path, _, query = target.partition(b"?")
    kept = []
    for part in query.split(b"&"):
        others = [piece for piece in part.split(b";") if _parameter(piece) != name or but(piece)]
        if others:
            kept.append(b";".join(others))
    rest = b"&".join(kept)
    return path + b"?" + rest if rest else path


def _parameter(piece: bytes) -> bytes:
    """A parameter's name as a lax upstream may read it."""
    name = unquote_to_bytes(piece.partition(b"=")[0].replace(b"+", b" "))
    return canonical(_NAME_ENDS.split(name, maxsplit=1)[0].strip())


def canonical(name: bytes) -> bytes:
    """
    How a lax upstream may read a field's or a parameter's name: WSGI, CGI and PHP turn everything that is no letter or
    digit into one character, so that ``X_Access_Token`` and ``X-Access-Token`` are the same to them.
    """
    return name.lower().translate(_ONE_SPELLING)


_ONE_SPELLING: Final = bytes(code if chr(code).isalnum() and code < 128 else ord("-") for code in range(256))


def _misconfigured(detail: str, account: str) -> ProblemError:
    return ProblemError("misconfigured", detail, next_step=f"tokenproxy login {account}", account=account)
