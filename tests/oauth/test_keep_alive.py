"""Grants that nobody uses are renewed before the provider drops them, slowly, and without anything in memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.oauth.house import House, renewed
from tests.oauth.test_scheduler import passing, ticking
from tests.simulators import FakeClock, PlainProvider
from tokenproxy.core.account import State
from tokenproxy.core.provider import Ceiling
from tokenproxy.core.schedule import KEEP_ALIVE_LOOK

MONTH = timedelta(days=30)
DAY, HALF = 86400.0, 15 * 86400.0


def house_of(provider: PlainProvider, **changes: Any) -> House:
    return House(provider, **{"refresh_idle": MONTH, **changes})


async def looks(house: House, count: int = 1) -> int:
    """So many looks, as far apart as they are where there is nothing to do; how many renewals they began."""
    begun = 0
    for _ in range(count):
        await house.clock.advance(KEEP_ALIVE_LOOK * 1.2)
        begun += await house.source.keep_alive()
        await house.idle()
    return begun


async def logins(house: House, *names: str, **answer: Any) -> None:
    """They come from an import, and nobody uses them."""
    for name in names:
        await house.login(f"books/{name}", **answer)
        house.source._entries.drop(f"books/{name}")
    assert await looks(house) == 0


async def generations(house: House) -> dict[str, int]:
    return {each.account.partition("/")[2]: each.generation for each in await house.store.summaries()}


async def test_an_idle_login_is_renewed_at_half_of_what_the_provider_allows(tmp_path: Path) -> None:
    """Nobody has used it since it was made, and no process since has had it in memory."""
    clock = FakeClock()
    async with PlainProvider(clock=clock) as provider:
        async with House(provider, clock=clock, path=tmp_path / "t.db", refresh_idle=MONTH) as house:
            await logins(house, "anna")
        await clock.advance(HALF - 2 * KEEP_ALIVE_LOOK)
        async with House(provider, clock=clock, path=tmp_path / "t.db", refresh_idle=MONTH) as house:
            assert await looks(house) == 0
            assert await looks(house, 3) == 1
            assert provider.refreshes == 1
            assert await generations(house) == {"anna": 2}
            assert house.source.entry("books/anna") is None
            assert house.metrics.account("books").refreshes["keep_alive", "ok"] == 1
            await clock.advance(HALF - 5 * KEEP_ALIVE_LOOK)
            assert await looks(house, 2) == 0
            assert await looks(house, 5) == 1
        assert provider.complaints == []


async def test_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """``trigger`` tells a keep-alive from what a request needed."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "anna")
        await house.clock.advance(HALF)
        caplog.set_level("INFO")
        await looks(house)
        (told,) = [each for each in caplog.records if getattr(each, "event", "") == "token_renewed"]
        assert told.fields["trigger"] == "keep_alive"  # type: ignore[attr-defined]


