"""A dead token: found out, renewed once, and the same request sent again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.proxy.actors import Line, Stage, chunked, dead, ok, post, stage, unless, until
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.settings import KIB, MIB, Replay, ReplayBudget
from tokenproxy.core.signals import Signals
from tokenproxy.errors import LoginRequiredError, ProviderUnavailableError

SMALL = Replay(memory=64 * KIB, disk=MIB)


def everything_given_back(s: Stage) -> bool:
    return s.plane.vault.memory == 0 and s.plane.vault.disk == 0


async def test_a_get_is_sent_again_with_the_new_token() -> None:
    """The caller sees only the good answer, and the first connection serves the second try."""
    async with stage(unless(b"token-1")) as s:
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-2"]
        first, second = (seen.head.replace(seen.token, b"") for seen in s.upstream.seen)
        assert first == second
        assert (s.source.renewals, s.source.confirmed, s.source.held) == (["books"], [("books", 2)], [])
        assert s.upstream.connections == 1
        assert s.metrics.routes["books"].retries["ok"] == 1
        await caller.get()
        await until(lambda: len(s.logged) == 2)
        assert [log.attempts for log in s.logged] == [2, 1]
        assert s.source.confirmed == [("books", 2)]


BODIES = {"small": 10, "in-memory": 60 * KIB, "spooled": 700 * KIB}


@pytest.mark.parametrize("size", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_is_sent_again_byte_for_byte(size: int, framing: str, tmp_path: Path) -> None:
    """From memory, and from an unlinked file behind it."""
    body = os.urandom(size)
    async with stage(
        unless(b"token-1"), route={"replay": SMALL}, replay=ReplayBudget(directory=str(tmp_path))
    ) as s:
        caller = await s.caller()
        if framing == "length":
            caller.writer.write(post(body))
        else:
            caller.writer.write(
                b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            caller.writer.write(chunked(*(body[at : at + 10_000] for at in range(0, size, 10_000))))
        assert (await caller.answer()).body == b"hello"
        assert [(seen.token, seen.body == body) for seen in s.upstream.seen] == [
            (b"token-1", True),
            (b"token-2", True),
        ]
        assert (await caller.get()).status == 200
        assert list(tmp_path.iterdir()) == []  # unlinked from the first moment on
        await until(lambda: everything_given_back(s))


@pytest.mark.parametrize(
    ("replay", "budget"),
    [
        (SMALL, ReplayBudget()),
        (Replay(memory=64 * KIB, disk=0), ReplayBudget()),
        (Replay(memory=0, disk=0), ReplayBudget()),
        (Replay(), ReplayBudget(total_memory=64 * KIB, total_disk=64 * KIB)),
        (Replay(memory=64 * KIB), ReplayBudget(directory="/nowhere/at/all")),
    ],
    ids=["past-both", "past-memory", "nothing-kept", "past-all-requests", "disk-fails"],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_past_the_limits_the_401_is_passed_on_and_the_renewal_happens(
    replay: Replay, budget: ReplayBudget, framing: str
) -> None:
    """The request goes on without a copy; the next one has the new token."""
    body = os.urandom(2 * MIB)
    async with stage(unless(b"token-1"), route={"replay": replay}, replay=budget) as s:
        caller = await s.caller()
        if framing == "length":
            caller.writer.write(post(body))
        else:
            caller.writer.write(
                b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            caller.writer.write(chunked(body))
        answer = await caller.answer()
        assert (answer.status, answer.code, answer.body) == (401, "body_not_replayable", b"expired")
        assert len(answer.values(b"www-authenticate")) == 1
        assert [seen.body == body for seen in s.upstream.seen] == [True]
        assert s.source.renewals == ["books"]
        assert s.metrics.routes["books"].retries["not_replayable"] == 1
        assert (await caller.get()).body == b"hello"
        await until(lambda: everything_given_back(s))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("first", [100, 300 * KIB])
async def test_a_401_before_the_bodys_end(first: int, framing: str) -> None:
    """What is kept is sent again, and then the rest, which the caller has not sent yet."""
    body = os.urandom(first + 5000)

    async def script(line: Line) -> None:
        if line.seen.token == b"token-1":
            await line.reader.read(10)
            await line.send(dead())
            await line.reader.read()  # until the proxy drops the connection
        else:
            await line.body()
            await line.send(ok(b"whole"))

    async with stage(script, route={"replay": SMALL}) as s:
        s.source.gate = asyncio.Event()
        caller = await s.caller()
        if framing == "length":
            caller.writer.write(
                b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            caller.writer.write(body[:first])
        else:
            caller.writer.write(
                b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            caller.writer.write(b"%x\r\n%b\r\n" % (first, body[:first]))
        await until(lambda: s.source.renewals)
        s.source.gate.set()
        await until(lambda: len(s.upstream.seen) == 2)
        caller.writer.write(body[first:] if framing == "length" else chunked(body[first:]))
        answer = await caller.answer()
        assert answer.body == b"whole"
        assert s.upstream.seen[1].body == body
        assert (await caller.get()).body == b"whole"
        await until(lambda: everything_given_back(s))


async def test_a_401_to_expect_costs_no_body() -> None:
    """The upstream refused before the body was sent: the second try gets it, after the upstream's own 100."""

    async def script(line: Line) -> None:
        if line.seen.token == b"token-1":
            await line.send(dead())
            return
        await line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await line.body()
        await line.send(ok(line.seen.body))

    async with stage(script) as s:
        caller = await s.caller()
        await caller.send(
            b"POST /books/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await caller.answer()).status == 100
        await caller.send(b"abc")
        assert (await caller.answer()).body == b"abc"


async def test_fifty_at_once_share_one_renewal() -> None:
    """The classic mistake is one renewal each, with a refresh token that works once."""
    async with stage(unless(b"token-1")) as s:
        callers = [await s.caller() for _ in range(50)]
        body = os.urandom(20 * KIB)
        answers = await asyncio.gather(
            *(caller.post(body) if number % 2 else caller.get() for number, caller in enumerate(callers))
        )
        assert {answer.body for answer in answers} == {b"hello"}
        assert s.source.renewals == ["books"]
        assert s.source.confirmed == [("books", 2)]
        assert all(seen.body in (b"", body) for seen in s.upstream.seen)
        again = [seen for seen in s.upstream.seen if seen.token == b"token-2"]
        assert len(again) == 50


async def test_a_second_401_is_passed_on_and_said() -> None:
    """Refused with a token that is seconds old: another renewal would not help, and the caller must know."""
    async with stage(dead(b"still")) as s:
        caller = await s.caller()
        answer = await caller.get()
        assert (answer.status, answer.body, answer.values(b"tokenproxy-error")) == (401, b"still", [])
        assert answer.values(b"www-authenticate") == [b'Bearer error="invalid_token"']
        assert len(s.upstream.seen) == 2
        assert (s.source.held, s.source.confirmed) == ([("books", 2, "books")], [])
        assert s.metrics.routes["books"].retries["still_401"] == 1


@pytest.mark.parametrize("why", list(KeepAnswer))
async def test_a_401_that_is_not_about_the_token_is_passed_on(why: KeepAnswer) -> None:
    """Validate says live, or renewals are held: the upstream's own words reach the caller."""
    async with stage(dead(b"no right")) as s:
        s.source.keep = why
        caller = await s.caller()
        for _ in range(2):
            answer = await caller.get()
            assert (answer.status, answer.body, answer.values(b"tokenproxy-error")) == (401, b"no right", [])
        answer = await caller.post(b"x" * 100_000)
        assert answer.body == b"no right"
        assert (s.source.renewals, s.source.held, len(s.upstream.seen)) == ([], [], 3)


async def test_other_statuses_may_mean_dead() -> None:
    """Some providers say 403, or 419; the provider's profile tells."""
    async with stage(unless(b"token-1"), route={"signals": Signals(statuses=(401, 403))}) as s:
        refused = ok(b"", status=b"403 Forbidden")

        async def script(line: Line) -> None:
            await line.send(refused if line.seen.token == b"token-1" else ok(b"fine"))

        s.upstream.script = script
        assert (await (await s.caller()).get()).body == b"fine"


async def test_a_403_alone_renews_nothing() -> None:
    async with stage(ok(b"forbidden", status=b"403 Forbidden")) as s:
        assert (await (await s.caller()).get()).status == 403
        assert (s.source.renewals, s.source.confirmed) == ([], [("books", 1)])


async def test_a_failing_upstream_confirms_no_token() -> None:
    """The previous refresh token is kept until the new pair has worked; a 503 proves nothing."""
    async with stage(ok(b"down", status=b"503 Service Unavailable")) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 503
        assert s.source.confirmed == []
        s.upstream.script = ok()
        await caller.get()
        assert s.source.confirmed == [("books", 1)]
        await until(lambda: s.metrics.routes["books"].requests.get((5, "upstream_error")) == 1)


async def test_an_upstream_that_fails_after_a_renewal_confirms_nothing_either() -> None:
    async with stage(unless(b"token-1", then=ok(b"down", status=b"503 Service Unavailable"))) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 503
        assert (s.source.renewals, s.source.confirmed) == (["books"], [])


async def test_a_failed_renewal_is_503_with_its_reason() -> None:
    """Never the upstream's 401: it is not the caller who must act."""
    async with stage(dead()) as s:
        s.source.renew_error = ProviderUnavailableError(
            "The provider answers 500.",
            account="books",
            reason="provider_down",
            retry_after=11.2,
            next_step="Wait.",
        )
        caller = await s.caller()
        answer = await caller.get()
        assert (answer.status, answer.code, answer.values(b"retry-after")) == (
            503,
            "provider_unavailable",
            [b"12"],
        )
        assert answer.problem == {
            "type": "urn:tokenproxy:provider_unavailable",
            "title": "The provider gives no token now",
            "status": 503,
            "code": "provider_unavailable",
            "detail": "The provider answers 500.",
            "route": "books",
            "account": "books",
            "reason": "provider_down",
            "next_step": "Wait.",
            "retry_after": 12,
        }
        s.source.renew_error = None
        s.upstream.script = ok(b"again")
        assert (await caller.get()).body == b"again"


async def test_no_token_at_all_is_503_and_nothing_is_sent() -> None:
    async with stage() as s:
        s.source.error = LoginRequiredError("Nobody has logged in.", account="books")
        caller = await s.caller()
        for answer in (await caller.get(), await caller.post(b"abc")):
            assert (answer.status, answer.code) == (503, "login_required")
        assert not s.upstream.seen
        await until(lambda: s.metrics.routes["books"].requests.get((5, "login_required")) == 2)


async def test_a_token_that_is_not_in_memory_is_waited_for() -> None:
    async with stage() as s:
        s.source.fresh = False
        assert (await (await s.caller()).get()).status == 200


async def test_a_token_with_a_line_break_never_leaves() -> None:
    """A token endpoint's CR LF would write fields, or whole requests, of its own."""
    async with stage() as s:
        s.source.sets["books", 1] = type(s.source.tokens("books", 1))("evil\r\nX-Admin: 1", generation=1)
        answer = await (await s.caller()).get()
        assert (answer.status, answer.code) == (503, "misconfigured")
        assert b"evil" not in answer.body
        assert not s.upstream.seen


async def test_a_caller_that_leaves_during_the_renewal_does_not_stop_it() -> None:
    """The renewal belongs to the account; a rotated token must not be lost by an impatient caller."""
    async with stage(unless(b"token-1")) as s:
        s.source.gate = asyncio.Event()
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: s.source.renewals)
        caller.cut()
        await until(lambda: s.plane.in_flight == 0)
        s.source.gate.set()
        await until(lambda: s.source.generations.get("books") == 2)
        assert (await (await s.caller()).get()).body == b"hello"
        assert s.source.renewals == ["books"]


async def test_a_failing_disk_while_reading_back_is_no_hang(tmp_path: Path) -> None:
    """The copy was written and cannot be read: said as an error, never half a body with a clean end."""
    body = os.urandom(300 * KIB)
    async with stage(unless(b"token-1"), route={"replay": SMALL}) as s:
        s.source.gate = asyncio.Event()
        caller = await s.caller()
        caller.writer.write(post(body))
        await until(lambda: s.source.renewals)
        assert s.plane.vault.disk > 0
        for name in os.listdir("/proc/self/fd"):
            path = f"/proc/self/fd/{name}"
            try:
                if "deleted" in os.readlink(path) or "/#" in os.readlink(path):
                    os.truncate(path, 0)
            except OSError:
                continue
        s.source.gate.set()
        answer = await caller.answer()
        assert answer.status == 502
        assert s.upstream.seen[-1].body != body
