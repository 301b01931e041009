"""Dead tokens that an upstream tells in other ways than a bare 401, and answers that only look like one."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from tests.proxy.actors import Line, Script, chunked, dead, ok, stage, until
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.provider import Signal
from tokenproxy.core.signals import Signals

SLACK = Signals(when=(Signal(status=(200,), json={"ok": "false", "error": "token_expired"}),))
EXPIRED = json.dumps({"ok": False, "error": "token_expired"}).encode()
JSON = b"Content-Type: application/json"


def first(answer: bytes, *, then: bytes = b"") -> Script:
    """A script that gives the first token this answer, and a good one to every other."""

    async def script(line: Line) -> None:
        await line.body()
        await line.send(answer if line.seen.token == b"token-1" else (then or ok(b"hello")))

    return script


def in_chunks(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\n"
        + JSON
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(body[:9], body[9:])
    )


TELLING = {
    "slack": (SLACK, ok(EXPIRED, JSON)),
    "slack-in-chunks": (SLACK, in_chunks(EXPIRED)),
    "slack-without-a-type": (SLACK, ok(EXPIRED)),
    "facebook": (
        Signals(when=(Signal(status=(400,), json={"error.code": "190"}),)),
        ok(b'{"error": {"code": 190}}', JSON, status=b"400 Bad Request"),
    ),
    "netatmo": (Signals(statuses=(401, 403)), ok(b"{}", JSON, status=b"403 Forbidden")),
    "a-login-page": (
        Signals(when=(Signal(status=(302,), header={"location": "//sso.example/"}),)),
        ok(b"", b"Location: https://sso.example/login", status=b"302 Found"),
    ),
    "a-word": (
        Signals(when=(Signal(body="session over"),)),
        ok(b"<p>session over", b"Content-Type: text/html"),
    ),
}


@pytest.mark.parametrize(("signals", "told"), TELLING.values(), ids=TELLING)
async def test_what_the_profile_calls_dead_is_renewed_and_sent_again(signals: Signals, told: bytes) -> None:
    """Exactly what a 401 does: one renewal, the same request once more, body and all, on the same connection."""
    async with stage(first(told), route={"signals": signals}) as s:
        caller = await s.caller()
        assert (await caller.post(b"order")).body == b"hello"
        assert [(seen.token, seen.body) for seen in s.upstream.seen] == [
            (b"token-1", b"order"),
            (b"token-2", b"order"),
        ]
        assert (s.source.renewals, s.source.confirmed, s.source.held) == (["books"], [("books", 2)], [])
        assert s.upstream.connections == 1
        assert (await caller.get()).body == b"hello"


LIVING = {
    "tiktok": (
        Signals(unless=(Signal(status=(401,), json={"error.code": "scope_not_authorized"}),)),
        ok(b'{"error": {"code": "scope_not_authorized"}}', JSON, status=b"401 Unauthorized"),
    ),
    "insufficient-scope": (
        Signals(statuses=(401, 403)),
        ok(
            b"", b'WWW-Authenticate: Bearer realm="a, b", error="insufficient_scope"', status=b"403 Forbidden"
        ),
    ),
    "claims-challenge": (
        Signals(),
        ok(
            b"",
            b"WWW-Authenticate: Basic",
            b'WWW-Authenticate: Bearer error="insufficient_claims"',
            status=b"401 No",
        ),
    ),
    "another-error-of-slack": (SLACK, ok(b'{"ok": false, "error": "channel_not_found"}', JSON)),
    "compressed": (SLACK, ok(gzip.compress(EXPIRED), JSON, b"Content-Encoding: gzip")),
    "an-image": (SLACK, ok(EXPIRED, b"Content-Type: image/png")),
    "longer-than-we-look": (SLACK, ok(EXPIRED + b" " * 65_536, JSON)),
    "longer-in-chunks": (SLACK, in_chunks(EXPIRED + b" " * 300_000)),
}


@pytest.mark.parametrize(("signals", "told"), LIVING.values(), ids=LIVING)
async def test_other_answers_are_the_callers(signals: Signals, told: bytes) -> None:
    """Nothing is renewed for a permission that is missing, nor for a body that we do not read; it arrives as it came."""
    async with stage(first(told), route={"signals": signals}) as s:
        caller = await s.caller()
        answer = await caller.get()
        assert len(s.upstream.seen) == 1
        assert s.source.renewals == []
        assert answer.head.split(b"\r\n")[0] == told.split(b"\r\n")[0]
        sent = told.partition(b"\r\n\r\n")[2]
        assert answer.body == sent or chunked(answer.body[:9], answer.body[9:]) == sent
        assert (await caller.get()).status == answer.status


async def test_head_has_no_body_to_look_at() -> None:
    async with stage(first(ok(b"", JSON)), route={"signals": SLACK}) as s:
        caller = await s.caller()
        assert (await caller.get(method=b"HEAD")).status == 200
        assert s.source.renewals == []


async def test_a_stream_of_events_is_not_delayed() -> None:
    """An event that has been sent arrives, whatever the route's signals say of bodies."""
    more = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await line.send(b"9\r\ndata: 1\n\n\r\n")
        await more.wait()
        await line.send(b"0\r\n\r\n")

    async with stage(script, route={"signals": SLACK}) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(0.5):
            await caller.head()
            assert await caller.reader.readexactly(14) == b"9\r\ndata: 1\n\n\r\n"
        more.set()
        assert await caller.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_slow_body_is_passed_on_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON that drips is a stream too: what was held back goes first, and nothing is lost or comes twice."""
    monkeypatch.setattr("tokenproxy.proxy.exchange.LOOK_FOR", 0.05)
    more = asyncio.Event()

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nContent-Length: %d\r\n\r\n" % len(EXPIRED))
        await line.send(EXPIRED[:10])
        await more.wait()
        await line.send(EXPIRED[10:])

    async with stage(script, route={"signals": SLACK}) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await caller.head()
        assert await caller.reader.readexactly(10) == EXPIRED[:10]
        more.set()
        assert await caller.reader.readexactly(len(EXPIRED) - 10) == EXPIRED[10:]
        assert s.source.renewals == []


async def test_a_body_that_breaks_off_stays_broken() -> None:
    """What was looked at before the end came must not look like a whole answer."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\nContent-Length: %d\r\n\r\n" % len(EXPIRED))
        await line.send(EXPIRED[:-1])
        line.cut()

    async with stage(script, route={"signals": SLACK}) as s:
        caller = await s.caller()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await caller.get()
        assert s.source.renewals == []


