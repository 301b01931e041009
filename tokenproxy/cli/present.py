"""How things look: marks, colour, tables, and times as a person says them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TextIO

COLOURS: Final = {"good": "32", "bad": "31", "warn": "33"}
SIGNS: Final = {"good": ("✓", "ok"), "bad": ("✗", "FAIL"), "warn": ("!", "!")}
"""What a terminal shows, and what it shows where the encoding has no such letter."""

_NARROWEST: Final = 40
_WIDEST: Final = 72
"""Columns that a sentence may take before what follows it is no longer aligned."""


class Printer:
    """Results go to standard output, messages to standard error; ``quiet`` leaves results and errors."""

    def __init__(self, *, quiet: bool = False, color: bool = True) -> None:
        self.quiet = quiet
        self._color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def result(self, text: str) -> None:
        """What was asked for."""
        print(text, file=sys.stdout, flush=True)

    def json(self, value: object) -> None:
        self.result(json.dumps(value, indent=2))

    def done(self, text: str, *, mark: str = "good") -> None:
        """What a command has done; the exit code says the same, so ``quiet`` leaves it out."""
        if not self.quiet:
            self.result(f"{self.mark(mark)} {text}")

    def say(self, text: str = "") -> None:
        """Beside what a command has done."""
        if not self.quiet:
            self.result(text)

    def note(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def mark(self, kind: str, *, stream: TextIO | None = None) -> str:
        """``✓``, ``✗`` or ``!``, in colour on a terminal; words where the encoding has no such letters."""
        stream = sys.stdout if stream is None else stream
        fancy, plain = SIGNS[kind]
        sign = fancy if _can_write(fancy, stream) else plain
        if not self._color or not stream.isatty():
            return sign
        return f"\x1b[{COLOURS[kind]}m{sign}\x1b[0m"


def _can_write(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# -- tables ----------------------------------------------------------------------------------------------------------


def table(rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Columns two blanks apart; nothing is cut, and the last column is not padded."""
    rows = [list(row) for row in rows]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)]
        lines.append(f"{indent}{'  '.join(cells)}".rstrip())
    return "\n".join(lines)


def width(text: str) -> int:
    """Columns that a text takes, without the colour in it."""
    count, inside = 0, False
    for letter in text:
        if letter == "\x1b":
            inside = True
        elif inside:
            inside = letter != "m"
        else:
            count += 1
    return count


def problem_lines(problems: Iterable[Mapping[str, Any]], *, lead: str = "  ") -> list[str]:
    """``routes.crm.grant   "authcode" is not a grant.   line 8``, aligned as far as that is readable."""
    rows = [(each["path"], each["message"], each["line"]) for each in problems]
    if not rows:
        return []
    path_width = min(max(len(path) for path, _, _ in rows), _NARROWEST)
    text_width = min(max(len(message) for _, message, _ in rows), _WIDEST)
    lines = []
    for path, message, line in rows:
        start = f"{path:<{path_width}}   " if path_width else ""
        end = f"   line {line}" if line is not None else ""
        lines.append(f"{lead}{start}{message:<{text_width}}{end}".rstrip())
    return lines


def counted(count: int, noun: str) -> str:
    """``1 route``, ``2 routes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# -- times -----------------------------------------------------------------------------------------------------------

_UNITS: Final = ((86400.0, "day"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def span(length: timedelta) -> str:
    """``38 min``; a unit is used from one and a half of it on."""
    seconds = abs(length.total_seconds())
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 1.5 * size), _UNITS[-1])
    number = round(seconds / size)
    return counted(number, unit) if unit == "day" else f"{number} {unit}"


def moment(iso: str | None, now: datetime) -> datetime | None:
    """An ISO 8601 time of a status in the time zone of ``now``; None where there is none."""
    return datetime.fromisoformat(iso).astimezone(now.tzinfo) if iso else None


def when(at: datetime, now: datetime) -> str:
    """``15:04`` today, else ``23 Nov 15:04``, else with the year; both in the same time zone."""
    if at.date() == now.date():
        return f"{at:%H:%M}"
    return f"{at.day} {at:%b %H:%M}" if at.year == now.year else f"{at.day} {at:%b %Y %H:%M}"


def until(at: datetime, now: datetime) -> str:
    """``15:04 (38 min)``, ``14:04 (3 min ago)``."""
    ago = " ago" if at < now else ""
    return f"{when(at, now)} ({span(at - now)}{ago})"