async def test_the_scheduler_looks_within_the_first_minute() -> None:
    """A process that is started anew every hour must get to it."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await house.login("books/anna")
        await house.clock.advance(HALF)
        async with ticking(house):
            await passing(house, 60)
        assert provider.refreshes == 1


async def test_what_is_used_needs_no_keeping_alive() -> None:
    """It was renewed a moment ago; and one whose provider has no such limit is left alone."""
    async with PlainProvider() as provider, house_of(provider) as house:
        first = await house.login()
        await house.clock.advance(HALF)
        await renewed(house, first)
        assert await looks(house, 3) == 0
        await house.reload_provider(refresh_idle=None)
        await house.clock.advance(HALF * 4)
        assert await looks(house, 3) == 0


@pytest.mark.parametrize(
    "why", ["login required", "back-off", "hold", "too early", "nothing to renew with", "paused", "busy"]
)
async def test_what_must_not_be_renewed_now_is_not(why: str) -> None:
    """The same refusals as for every other renewal; nothing is sent, and nothing is lost."""
    limits = {"refresh_not_before_expiry": timedelta(seconds=30)} if why == "too early" else {}
    async with PlainProvider() as provider, house_of(provider, **limits) as house:
        answer = {"expires_in": 30 * DAY} | (
            {"refresh_token": None} if why == "nothing to renew with" else {}
        )
        tokens = await house.login("books/anna", **answer)
        assert await looks(house) == 0
        await house.clock.advance(HALF)
        match why:
            case "login required":
                provider.error = {"error": "invalid_grant"}
                await looks(house)
            case "back-off" | "paused":
                provider.outage, provider.retry_after = 503, 3600
                if why == "paused":
                    await house.login("books/ben", expires_in=1)
                    await house.clock.advance(1)
                await asyncio.gather(
                    house.source.current("books/ben") if why == "paused" else looks(house),
                    return_exceptions=True,
                )
                provider.outage = None
            case "hold":
                house.held("books/anna").hold("books", house.clock.monotonic() + 3600, house.policy)
            case "busy":
                provider.gate = asyncio.Event()
                under_way = asyncio.create_task(renewed_login(house, tokens.generation))
                await provider.token_call_arrived()
        calls = provider.token_calls
        await house.clock.advance(KEEP_ALIVE_LOOK * 1.2)
        assert await house.source.keep_alive() == 0
        assert provider.token_calls == calls
        if provider.gate is not None:
            provider.gate.set()
            await under_way


async def renewed_login(house: House, generation: int) -> None:
    tokens = await house.source.refresh("books/anna")
    assert tokens.generation == generation + 1


async def test_a_failure_is_tried_again_when_its_back_off_is_over() -> None:
    """The grant has half of its time left: no storm, no surrender."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "anna")
        await house.clock.advance(HALF)
        provider.outage = 503
        assert await looks(house) == 1
        assert house.metrics.account("books").refreshes["keep_alive", "provider_error"] == 1
        provider.outage = None
        assert await looks(house, 2) == 1  # one look sees the end of the round, the next begins anew
        assert await generations(house) == {"anna": 2}


async def test_a_grant_that_ended_is_told_and_not_asked_for_again() -> None:
    """Somebody finds out by ``status``, before they need it."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "anna")
        await house.clock.advance(HALF)
        provider.revoke_grant()
        assert await looks(house, 10) == 1
        assert (await house.operator.status("books/anna"))["state"] == "login_required"
        assert dict(house.source.gauges()[0].states) == {State.LOGIN_REQUIRED.value: 1}


async def test_what_is_in_doubt_is_recovered() -> None:
    """The answer to an earlier renewal was lost and its login left memory: the same refresh token, as at a restart."""
    async with PlainProvider() as provider, house_of(provider) as house:
        provider.grace = 10**9
        await logins(house, "anna")
        await house.clock.advance(HALF)
        provider.lose_answers = 2
        assert await looks(house) == 1
        assert (await house.stored("books/anna")).standing.state is State.IN_DOUBT
        house.source._entries.drop("books/anna")
        assert await looks(house, 2) == 1
        assert await generations(house) == {"anna": 2}
        assert house.metrics.account("books").refreshes["recovery", "ok"] == 1
        assert provider.reuses == 0


async def test_those_that_cannot_be_renewed_do_not_stand_in_the_way() -> None:
    """They are the oldest for ever; whoever is behind them gets their turn."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "a", "b", "c", refresh_token=None, expires_in=90 * DAY)
        await logins(house, "anna", "ben")
        await house.clock.advance(HALF)
        assert await looks(house, 8) == 2
        assert await generations(house) == {"a": 1, "b": 1, "c": 1, "anna": 2, "ben": 2}
        assert len(house.source._entries) == 0


async def test_a_restart_after_a_long_pause_is_no_storm() -> None:
    """Twenty days off: all are due, the oldest goes first, and the provider sees one call a minute."""
    async with PlainProvider() as provider, house_of(provider) as house:
        names = [f"u{number:02}" for number in range(20)]
        for name in names:
            await logins(house, name)
        await house.clock.advance(20 * DAY)
        assert await looks(house, 5) == 5
        renewed_first = sorted(
            name for name, generation in (await generations(house)).items() if generation == 2
        )
        assert renewed_first == names[:5]
        assert await looks(house, 20) == 15


