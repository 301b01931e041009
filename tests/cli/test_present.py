"""How things look, where looks decide whether a person understands."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tokenproxy.cli.present import Printer, moment, problem_lines, span, table, until, when

NOW = datetime(2026, 11, 22, 14, 26, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (38 * 60, "38 min"), (89 * 60, "89 min"), (5400, "2 h"),
     (35 * 3600, "35 h"), (36 * 3600, "2 days"), (-180, "3 min")],
)  # fmt: skip
def test_a_span_has_one_number_and_one_unit(seconds: float, words: str) -> None:
    """Nobody wants to read 5,399 seconds."""
    assert span(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (NOW + timedelta(minutes=38), "15:04 (38 min)"),
        (NOW - timedelta(minutes=3), "14:23 (3 min ago)"),
        (NOW + timedelta(days=2), "24 Nov 14:26 (2 days)"),
        (NOW + timedelta(days=400), "27 Dec 2027 14:26 (400 days)"),
    ],
)
def test_a_moment_names_its_day_only_where_it_is_not_today(at: datetime, words: str) -> None:
    assert until(at, NOW) == words


def test_moments_are_told_in_the_time_of_the_person() -> None:
    """A status is in UTC; 23:30 there may be tomorrow here."""
    here = NOW.astimezone(timezone(timedelta(hours=2)))
    at = moment("2026-11-22T23:30:00Z", here)

    assert at is not None
    assert when(at, here) == "23 Nov 01:30"


def test_colour_does_not_shift_the_columns() -> None:
    """An escape sequence takes no column on the screen."""
    rows = [("\x1b[32m✓\x1b[0m ok", "a"), ("✗ no", "b")]

    assert [line[-1] for line in table(rows).splitlines()] == ["a", "b"]
    assert table(rows).splitlines()[1] == "✗ no  b"


def test_a_long_problem_does_not_push_all_the_others_away() -> None:
    problems: list[dict[str, Any]] = [
        {"path": "a.b", "message": "short", "line": 3},
        {"path": "routes.crm.upstream", "message": "long " * 40, "line": None},
    ]
    first, second = problem_lines(problems)

    assert first.startswith("  a.b                   short ")
    assert first.endswith("   line 3")
    assert len(first) < 120
    assert second.startswith("  routes.crm.upstream   long long")


class _Screen(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "color", "environ", "mark"),
    [
        ("utf-8", True, {}, "\x1b[31m✗\x1b[0m"),
        ("utf-8", False, {}, "✗"),
        ("utf-8", True, {"NO_COLOR": "1"}, "✗"),
        ("utf-8", True, {"TERM": "dumb"}, "✗"),
        ("ascii", False, {}, "FAIL"),
        ("latin-1", True, {}, "\x1b[31mFAIL\x1b[0m"),
    ],
)
def test_a_mark_is_what_the_terminal_can_show(
    encoding: str, color: bool, environ: dict[str, str], mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    screen = _Screen(io.BytesIO(), encoding=encoding)

    assert Printer(color=color).mark("bad", stream=screen) == mark
