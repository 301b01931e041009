"""News for open pages: who gets them, how many, when, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from tests.admin.dashboard.visitor import Visitor
from tests.admin.program import Desk
from tests.simulators import FakeClock
from tokenproxy.admin.dashboard import live
from tokenproxy.admin.dashboard.history import History
from tokenproxy.admin.dashboard.sessions import LIFE
from tokenproxy.admin.health import Health


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes a second in life."""
    monkeypatch.setattr(live, "LOOK", 0.01)
    monkeypatch.setattr(live, "TICK", 0.5)


class Stream:
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> str:
        """The name of the next event; "" at the end."""
        async with asyncio.timeout(10):
            while line := await self.answer.content.readline():
                if line.startswith(b"event: "):
                    return line.decode().removeprefix("event: ").strip()
        return ""


@asynccontextmanager
async def stream(visitor: Visitor, page: str = "accounts") -> AsyncIterator[Stream]:
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"http://{visitor.running.address}/events?page={page}", headers={"Cookie": cookie}
        ) as answer,
    ):
        yield Stream(answer)


async def test_a_page_hears_of_what_happens(visitor: Visitor, history: History) -> None:
    async with stream(visitor) as events:
        assert events.answer.headers["Content-Type"] == "text/event-stream"
        assert events.answer.headers["Cache-Control"] == "no-store"
        assert await events.next() == "hello"
        history.timeline.hear("token_renewed", {"account": "books"})
        assert await events.next() == "change"
        assert await events.next() == "tick", "time goes by too"


async def test_only_the_page_of_requests_hears_of_requests(visitor: Visitor, history: History) -> None:
    row = (1000.0, "books", "books", "", "GET", "/", 200, "", 0.1, 0.1, 1)
    async with stream(visitor) as events, stream(visitor, "requests") as requests:
        assert (await events.next(), await requests.next()) == ("hello", "hello")
        history.recent.rows.append(row)
        assert await requests.next() == "change"
        assert await events.next() == "tick"


async def test_the_page_of_a_login_hears_of_its_end(visitor: Visitor, logins: Desk) -> None:
    where = (await visitor.send("/log-in", account="books")).headers["Location"]
    async with stream(visitor, where.rpartition("/")[2]) as events:
        assert await events.next() == "hello"
        logins.becomes(state="success")
        assert await events.next() == "change"


async def test_there_are_so_many_streams_and_no_more(visitor: Visitor) -> None:
    """Each is a connection, of which the listener has 256; whoever leaves makes room."""
    async with AsyncExitStack() as stack:
        for _ in range(live.MOST):
            assert await (await stack.enter_async_context(stream(visitor))).next() == "hello"
        async with stream(visitor) as one_more:
            assert one_more.answer.status == 503
            assert one_more.answer.headers["Retry-After"] == "30"
    async with asyncio.timeout(10):
        while True:
            async with stream(visitor) as again:
                if again.answer.status == 200:
                    break


async def test_it_ends_with_the_session(visitor: Visitor, clock: FakeClock) -> None:
    async with stream(visitor) as events:
        assert await events.next() == "hello"
        await clock.advance(LIFE)
        assert [each async for each in _rest(events)] in ([], ["tick"])


async def test_it_ends_with_the_sign_out(visitor: Visitor) -> None:
    async with stream(visitor) as events:
        assert await events.next() == "hello"
        await visitor.send("/sign-out")
        assert [each async for each in _rest(events)] in ([], ["tick"])


async def test_it_ends_when_the_program_drains(visitor: Visitor, health: Health) -> None:
    async with stream(visitor) as events:
        assert await events.next() == "hello"
        health.draining = True
        assert [each async for each in _rest(events)] in ([], ["tick"])
    async with stream(visitor) as events:
        assert events.answer.status == 503


async def test_it_holds_up_no_end_of_the_listener(visitor: Visitor) -> None:
    async with stream(visitor) as events:
        assert await events.next() == "hello"
        async with asyncio.timeout(5):
            await visitor.running.close()


async def _rest(events: Stream) -> AsyncIterator[str]:
    while name := await events.next():
        yield name
