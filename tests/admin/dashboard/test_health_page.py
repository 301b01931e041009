"""Whether all is well with the process, and what doctor finds."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from tests.admin.dashboard.visitor import Visitor
from tests.admin.program import NOON, Found, examined
from tokenproxy.admin.api import Desk, tcp_app
from tokenproxy.admin.dashboard.pages import Dashboard
from tokenproxy.admin.dashboard.sight import Sight
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.health import Health
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.server import serve_tcp
from tokenproxy.core.interfaces import Replica
from tokenproxy.errors import StoreError
from tokenproxy.metrics import Metrics
from tokenproxy.stores.memory import MemoryStore


async def test_it_says_what_runs_and_how_it_is(visitor: Visitor, metrics: Metrics) -> None:
    metrics.reloads["ok"], metrics.last_reload_success = 2, (NOON - timedelta(minutes=5)).timestamp()
    metrics.store.seconds["commit"].observe(0.0004)
    metrics.store.error("claim", "full")

    said = (await visitor.open("/health")).seen.text

    assert "Ready for requests." in said
    assert "0.1.0 on Python 3." in said
    assert "Reloads 2, the last 5 min ago" in said
    assert "commit 1\u00d7 0.4 ms on average" in said
    assert "claim failed 1\u00d7, full" in said
    assert "Requests under way 3" in said


async def test_it_says_why_no_request_should_come(visitor: Visitor, health: Health) -> None:
    async def full() -> str | None:
        raise StoreError("The disk is <full>.")

    health.checks["store"] = full
    for page in ("/health", "/"):
        seen = (await visitor.open(page)).seen
        assert "not ready" in seen.text
    said = (await visitor.open("/health")).seen.text
    assert "Not ready for requests: store. The disk is <full>." in said


async def test_replicas_are_told_by_name(desk: Desk, pages: LoginPages, sight: Sight) -> None:
    class Shared(MemoryStore):
        async def replicas(self) -> list[Replica]:
            return [
                Replica(f"host-{each} 4711", "0.1.0", NOON, NOON - timedelta(seconds=each)) for each in (1, 3)
            ]

        async def holder(self, account: str) -> str:
            return "host-3 4711" if account == "books" else ""

    async with _dashboard(desk, pages, dataclasses.replace(sight, store=Shared())) as visitor:
        said = (await visitor.open("/health")).seen.text
        assert "host-3 4711 0.1.0, since 2026-11-22 12:00:00 UTC , heard of 3 s ago" in said
        assert "yes, by host-3 4711" in (await visitor.open("/accounts/books")).seen.text


async def test_doctor_is_asked_by_a_click_alone(visitor: Visitor) -> None:
    """It reads every row and asks every provider: no reload of a page does that."""
    page = await visitor.open("/health")
    assert "config.toml, 2 routes" not in page.text

    answer = await visitor.send("/health", do="examine")
    assert (answer.status, answer.headers["Location"]) == (303, "/health#findings")
    page = await visitor.open("/health")
    assert "store lies on <overlayfs>. mount a volume" in page.seen.text
    assert "provider login.example its certificate ended tell them" in page.seen.text
    assert "<overlayfs>" not in page.text
    assert "Looked at" in page.seen.text

    await visitor.send("/health", do="examine-here")
    said = (await visitor.open("/health")).seen.text
    assert "its certificate ended" not in said
    assert "asking nobody else" in said


async def test_one_look_at_a_time(desk: Desk, pages: LoginPages, sight: Sight) -> None:
    going, gate, looks = asyncio.Event(), asyncio.Event(), 0

    async def slow(offline: bool) -> list[Found]:
        nonlocal looks
        looks += 1
        going.set()
        await gate.wait()
        return await examined(offline)

    async with _dashboard(desk, pages, dataclasses.replace(sight, examine=slow)) as visitor:
        key = (await visitor.open("/log-in")).form_key
        first = asyncio.create_task(visitor.send("/health", key=key, do="examine"))
        await going.wait()
        await visitor.send("/health", key=key, do="examine")
        assert "Somebody else is looking already" in (await visitor.open("/health")).seen.text
        gate.set()
        await first
    assert looks == 1


@asynccontextmanager
async def _dashboard(desk: Desk, pages: LoginPages, sight: Sight) -> AsyncIterator[Visitor]:
    """Signed in to a dashboard of its own."""
    app = tcp_app(desk, Guard.of("https://tokens.example:8443"), pages, Dashboard(sight))
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen")
    visitor = Visitor(running)
    await visitor.sign_in()
    yield visitor
    await running.close()
