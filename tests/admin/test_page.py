"""The start page: honest words, nothing executable, nothing that an account's text could break out of."""

from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

from tests.admin.program import NOON
from tokenproxy.admin.page import WORDS, distance, render
from tokenproxy.core.account import State


def page(*accounts: dict[str, Any], **reasons: str) -> str:
    overview = {"total": len(accounts), "states": {}, "accounts": accounts}
    return render(overview, reasons, now=NOON, version="0.1.0")


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_row_says_until_when_and_what_to_do() -> None:
    """A person must see within a second whether to do anything."""
    text = " ".join(
        Tags(
            page(
                {"account": "books", "state": "ok", "expires_at": "2026-11-22T12:38:00Z", "live": True},
                {
                    "account": "erp/anna",
                    "identity": "anna@example.com",
                    "state": "login_required",
                    "detail": "The provider said invalid_grant.",
                    "next_step": "tokenproxy login erp/anna",
                    "renewed_at": "2026-11-22T09:12:00+00:00",
                },
            )
        ).words
    )

    assert "2026-11-22 12:38 UTC (in 38 min)" in " ".join(text.split())
    assert "login required" in text
    assert "The provider said invalid_grant." in text
    assert "tokenproxy login erp/anna" in text
    assert "(3 h ago)" in text


def test_nothing_from_a_provider_becomes_markup() -> None:
    """Identities and error texts come from outside."""
    nasty = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    keys = ("account", "identity", "state", "detail", "next_step", "expires_at", "renewed_at")

    html = page(dict.fromkeys(keys, nasty), store=nasty)

    assert Tags(html).seen.isdisjoint({"script", "img"})
    assert html.count("&lt;script&gt;") == len(keys) + 1


def test_every_state_has_words() -> None:
    """A new state must not show up as a bare identifier."""
    assert set(WORDS) == {state.value for state in State}


def test_many_logins_are_counted_and_those_that_are_not_well_shown() -> None:
    """100,000 rows are no page that anybody reads."""
    unwell = {"account": "crm/anna", "state": "login_required", "next_step": "tokenproxy login crm/anna"}
    overview = {"total": 100_000, "states": {"ok": 99_999, "login_required": 1}, "accounts": [unwell]}
    words = " ".join(Tags(render(overview, {}, now=NOON, version="0.1.0")).words)
    assert "100,000 logins: 1 login required, 99,999 ok. Below: those that are not well." in words
    assert "tokenproxy login crm/anna" in words

    well = {"total": 100_000, "states": {"ok": 100_000}, "accounts": []}
    assert "100,000 logins: 100,000 ok. All are well." in render(well, {}, now=NOON, version="0.1.0")


def test_no_account_is_not_an_empty_table() -> None:
    html = page(store="read-only")

    assert "[accounts.NAME]" in html
    assert "Not ready for requests. store: read-only" in html


def test_distances_read_as_people_say_them() -> None:
    said = [distance(timedelta(seconds=each)) for each in (0, 59, 150, 7000, 7300, 200_000, -150, -1)]

    assert said == [
        "0 s ago",
        "in 59 s",
        "in 2 min",
        "in 117 min",
        "in 2 h",
        "in 2 d",
        "2 min ago",
        "1 s ago",
    ]