async def test_a_new_token_that_is_refused_in_a_body_too_is_held() -> None:
    """The second answer is the caller's, whole, and the source hears of it."""
    async with stage(ok(EXPIRED, JSON), route={"signals": SLACK}) as s:
        caller = await s.caller()
        assert (await caller.get()).body == EXPIRED
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-2"]
        assert s.source.held == [("books", 2, "books")]


async def test_validate_says_live_and_the_body_goes_on() -> None:
    """What was held back to be looked at is the caller's, once."""
    async with stage(ok(EXPIRED, JSON), route={"signals": SLACK}) as s:
        s.source.keep = KeepAnswer.LIVE
        caller = await s.caller()
        assert (await caller.get()).body == EXPIRED
        assert (await caller.get()).body == EXPIRED
        assert len(s.upstream.seen) == 2


@pytest.mark.parametrize(
    ("signals", "asked"), [(SLACK, [b"identity"]), (Signals(), [b"gzip"])], ids=["by-body", "plain"]
)
async def test_an_upstream_whose_bodies_are_read_is_asked_for_plain_ones(
    signals: Signals, asked: list[bytes]
) -> None:
    """Nearly every HTTP library asks for gzip, and then no signal would ever be seen; other routes leave it alone."""
    async with stage(route={"signals": signals}) as s:
        caller = await s.caller()
        await caller.get(b"/books/x", b"accept-encoding: gzip")
        assert s.upstream.seen[0].values(b"accept-encoding") == asked


async def test_many_callers_with_a_token_that_died_in_a_body_share_one_renewal() -> None:
    """Told by Slack's way: fifty requests, one renewal, fifty good answers."""
    crowd = asyncio.Event()

    async def script(line: Line) -> None:
        if line.seen.token == b"token-1":
            await crowd.wait()
            await line.send(ok(EXPIRED, JSON))
        else:
            await line.send(ok(b"hello"))

    async with stage(script, route={"signals": SLACK}) as s:
        callers = [await s.caller() for _ in range(50)]
        asking = [asyncio.create_task(caller.get()) for caller in callers]
        await until(lambda: len(s.upstream.seen) == 50)
        crowd.set()
        assert {answer.body for answer in await asyncio.gather(*asking)} == {b"hello"}
        assert s.source.renewals == ["books"]


async def test_a_401_is_looked_at_without_its_body() -> None:
    """On a route without body signals the answer's head alone decides, however late its body comes."""

    async def script(line: Line) -> None:
        if line.seen.token == b"token-1":
            await line.send(dead().partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        else:
            await line.send(ok(b"hello"))

    async with stage(script) as s:
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