async def test_what_can_be_saved_goes_before_what_is_over() -> None:
    """After a pause longer than the limit, those that may live must not wait behind those that are probably dead."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "dead1", "dead2")
        await house.clock.advance(20 * DAY)
        await house.login("books/alive")
        await house.clock.advance(20 * DAY)
        assert await looks(house, 1) == 1
        assert await generations(house) == {"dead1": 1, "dead2": 1, "alive": 2}
        assert await looks(house, 4) == 2
        assert provider.refreshes == 3


async def test_many_a_second_where_there_are_many() -> None:
    """Datev drops a grant after 11 hours: with thousands of logins one a minute is not enough."""
    async with (
        PlainProvider() as provider,
        house_of(provider, refresh_idle=timedelta(hours=11), limits=Ceiling(concurrent=5)) as house,
    ):
        for number in range(12):
            await house.login(f"books/{number}")
        house.source._census._counts["books"][State.OK] += 50_000
        await house.clock.advance(6 * 3600)
        async with ticking(house):
            await passing(house, 61)
        assert provider.refreshes == 12
        assert provider.max_concurrent_token_calls <= 5


async def test_an_access_token_that_renews_itself_is_renewed_at_half_of_its_life() -> None:
    """Instagram has no refresh tokens: once the access token is dead, somebody must log in (60 days)."""
    async with PlainProvider() as provider, house_of(provider, refresh_idle=None) as house:
        await house.reload_provider(refresh_with="access_token", refresh_params={})
        provider.answer_override = (
            200,
            {"Content-Type": "application/json"},
            json.dumps({"access_token": "next", "expires_in": 60 * DAY}),
        )
        await logins(house, "anna", refresh_token=None, expires_in=60 * DAY)
        await house.clock.advance(30 * DAY - 3 * KEEP_ALIVE_LOOK)
        assert await looks(house) == 0
        assert await looks(house, 2) == 1
        assert (await house.kept("books/anna")).access_token == "next"
        assert (await house.operator.status("books/anna"))["renewable"] is None


async def test_an_access_token_that_renews_itself_in_memory() -> None:
    """Used or not, at half of its life and not 15 minutes before its end: an outage would cost the login."""
    async with PlainProvider() as provider, house_of(provider, refresh_idle=None) as house:
        await house.reload_provider(refresh_with="access_token")
        await house.login("books/anna", refresh_token=None, expires_in=1000)
        await house.clock.advance(499)
        assert house.source.renew_due(9) == 0
        await house.clock.advance(2)
        assert house.source.renew_due(9) == 1
        await house.idle()
        (call,) = provider.requests
        assert "access_token" in call.parameters


async def test_a_store_that_fails_is_asked_again() -> None:
    """The next look is a minute later, and the loop goes on."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "anna")
        await house.clock.advance(HALF)
        house.store.failing["idle"] = 1
        assert await looks(house) == 0
        house.store.failing["load"] = 1
        assert await looks(house) == 0
        assert await looks(house, 2) == 1


async def test_a_table_that_the_config_drops_is_forgotten() -> None:
    """And one that comes back is looked at anew."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "anna")
        await house.clock.advance(HALF)
        house.source.configure({}, house.policy)
        assert await looks(house, 2) == 0
        house.accounts["books"] = replace(house.accounts["books"])
        house.source.configure(house.accounts, house.policy)
        assert await looks(house, 2) == 1


async def test_a_request_that_comes_during_the_renewal_keeps_the_login_in_memory() -> None:
    """It waits for the same renewal, and the next one finds the token at once."""
    async with PlainProvider() as provider, house_of(provider) as house:
        await logins(house, "anna")
        await house.clock.advance(HALF)
        provider.gate = asyncio.Event()
        await house.clock.advance(KEEP_ALIVE_LOOK)
        assert await house.source.keep_alive() == 1
        request = asyncio.create_task(house.source.current("books/anna"))
        await house.waiting(1, "books/anna")
        provider.gate.set()
        tokens = await request
        assert house.source.ready("books/anna") == tokens
        assert provider.token_calls == 1
