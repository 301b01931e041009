"""The list of accounts: by name in pages, or those that fit a word or a state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tokenproxy.admin.dashboard.words import ORDER
from tokenproxy.core.interfaces import Accounts

ROWS: Final = 100
"""Accounts on a page."""
MOST_ROWS: Final = 1000
_PIECE: Final = 500
_LOOKED_AT: Final = 5000
"""Accounts that one search looks at; it can be gone on with from there."""


@dataclass(frozen=True, slots=True)
class Search:
    words: str = ""
    """In the name, the identity or the provider; upper and lower case are the same."""
    state: str = ""
    after: str = ""
    rows: int = ROWS

    @property
    def narrow(self) -> bool:
        return bool(self.words or self.state)

    def fits(self, status: dict[str, Any]) -> bool:
        if self.state and status["state"] != self.state:
            return False
        wanted = self.words.lower()
        return any(
            wanted in str(status.get(name) or "").lower() for name in ("account", "identity", "provider")
        )


@dataclass(frozen=True, slots=True)
class Listing:
    accounts: list[dict[str, Any]]
    next: str = ""
    """The name after which the next page begins; empty: this is the last."""
    looked_at: int = 0
    """Where the search stopped before the end: how many it looked at."""


async def listed(accounts: Accounts, search: Search) -> Listing:
    if not search.narrow:
        page = await accounts.page(after=search.after, limit=search.rows + 1)
        more = len(page) > search.rows
        return Listing(page[: search.rows], page[search.rows - 1]["account"] if more else "")
    found: list[dict[str, Any]] = []
    after, looked_at = search.after, 0
    while looked_at < _LOOKED_AT:
        page = await accounts.page(after=after, limit=_PIECE)
        for status in page:
            if not search.fits(status):
                continue
            if len(found) == search.rows:
                return Listing(found, found[-1]["account"])
            found.append(status)
        looked_at += len(page)
        if len(page) < _PIECE:
            return Listing(found)
        after = page[-1]["account"]
    return Listing(found, after, looked_at)


def by_need(accounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those first that need somebody most, else by name."""
    return sorted(accounts, key=lambda status: (_need(str(status["state"])), str(status["account"])))


def _need(state: str) -> int:
    return ORDER.index(state) if state in ORDER else len(ORDER)
