"""W3C Trace Context: what a ``traceparent`` field says, and one of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

FIELD: Final = b"traceparent"
_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^\r\n]*)?")
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A place in a trace."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 of them."""
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parent_of(fields: Iterable[tuple[bytes, bytes]]) -> TraceParent | None:
    """Of a head; None where it has none, several, or one that the recommendation calls invalid (section 3.2.2)."""
    given = [value for name, value in fields if name.lower() == FIELD]
    if len(given) != 1:
        return None
    found = _FORM.fullmatch(given[0].strip(b" \t"))
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    if not found[2].strip(b"0") or not found[3].strip(b"0"):
        return None
    return TraceParent(found[2].decode(), found[3].decode(), bool(int(found[4], 16) & _SAMPLED))
