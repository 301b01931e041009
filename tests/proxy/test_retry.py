"""Failures of an upstream that pass: tried again where the route says so, and where nothing can go wrong by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.proxy.actors import QUICK, Line, Script, dead, ok, stage, unless
from tests.simulators import free_port
from tokenproxy.core.retries import Retry
from tokenproxy.core.routes import Upstream
from tokenproxy.core.settings import Replay

TWICE = {"retry": Retry(attempts=2)}
BUSY = ok(b"busy", status=b"503 Service Unavailable")


def saying(*answers: bytes) -> Script:
    """One after the other; an empty one cuts the connection. The last is said for ever."""
    left = list(answers)

    async def script(line: Line) -> None:
        await line.body()
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer:
            await line.send(answer)
        else:
            line.cut()
            raise ConnectionResetError

    return script


@pytest.mark.parametrize(
    "first", [BUSY, b"", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=["status", "reset", "half a head"]
)
async def test_what_passes_is_not_seen_by_the_caller(first: bytes) -> None:
    async def script(line: Line) -> None:
        if len(s.upstream.seen) > 1:
            await line.send(ok(b"hello"))
        elif first:
            await line.send(first)
            if first is not BUSY:
                line.cut()
        else:
            line.cut()

    async with stage(script, route=TWICE) as s:
        answer = await (await s.caller()).get()

        assert (answer.status, answer.body) == (200, b"hello")
        one, two = s.upstream.seen
        assert one.head == two.head
        assert s.metrics.route("books").upstream_retries == {"ok": 1, "failed": 0, "over_budget": 0}


async def test_the_last_answer_is_passed_on() -> None:
    async with stage(saying(BUSY, ok(b"busier", status=b"503 Service Unavailable")), route=TWICE) as s:
        answer = await (await s.caller()).get()

        assert (answer.status, answer.body, len(s.upstream.seen)) == (503, b"busier", 2)
        assert s.metrics.route("books").upstream_retries["failed"] == 1


async def test_without_a_word_nothing_is_tried_again() -> None:
    async with stage(saying(BUSY, ok(b"hello"))) as s:
        assert (await (await s.caller()).get()).status == 503


@pytest.mark.parametrize("answers", [(BUSY, ok()), (b"", ok())])
async def test_a_post_is_never_sent_twice(answers: Sequence[bytes]) -> None:
    async with stage(saying(*answers), route=TWICE) as s:
        answer = await (await s.caller()).post(b"pay")

        assert answer.status in {502, 503}
        assert len(s.upstream.seen) == 1


async def test_a_post_that_never_left_is_tried_again() -> None:
    """Nobody listens: nothing was sent, so that every method may try as often as the route says."""
    upstream = Upstream(scheme="http", host="127.0.0.1", port=free_port(), authority="api.example")
    async with stage(route={"upstream": upstream, "retry": Retry(attempts=4)}) as s:
        answer = await (await s.caller()).post(b"pay")

        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert s.metrics.route("books").upstream_retries["failed"] == 3


async def test_a_put_is_sent_again_with_its_body_where_the_route_says_so() -> None:
    retry = Retry(attempts=2, methods=frozenset({"PUT"}))
    body = b"x" * 200_000
    put = b"PUT /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n" + body
    async with stage(saying(BUSY, ok(b"hello")), route={"retry": retry}) as s:
        caller = await s.caller()
        await caller.send(put)

        assert (await caller.answer()).status == 200
        assert [seen.body for seen in s.upstream.seen] == [body, body]

    async with stage(
        saying(BUSY, ok(b"hello")), route={"retry": retry, "replay": Replay(memory=1000, disk=0)}
    ) as s:
        caller = await s.caller()
        await caller.send(put)

        assert (await caller.answer()).status == 503, "the body was too large to be kept"
        assert len(s.upstream.seen) == 1


async def test_an_upstream_that_asks_for_patience_is_not_pressed() -> None:
    patient = ok(b"", b"Retry-After: 60", status=b"503 Service Unavailable")
    async with stage(saying(patient, ok(b"hello")), route=TWICE) as s:
        answer = await (await s.caller()).get()

        assert (answer.status, answer.values(b"retry-after")) == (503, [b"60"])
        assert len(s.upstream.seen) == 1


async def test_a_second_try_may_still_be_renewed_for() -> None:
    async with stage(saying(BUSY, dead(), ok(b"hello")), route=TWICE) as s:
        answer = await (await s.caller()).get()

        assert answer.body == b"hello"
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-1", b"token-2"]


async def test_all_tries_share_the_time_for_a_first_byte() -> None:
    """The second has only what the first has left of it."""

    async def script(line: Line) -> None:
        if len(s.upstream.seen) == 1:
            await asyncio.sleep(QUICK.first_byte / 2)
            await line.send(BUSY)
        # and then nothing

    async with stage(script, route=TWICE, deadlines=QUICK) as s:
        begun = asyncio.get_running_loop().time()
        answer = await (await s.caller()).get()

        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert asyncio.get_running_loop().time() - begun < QUICK.first_byte * 1.9


async def test_an_upstream_that_is_down_gets_no_more_than_its_budget() -> None:
    async with stage(BUSY, route={"retry": Retry(attempts=2)}) as s:
        caller = await s.caller()
        for _ in range(60):
            await caller.get()

        counted = s.metrics.route("books").upstream_retries
        assert counted["failed"] + counted["over_budget"] == 60
        assert 30 <= counted["failed"] <= 30 + 12
        assert len(s.upstream.seen) == 60 + counted["failed"]


async def test_an_answer_that_breaks_off_is_not_begun_again() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"

    async def script(line: Line) -> None:
        await line.send(half)
        line.cut()

    async with stage(script, route=TWICE) as s:
        caller = await s.caller()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.get()
        assert len(s.upstream.seen) == 1


async def test_renewals_go_on_as_without_it() -> None:
    async with stage(unless(b"token-1"), route=TWICE) as s:
        assert (await (await s.caller()).post(b"x")).body == b"hello"
        assert s.source.renewals == ["books"]
