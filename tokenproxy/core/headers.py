"""Fields that a route adds to heads, puts in the place of others, or takes out (``request_headers``, ``answer_headers``)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChanges:
    """What is done to one direction's heads; names as they were written."""

    replaced: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """``set``: the only fields of their names. Values may be secrets."""
    added: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """``add``: beside those that came."""
    removed: tuple[str, ...] = ()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Those of the values that no text of ours may show."""

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of fields that do not go on."""
        return (*(name for name, _ in self.replaced), *self.removed)

    @property
    def lines(self) -> bytes:
        """The fields that are ours, as they are sent."""
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in (*self.replaced, *self.added))


UNCHANGED = HeaderChanges()
