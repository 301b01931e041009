"""What looks for planted secrets finds them, wherever they are said, and says it without them."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from aiohttp import web

from tests import planted
from tests.cli.program import Ended
from tests.proxy.actors import ok, stage
from tests.simulators import PerscomProvider
from tokenproxy import log

SECRET = "planted/secret-of-this-test"


@pytest.fixture(autouse=True)
def shown() -> Iterator[None]:
    """What these tests leak they leak on purpose."""
    planted.plant(SECRET)
    yield
    planted.deliberately_shown(SECRET)


def where() -> list[str]:
    return [leak.partition(":")[0] for leak in planted.begun().found()]


def test_an_event_of_the_log_at_any_level() -> None:
    """A field's name does not hide it, nor a level that writes nothing."""
    log.event(logging.getLogger("tokenproxy"), "listening", address=f"http://x/?a={SECRET}")
    assert where() == ["log"]


def test_an_error_s_text() -> None:
    log.event(logging.getLogger("tokenproxy"), "store_failed", error=OSError(f"no {SECRET}"))
    assert where() == ["log"]


def test_what_the_log_hides_is_hidden() -> None:
    log.register_secret(SECRET)
    log.event(logging.getLogger("tokenproxy"), "listening", address=f"http://x/?a={SECRET}")
    log.forget(SECRET)
    assert where() == []


def test_a_library_s_line() -> None:
    logging.getLogger("elsewhere").warning("it said %s", SECRET)
    assert where() == ["log of a library"]


def test_the_words_of_a_process() -> None:
    subprocess.run([sys.executable, "-c", "pass", SECRET], check=True)
    assert where() == ["process list"]


def test_what_a_command_writes() -> None:
    Ended(0, f"here it is: {SECRET}\n")
    assert where() == ["command"]


def test_part_of_it_and_percent_encoded() -> None:
    Ended(0, SECRET[:20].replace("/", "%2F"))
    assert where() == ["command"]


def test_the_leak_is_told_without_the_secret() -> None:
    Ended(0, f"a line\nhere it is: {SECRET}\n")
    (leak,) = planted.begun().found()
    assert "here it is: <HERE>" in leak
    assert SECRET[:16] not in leak


async def test_an_answer_of_the_admin_side() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text=SECRET)

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{runner.addresses[0][0]}:{runner.addresses[0][1]}/") as answer,
        ):
            assert await answer.text() == SECRET
    finally:
        await runner.cleanup()
    assert where() == ["admin GET /"]


async def test_problem_answers_are_heard_and_upstreams_are_not() -> None:
    """An upstream may send what it likes; that is between it and the caller."""
    async with stage(ok(SECRET.encode())) as s:
        caller = await s.caller()
        await caller.get()
        await caller.get(b"/nowhere")
    assert where() == []
    assert "no_route" in planted.begun().texts["problem answer"][0]


async def test_simulators_and_actors_plant_what_they_issue() -> None:
    async with PerscomProvider() as provider, stage() as s:
        answer = provider.new_grant()
        await (await s.caller()).get()
        planted_now = planted.begun().secrets
        assert {answer["access_token"], answer["refresh_token"], provider.client_secret, "token-1"} <= set(
            planted_now
        )


def test_nothing_is_kept_from_one_test_to_the_next() -> None:
    assert list(planted.begun().secrets) == [SECRET]


def test_the_log_s_own_output_is_none_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What is heard is not written a second time."""
    out = io.StringIO()
    handler = log.setup("info", "json", stream=out)
    try:
        log.event(logging.getLogger("tokenproxy"), "started")
        assert out.getvalue().count("started") == 1
        assert capsys.readouterr().err == ""
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
