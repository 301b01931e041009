"""An upstream's answer without the token that it got from us (``core.echoes``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tokenproxy.core.echoes import Echoes, Sieve
from tokenproxy.proxy.answer import KINDS, LEADING
from tokenproxy.proxy.chunks import Trailers
from tokenproxy.proxy.plain import Answer, Payload
from tokenproxy.proxy.problem import ProblemError
from tokenproxy.proxy.revise import with_fields

NO_CODINGS: Final = frozenset({b"", b"identity", b"none", b"utf-8"})
"""What stands in Content-Encoding where nothing is encoded, the mistakes of some servers included."""


class Sieved:
    """A body on its way to the caller, without our token; what was read of it already comes first."""

    __slots__ = ("_echoes", "_found", "_held", "_payload", "_sieve")

    def __init__(self, payload: Payload, held: bytes, echoes: Echoes, found: Callable[[], None]) -> None:
        """``found`` is called once, when there is something to hide."""
        self._payload = payload
        self._held = held
        self._echoes = echoes
        self._sieve = Sieve(echoes)
        self._found: Callable[[], None] | None = found

    @property
    def total_bytes(self) -> int:
        return self._payload.total_bytes

    @property
    def trailers(self) -> Trailers:
        given: Trailers = getattr(self._payload, "trailers", ())
        return tuple((self._echoes.hidden(name), self._echoes.hidden(value)) for name, value in given)

    def is_eof(self) -> bool:
        return self._payload.is_eof()

    def read_nowait(self) -> bytes:
        """All of it, when it is here."""
        whole = self._sieve.feed(self._held + self._payload.read_nowait()) + self._sieve.end()
        self._held = b""
        self._tell()
        return whole

    async def readany(self) -> bytes:
        """The next piece that can be passed on; empty at the end."""
        while True:
            piece = self._held or await self._payload.readany()
            self._held = b""
            passed = self._sieve.feed(piece) if piece else self._sieve.end()
            self._tell()
            if passed or not piece:
                return passed

    def _tell(self) -> None:
        if self._sieve.found and self._found is not None:
            self._found()
            self._found = None


def without_echo(answer: Answer, echoes: Echoes, *, leading: bool = False) -> Answer:
    """
    The answer's head without our token, the same object where none was in it.

    ``leading``: only in fields that lead on, as ``Location`` does; else in all fields, their names and the reason.
    """
    reason = answer.reason
    if leading:
        fields = tuple(
            (name, echoes.hidden(value) if name.lower() in LEADING else value)
            for name, value in answer.raw_headers
        )
    else:
        fields = tuple(
            (name, value) if name.lower() in KINDS else (echoes.hidden(name), echoes.hidden(value))
            for name, value in answer.raw_headers  # a length that a password happens to be is a length
        )
        reason = echoes.hidden(reason.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    if fields == tuple(answer.raw_headers) and reason == answer.reason:
        return answer
    return with_fields(answer, fields, reason=reason)


def check_legible(answer: Answer, *, bodyless: bool, route: str) -> None:
    """Raise ``upstream_invalid`` for a body in which nobody can look for the token, though a plain one was asked for."""
    if bodyless:
        return
    codings = {
        coding.strip(b" \t").lower()
        for name, value in answer.raw_headers
        if name.lower() == b"content-encoding"
        for coding in value.split(b",")
    }
    if codings <= NO_CODINGS:
        return
    raise ProblemError(
        "upstream_invalid",
        "The upstream's answer is compressed though it was asked not to be, so that nobody can look for the token in it.",
        next_step=f"Switch compression off at the upstream, or redact_echo of [routes.{route}].",
    )
