"""The program behind the admin side, as far as these tests need one."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.simulators import FakeClock
from tokenproxy.core.interfaces import Landing
from tokenproxy.core.provider import Account, Provider, Registration
from tokenproxy.errors import UnknownAccountError, UnknownLoginError
from tokenproxy.metrics import AccountGauge
from tokenproxy.oauth.state import LoginState
from tokenproxy.stores.memory import MemoryStore

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BOOKS = Provider(name="plain", token_url="https://login.example/token")
TOKEN = "the-admin-token-of-these-tests"


@dataclass
class Program:
    """Implements ``Accounts`` and ``Operations``; ``fails`` makes its next call raise. State is the real thing."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    imported: list[bytes] = field(default_factory=list)
    fails: Exception | None = None

    def __post_init__(self) -> None:
        accounts = {"books": Account(name="books", provider=BOOKS, registration=Registration(client_id="c"))}
        self.states = LoginState(MemoryStore(), clock=FakeClock(), accounts=lambda: accounts)
        self.put("books", state="ok", generation=3, live=True, expires_at="2026-11-22T12:38:00Z")

    def put(self, account: str, **said: Any) -> None:
        self.rows[account] = {"account": account, "state": "new", "detail": "", "next_step": "", **said}

    def _row(self, account: str) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        if account not in self.rows:
            raise UnknownAccountError(
                f"There is no account {account}.", account=account, next_step="tokenproxy status"
            )
        return self.rows[account]

    async def statuses(self) -> list[dict[str, Any]]:
        if self.fails is not None:
            raise self.fails
        return [self.rows[name] for name in sorted(self.rows)]

    async def page(self, *, after: str = "", limit: int) -> list[dict[str, Any]]:
        return [row for row in await self.statuses() if row["account"] > after][:limit]

    async def overview(self, *, rows: int) -> dict[str, Any]:
        found = await self.statuses()
        states = Counter(row["state"] for row in found)
        shown = found if len(found) <= rows else [row for row in found if row["state"] != "ok"][:rows]
        return {"total": len(found), "states": dict(states), "accounts": shown}

    async def status(self, account: str) -> dict[str, Any]:
        return self._row(account)

    async def import_answer(self, account: str, answer: bytes) -> dict[str, Any]:
        self.imported.append(answer)
        self._row(account)["state"] = "ok"
        return self._row(account)

    async def refresh(self, account: str) -> dict[str, Any]:
        self._row(account)["generation"] += 1
        return self._row(account)

    async def logout(self, account: str) -> dict[str, Any]:
        self._row(account)["state"] = "new"
        return self._row(account)

    async def rebind(self, account: str) -> dict[str, Any]:
        return self._row(account) | {"rebound": True}

    async def reload(self) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        return {"accounts": len(self.rows)}

    async def rotate_keys(self) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        return {"resealed": len(self.rows), "key_id": "1f3a"}

    async def backup(self, path: str) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        return {"path": path, "accounts": len(self.rows)}

    async def verify(self) -> dict[str, Any]:
        return {"ok": True, "accounts": len(self.rows)}

    async def examine(self) -> dict[str, Any]:
        return {"findings": []}

    async def stop(self) -> dict[str, Any]:
        return {"pid": 4711, "in_flight": 0}

    async def logs(self, *, after: int, wait: float) -> dict[str, Any]:
        return {"lines": ['{"event":"started"}'], "next": after + 1, "missed": 0}

    async def info(self) -> dict[str, Any]:
        return {"version": "0.1.0", "pid": 4711, "uptime": 12.5, "listeners": {}, "config": "config.toml"}


@dataclass
class Desk:
    """Implements ``Logins``: one login, which a test moves on; ``lands`` is what every landing becomes."""

    now: dict[str, Any] = field(
        default_factory=lambda: {
            "id": "l1", "account": "books", "state": "pending", "error": "", "detail": "", "next_step": "",
            "question": "", "expires_at": "2026-11-22T12:10:00Z", "result": None,
        }
    )  # fmt: skip
    lands: Landing = field(
        default_factory=lambda: Landing("success", "Logged in", "You can close this window.")
    )
    in_fragment: bool = False
    sends_to: str = "https://login.example/authorize?state=s"
    begun: list[dict[str, Any]] = field(default_factory=list)
    landed: list[dict[str, Any]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    polls: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    polled: asyncio.Event = field(default_factory=asyncio.Event)
    fails: Exception | None = None

    def becomes(self, **changed: Any) -> None:
        self.now |= changed
        self.changed.set()

    def _the(self, login: str) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        if login != self.now["id"]:
            raise UnknownLoginError("there is no such login", next_step="tokenproxy login books")
        return dict(self.now)

    async def begin(self, account: str, **asked: Any) -> dict[str, Any]:
        self._the("l1")
        self.begun.append({"account": account, **asked})
        return {"id": "l1", "account": account, "authorize_url": "https://login.example/authorize?state=s"}

    async def status(self, login: str, *, wait: float = 0.0) -> dict[str, Any]:
        self._the(login)
        self.polls += 1
        self.polled.set()
        if wait:
            await asyncio.wait([asyncio.ensure_future(self.changed.wait())], timeout=wait)
        return self._the(login)

    async def confirm(self, login: str) -> dict[str, Any]:
        self.becomes(state="success", question="")
        return self._the(login)

    async def cancel(self, login: str) -> dict[str, Any]:
        self._the(login)
        self.becomes(state="failed", error="cancelled")
        return self._the(login)

    async def open(self, login: str, *, browser: str) -> str:
        self._the(login)
        self.opened.append(browser)
        return self.sends_to

    async def land(
        self, address: str, *, account: str = "", key: str = "", browser: str | None = None
    ) -> Landing:
        self.landed.append({"address": address, "account": account, "key": key, "browser": browser})
        if self.in_fragment and "#" not in address:
            return Landing("fragment", "One moment", "")
        return self.lands

    async def paste(self, login: str, address: str) -> dict[str, Any]:
        self.landed.append({"address": address, "pasted": True})
        return self._the(login)

    def callback_address(self, account: str) -> str:
        return f"https://tokens.example:8443/callback/{account}"


def gauges() -> list[AccountGauge]:
    return [
        AccountGauge(
            "books", {"ok": 2, "login_required": 1}, token_expiry=1e9, refresh_token_expiry=None, overdue=1
        )
    ]


@dataclass(frozen=True)
class Found:
    """As ``doctor`` finds it."""

    level: str
    name: str
    sentence: str
    remedy: str = ""


async def examined(offline: bool) -> list[Found]:
    found = [
        Found("good", "config", "config.toml, 2 routes"),
        Found("warn", "store", "lies on <overlayfs>.", "mount a volume"),
    ]
    return (
        found
        if offline
        else [*found, Found("bad", "provider login.example", "its certificate ended", "tell them")]
    )
