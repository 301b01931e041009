"""What a route changes in the heads of its upstream's answers; built once, and only for routes that change something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp.http_parser import RawResponseMessage

from tokenproxy.core.leads import Leads
from tokenproxy.core.routes import Route
from tokenproxy.proxy.plain import Answer, PlainAnswer
from tokenproxy.proxy.problem import outgoing_refused

Change = Callable[[str], str]


class Revision:
    __slots__ = ("_changes", "_outgoing", "_removed", "_upstream", "lines", "redacts")

    def __init__(self, route: Route) -> None:
        self.lines: Final = route.answer_headers.lines
        """Fields of ours."""
        self.redacts: Final = route.redact_echo
        """Our token is hidden in the whole answer."""
        self._removed = frozenset(name.lower().encode() for name in route.answer_headers.taken)
        self._changes = _changes(route)
        self._upstream = route.upstream
        self._outgoing = route.upstream.proxy if route.upstream.form else None

    def revised(self, message: Answer) -> Answer:
        """The answer without what is taken out, its addresses rewritten; ``lines`` are not in it."""
        if message.code == 407 and self._outgoing is not None:
            # Only a proxy says so, and the caller knows nothing of it.
            raise outgoing_refused(self._outgoing, 407, self._upstream.authority)
        removed, changes = self._removed, self._changes
        fields = []
        for field in message.raw_headers:
            name = field[0].lower()
            if name in removed:
                continue
            change = changes.get(name)
            if change is not None:
                field = field[0], change(field[1].decode("latin-1")).encode("latin-1")  # noqa: PLW2901 - its new form
            fields.append(field)
        return with_fields(message, tuple(fields))


def _changes(route: Route) -> Mapping[bytes, Change]:
    leads = Leads(upstream=route.upstream, prefix=route.prefix, host=route.host_header)
    changes: dict[bytes, Change] = {}
    if route.rewrite_location:
        changes = {
            b"location": leads.location,
            b"content-location": leads.location,
            b"refresh": leads.refresh,
            b"link": leads.link,
        }
    if route.rewrite_cookies:
        changes[b"set-cookie"] = leads.cookie
    return changes


def revision(route: Route) -> Revision | None:
    """None where answers go to the caller as they are."""
    changed = route.answer_headers.taken or route.answer_headers.added
    rewritten = route.rewrite_location or route.rewrite_cookies or route.redact_echo
    return Revision(route) if changed or rewritten or route.upstream.form else None


def with_fields(
    message: Answer, fields: tuple[tuple[bytes, bytes], ...], *, reason: str | None = None
) -> Answer:
    if isinstance(message, PlainAnswer):
        return message.with_fields(fields, reason=reason)
    return RawResponseMessage(
        message.version,
        message.code,
        message.reason if reason is None else reason,
        message.headers,
        fields,
        message.should_close,
        message.compression,
        message.upgrade,
        message.chunked,
    )
