"""
Pictures made here, as numbers for SVG attributes: a content security policy without inline styles lets nothing else
decide how long a bar is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tokenproxy.admin.dashboard.history import MINUTES, Hour

WIDTH: Final = 2 * MINUTES
"""Of a sparkline; two units a minute."""
HEIGHT: Final = 48
"""Units, whole ones: a page of a thousand of these is read and sent too."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    line: str
    """Points of a polyline: requests."""
    area: str
    """The same down to the ground."""
    errors: tuple[tuple[int, int], ...]
    """(x, y) of bars: errors, drawn to the same measure."""
    words: str
    """For whoever does not see it."""


def sparkline(hour: Hour) -> Sparkline:
    top, drawn = max(*hour.requests, 1), hour.requests
    if drawn[-1] < drawn[-2]:  # a minute under way is not less because it is not over
        drawn = drawn[:-1]
    points = _points(drawn, top)
    return Sparkline(
        line=points,
        area=f"0,{HEIGHT} {points} {2 * (len(drawn) - 1)},{HEIGHT}",
        errors=tuple((2 * minute, _height(count, top)) for minute, count in enumerate(hour.errors) if count),
        words=counted(hour),
    )


def counted(hour: Hour) -> str:
    """``1,204 requests, 3 errors``."""
    requests = f"{hour.total:,} {'request' if hour.total == 1 else 'requests'}"
    if not hour.total:
        return "no requests"
    return f"{requests}, {hour.failed:,} {'error' if hour.failed == 1 else 'errors'}"


def _points(counts: Sequence[int], top: int) -> str:
    return " ".join(f"{2 * minute},{_height(count, top)}" for minute, count in enumerate(counts))


def _height(count: int, top: int) -> int:
    """From above, a little away from the edges, so that a line at the top is seen whole."""
    return HEIGHT - 2 - (HEIGHT - 4) * count // top


def left(expires_at: datetime | None, renewed_at: datetime | None, now: datetime) -> int | None:
    """Per cent of a token's life that are left; None where nobody knows how long it was."""
    if expires_at is None or renewed_at is None or expires_at <= renewed_at:
        return None
    share = (expires_at - now) / (expires_at - renewed_at)
    return round(100 * min(1.0, max(0.0, share)))
