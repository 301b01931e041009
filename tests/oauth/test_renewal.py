"""One door, one renewal at a time, stored before it is seen."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.oauth.house import ROUTE, House, renewed, table
from tests.simulators import (
    ABSENT,
    SAME,
    AskaraProvider,
    DeskeraProvider,
    FakeClock,
    PerscomProvider,
    PlainProvider,
    Provider,
)
from tokenproxy import log
from tokenproxy.core.account import State
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import AccountError, LoginRequiredError, ProviderUnavailableError

KINDS = [DeskeraProvider, PerscomProvider, AskaraProvider, PlainProvider]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_thousand_waiters_and_one_token_call(kind: type[Provider], tmp_path: Path) -> None:
    """R1: in each guide's strict wire form; the grant lives on, and what is on disk is what they got."""
    async with kind() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        provider.revoke_all_access()
        provider.gate = asyncio.Event()
        waiters = [asyncio.create_task(renewed(house, first)) for _ in range(1000)]
        await provider.token_call_arrived()
        await house.waiting(1000)
        provider.gate.set()
        tokens = await asyncio.gather(*waiters)

        assert {each.generation for each in tokens} == {2}
        assert provider.live(tokens[0].access_token)
        assert (provider.token_calls, provider.refreshes, provider.reuses) == (1, 1, 0)
        assert provider.complaints == []
        assert await house.kept() == tokens[0] == house.source.ready("books")

        provider.revoke_all_access()  # and again at once, with the rotated token
        again = await asyncio.gather(*(renewed(house, tokens[0]) for _ in range(50)))
        assert {each.generation for each in again} == {3}
        assert (provider.refreshes, provider.complaints) == (2, [])


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_start_goes_on_with_the_stored_pair(kind: type[Provider], tmp_path: Path) -> None:
    """The rotated refresh token, and no other, is what the next process sends."""
    async with kind() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            second = await renewed(house, await house.login())
        async with House(provider, path=tmp_path / "t.db") as house:
            assert await house.source.current("books") == second
            third = await renewed(house, second)
            assert (third.generation, provider.refreshes, provider.reuses) == (3, 2, 0)
        assert provider.complaints == []


async def test_generations_are_compared_and_not_clocks() -> None:
    """Requests that were under way during a renewal come back with 401s of the old token: no token call for them."""
    async with (
        PerscomProvider() as provider,
        House(provider) as house,
    ):  # its refresh ends the old access token
        first = await house.login()
        second = await renewed(house, first)
        for _ in range(20):
            assert await renewed(house, first) == second
        await house.clock.advance(3600)
        assert await renewed(house, first) == second
        assert provider.token_calls == 1


async def test_a_late_401_joins_the_renewal_of_the_newer_token() -> None:
    """The newer one is dead by now, too: still one call."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        second = await renewed(house, first)
        await house.clock.advance(86400)
        provider.gate = asyncio.Event()
        waiters = [asyncio.create_task(renewed(house, each)) for each in (first, second, first)]
        await house.waiting(3)
        provider.gate.set()
        assert {each.generation for each in await asyncio.gather(*waiters)} == {3}
        assert provider.token_calls == 2


async def test_who_asks_before_sending_joins_as_well() -> None:
    """``current`` and ``renew`` wait for the same task."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        await house.clock.advance(86400 - 30)
        assert house.source.ready("books") is None  # stale
        provider.gate = asyncio.Event()
        waiters = [asyncio.create_task(house.source.current("books")) for _ in range(10)]
        waiters += [asyncio.create_task(renewed(house, first)) for _ in range(10)]
        await house.waiting(20)
        provider.gate.set()
        assert {each.generation for each in await asyncio.gather(*waiters)} == {2}
        assert provider.token_calls == 1


@pytest.mark.parametrize("hold", ["before", "after", "middle"])
async def test_a_renewal_outlives_whoever_waits(hold: str, tmp_path: Path) -> None:
    """A caller hangs up at any moment between "sent" and "stored": it completes, and it is on disk."""
    async with DeskeraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        provider.revoke_all_access()
        provider.hold, provider.gate = hold, asyncio.Event()  # type: ignore[assignment]  # one of its three words
        waiters = [asyncio.create_task(renewed(house, first)) for _ in range(3)]
        await provider.token_call_arrived()
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        assert all(waiter.cancelled() for waiter in waiters)
        provider.gate.set()
        await house.idle()
        assert (await house.kept()).refresh_token == provider.latest()["refresh_token"]
        assert (await house.source.current("books")).generation == 2
        assert provider.token_calls == 1


async def test_a_failure_that_nobody_waits_for_is_no_warning() -> None:
    """asyncio tells of exceptions that were never retrieved; warnings are errors here."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.error, provider.gate = {"error": "invalid_grant"}, asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        waiter.cancel()
        await asyncio.wait({waiter})
        provider.gate.set()
        await house.idle()
        assert house.held().standing.state is State.LOGIN_REQUIRED


async def test_nobody_sees_a_token_before_the_store_has_it(tmp_path: Path) -> None:
    """Rule 2: for Withings and Shopify the first use of the new token retires the old refresh token."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        house.store.gates["commit"] = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await house.store.called("commit")
        assert provider.refreshes == 1
        assert house.source.ready("books") == first
        assert await house.source.current("books") == first
        assert not waiter.done()
        assert (await house.kept()).generation == 1
        house.store.gates.pop("commit").set()
        assert await waiter == await house.kept()


async def test_the_mark_is_written_before_anything_is_sent(tmp_path: Path) -> None:
    """Rule 2: else a crash would leave no trace of a token that may be spent."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        provider.gate = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        assert (await house.stored()).in_flight_since == house.clock.now()
        provider.gate.set()
        await waiter
        assert (await house.stored()).in_flight_since is None


async def test_the_previous_refresh_token_stays_until_the_new_pair_has_worked(tmp_path: Path) -> None:
    """Rule 2; and ``worked`` may be called as often as requests succeed."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        second = await renewed(house, first)
        assert (await house.stored()).previous == first.refresh_token
        house.source.worked("books", first)  # the old generation proves nothing
        await house.idle()
        assert (await house.stored()).previous == first.refresh_token
        for _ in range(3):
            house.source.worked("books", second)
        await house.idle()
        assert (await house.stored()).previous is None
        assert house.store.calls["settled"] == 1


async def test_a_previous_token_found_at_the_next_start_goes_as_well(tmp_path: Path) -> None:
    """A spent secret should not lie in the file for as long as a year's token lives."""
    async with AskaraProvider() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            await renewed(house, await house.login())
        async with House(provider, path=tmp_path / "t.db") as house:
            tokens = await house.source.current("books")
            house.source.worked("books", tokens)
            await house.idle()
            assert (await house.stored()).previous is None


@pytest.mark.parametrize("field", [ABSENT, SAME, None, ""], ids=str)
async def test_a_refresh_token_that_is_not_rotated_stays(field: object) -> None:
    """Google's way, in its four spellings; there is no previous one then."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.rotate, provider.unrotated = False, field
        second = await renewed(house, first)
        third = await renewed(house, second)
        assert {each.refresh_token for each in (first, second, third)} == {first.refresh_token}
        assert (await house.stored()).previous is None
        assert provider.refreshes == 2


async def test_a_refresh_repeats_the_scope_that_was_asked_for() -> None:
    """PERSCOM's guide; a changed ``scopes`` applies at the next login, not at the next refresh."""
    async with PerscomProvider() as provider, House(provider) as house:
        second = await renewed(house, await house.login(scope="view:user"))  # granted less than was asked for
        await house.reload(scopes=("something:else",))
        third = await renewed(house, second)
        await renewed(house, third)
        assert {call.parameters["scope"] for call in provider.requests} == {"view:user update:user"}
        assert provider.complaints == []


# -- fresh, stale, expired ---------------------------------------------------------------------------------------------


async def test_fresh_stale_and_expired() -> None:
    """Fresh: at once from memory. Stale: renewed before it is sent. A failed early renewal leaves it in use, until it ends."""
    clock = FakeClock()
    async with AskaraProvider(clock=clock) as provider, House(provider, clock=clock) as house:
        provider.jwt_life = None
        first = await house.login(expires_in=3600)
        assert house.source.ready("books") == first
        await clock.advance(3539)
        assert house.source.ready("books") == first
        provider.outage = 503
        await clock.advance(1)
        assert house.source.ready("books") is None
        assert await house.source.current("books") == first
        assert (provider.token_calls, house.held().standing.state) == (1, State.DEGRADED)
        assert house.source.ready("books") == first  # in use again until the back-off is over
        await clock.advance(59)
        await house.source.current("books")
        await clock.advance(1)
        assert house.source.ready("books") is None
        with pytest.raises(ProviderUnavailableError) as refused:
            await house.source.current("books")
        assert refused.value.retry_after
        provider.outage = None
        await clock.advance(refused.value.retry_after)
        assert (await house.source.current("books")).generation == 2
        assert house.held().standing.state is State.OK


async def test_the_back_off_is_kept() -> None:
    """A thousand requests during an outage are not a thousand token calls."""
    async with AskaraProvider() as provider, House(provider) as house:
        await house.login()
        await house.clock.advance(86400)
        provider.outage = 500
        waits = []
        for calls in range(1, 8):
            for _ in range(5):
                with pytest.raises(ProviderUnavailableError) as refused:
                    await house.source.current("books")
            assert provider.token_calls == calls
            waits.append(refused.value.retry_after or 0)
            await house.clock.advance(waits[-1])
        assert waits == [0.75, 1.5, 3, 6, 12, 22.5, 22.5]  # no jitter here: three quarters of 1, 2, 4, ... 30


async def test_an_unknown_expiry_is_used_until_a_401() -> None:
    """Deskera's ``expires_in`` of 0."""
    async with DeskeraProvider() as provider, House(provider) as house:
        first = await house.login()
        assert first.expires_at is None
        await house.clock.advance(10 * 365 * 86400)
        assert house.source.ready("books") == first
        assert provider.token_calls == 0


async def test_deskeras_jwt_tells_when_it_ends() -> None:
    """0 means "look further": ``exp - iat`` of the token itself."""
    clock = FakeClock()
    async with DeskeraProvider(clock=clock) as provider, House(provider, clock=clock) as house:
        provider.jwt_life = 600
        first = await house.login()
        assert first.expires_at == clock.now() + timedelta(seconds=600)
        assert house.source.ready("books") == first


async def test_nothing_before_the_providers_own_limit() -> None:
    """Exact Online: no refresh earlier than 30 s before expiry, not even for a request."""
    early = timedelta(seconds=30)
    async with PlainProvider() as provider, House(provider, refresh_not_before_expiry=early) as house:
        first = await house.login(expires_in=600)
        await house.clock.advance(569)
        assert house.source.ready("books") == first
        await house.clock.advance(1)
        assert (await house.source.current("books")).generation == 2


async def test_a_bare_refresh_token_is_renewed_before_the_first_request() -> None:
    """There is no access token that could be sent."""
    async with AskaraProvider() as provider, House(provider) as house:
        bare = provider.new_grant()["refresh_token"]
        status = await house.operator.import_answer("books", bare.encode())
        assert not status["live"]
        assert house.source.ready("books") is None
        tokens = await house.source.current("books")
        assert (tokens.generation, provider.live(tokens.access_token)) == (2, True)


async def test_no_refresh_token_and_a_dead_access_token() -> None:
    """Slack without rotation: a person must come, and no token call is made."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login(refresh_token=None)
        provider.revoke_all_access()
        for _ in range(3):
            with pytest.raises(LoginRequiredError) as refused:
                await renewed(house, first)
            assert refused.value.reason == "no_refresh_token"
        assert provider.token_calls == 0
        assert provider.validate_calls == 1


async def test_a_token_without_refresh_token_is_used_up() -> None:
    """Stale is no reason to throw away what works for another minute."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login(refresh_token=None, expires_in=600)
        await house.clock.advance(580)
        assert await house.source.current("books") == first
        assert house.source.ready("books") == first
        await house.clock.advance(20)
        with pytest.raises(LoginRequiredError):
            await house.source.current("books")


# -- what is in memory -------------------------------------------------------------------------------------------------


async def test_unknown_accounts_leave_nothing_behind() -> None:
    """A name from a header must not grow memory, tasks, rows or metrics."""
    async with AskaraProvider() as provider, House(provider) as house:
        stranger = TokenSet("x")
        for name in ("books/nobody", "nothing", "nothing/at-all"):
            assert house.source.ready(name) is None
            for call in (house.source.current(name), house.source.renew(name, stranger, route=ROUTE)):
                with pytest.raises(AccountError):
                    await call
            house.source.refused_again(name, stranger, route=ROUTE)
            house.source.worked(name, stranger)
        assert len(house.source._entries) == 0
        assert house.source._tasks.running == frozenset()
        assert house.metrics.accounts == {}
        assert await house.store.summaries() == []
        assert [dict(gauge.states) for gauge in house.source.gauges()] == [{"new": 1}]
        assert provider.token_calls == 0


@pytest.mark.parametrize("cache", [1, 4000])
async def test_a_small_cache_costs_reads_and_nothing_else(cache: int, tmp_path: Path) -> None:
    """Fifty waiters of an account that does not even fit are still one token call each time."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db", cache=cache) as house:
        names = [f"books/{number}" for number in range(4)]
        for name in names:
            await house.operator.import_answer(name, provider.new_grant()["refresh_token"].encode())
        provider.delay = 0.02
        tokens = await asyncio.gather(*(house.source.current(name) for name in names * 50))
        assert {each.generation for each in tokens} == {2}
        assert (provider.refreshes, provider.reuses) == (4, 0)
        await house.login("books/last")  # what waiters held on to can go by now
        assert len(house.source._entries) <= max(1, cache // 1024)
        for name in names:
            assert await house.source.current(name) == await house.kept(name)
        assert house.source._entries.size == sum(entry.size for entry in house.source._entries)


@pytest.mark.parametrize("awake", [1024, 1])
async def test_the_cache_counts_what_logins_cost(awake: int, tmp_path: Path) -> None:
    """``store.cache`` would else be a number that says nothing of memory; what the log hides is bounded, and apart."""
    names = [f"books/{number:03}" for number in range(300)]
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        granted = house.imported(provider.new_grant())
        for name in names:
            await house.put(replace(granted, access_token=name * 130, refresh_token=name * 7), name)
            log.forget(name * 130)
            log.forget(name * 7)
    async with House(provider, path=tmp_path / "t.db", awake=awake) as house:
        for name in names[:50]:
            await house.source.current(name)
        counted = house.source._entries.size
        tracemalloc.start()
        try:
            for name in names[50:]:
                await house.source.current(name)
                log.forget(name * 130)
                log.forget(name * 7)
            seen = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, log.__file__)])
        finally:
            tracemalloc.stop()
        cost = sum(trace.size for trace in seen.traces)
        assert house.source._entries.size - counted == pytest.approx(cost, rel=0.07)


async def test_an_account_is_read_from_the_store_once() -> None:
    """Then it is served from memory."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.source._entries.drop("books")
        house.store.calls.clear()
        assert [await house.source.current("books") for _ in range(3)] == [first] * 3
        assert house.source.ready("books") == first
        assert house.store.calls["load"] == 1


async def test_renewals_at_once_are_bounded() -> None:
    """``renew.concurrent`` is also the most logins that one crash can put in doubt."""
    policy = RenewPolicy(concurrent=4)  # one provider has half of them
    async with AskaraProvider() as provider, House(provider, policy=policy) as house:
        names = [f"books/{number}" for number in range(6)]
        for name in names:
            await house.operator.import_answer(name, provider.new_grant()["refresh_token"].encode())
        provider.delay = 0.01
        await asyncio.gather(*(house.source.current(name) for name in names))
        assert provider.max_concurrent_token_calls == 2


async def test_accounts_do_not_wait_for_each_other() -> None:
    """One provider that hangs is one account's trouble."""
    async with AskaraProvider() as slow, AskaraProvider() as quick, House(slow) as house:
        house.accounts["crm"] = table(quick, "crm")
        house.source.configure(house.accounts, house.policy)
        first = await house.login()
        answer = quick.new_grant()
        await house.source.adopt("crm", replace(house.imported(answer), expires_at=house.clock.now()))
        slow.gate = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await slow.token_call_arrived()
        assert (await house.source.current("crm")).generation == 2
        slow.gate.set()
        await waiter


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_close_waits_for_a_renewal_that_was_sent(tmp_path: Path) -> None:
    """SIGTERM: what was sent is stored before the process ends."""
    async with AskaraProvider() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            first = await house.login()
            provider.gate = asyncio.Event()
            waiter = asyncio.create_task(renewed(house, first))
            await provider.token_call_arrived()
            waiter.cancel()
            closing = asyncio.create_task(house.source.close())
            await asyncio.sleep(0)
            assert not closing.done()
            provider.gate.set()
            await closing
        async with House(provider, path=tmp_path / "t.db") as house:
            assert (await house.kept()).generation == 2


async def test_close_waits_for_what_a_renewal_leaves_to_do(tmp_path: Path) -> None:
    """The store refused the pair just before the end: one more try belongs to the renewal."""
    async with AskaraProvider() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            first = await house.login()
            provider.gate = asyncio.Event()
            waiter = asyncio.create_task(renewed(house, first))
            await provider.token_call_arrived()
            house.store.failing["commit"] = 1
            closing = asyncio.create_task(house.source.close())
            await asyncio.sleep(0)
            provider.gate.set()
            await closing
            assert (await waiter).generation == 2
            assert house.source.unstored == 0
        async with House(provider, path=tmp_path / "t.db") as house:
            assert (await house.kept()).generation == 2


async def test_close_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A provider that hangs must not hold the end; the mark tells the next start."""
    async with AskaraProvider() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            first = await house.login()
            provider.gate = asyncio.Event()
            waiter = asyncio.create_task(house.source.renew("books", first, route=ROUTE))
            await provider.token_call_arrived()
            await house.source.close(patience=0)
            await asyncio.wait({waiter})
            assert waiter.cancelled()
            assert (await house.stored()).in_flight_since is not None
        provider.gate.set()


async def test_keep_answers_never_come_from_current() -> None:
    """``current`` gives a token that lives or says why not; a joined validate call is no answer for it."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login(expires_in=600)
        provider.validate_gate = asyncio.Event()
        rejected = asyncio.create_task(house.source.renew("books", first, route=ROUTE))
        await provider.validate_call_arrived()
        await house.clock.advance(600)
        waiters = [asyncio.create_task(house.source.current("books")) for _ in range(5)]
        await house.waiting(6)
        provider.validate_gate.set()
        assert await rejected is KeepAnswer.LIVE
        assert {tokens.generation for tokens in await asyncio.gather(*waiters)} == {2}
        assert provider.token_calls == 1


async def test_of_two_who_read_at_once_the_slower_one_hears_of_a_change_too() -> None:
    """Else it brings back the tokens that another process has replaced."""
    async with PlainProvider() as provider, House(provider) as house:
        old = await house.login("books/anna", expires_in=3600)
        kept = await house.stored("books/anna")
        house.source._entries.drop("books/anna")
        quick, slow = house.store.late["load"] = [asyncio.Event(), asyncio.Event()]
        already = house.store.done["load"]
        tasks = [asyncio.create_task(house.source.current("books/anna")) for _ in range(2)]
        await house.store.changes.until(lambda: house.store.done["load"] == already + 2, what="two reads")
        quick.set()
        assert await tasks[0] == old

        newer = replace(old, access_token="newer", generation=old.generation + 1)
        await house.store.store.adopt(
            "books/anna", newer, bound_to=kept.bound_to, standing=kept.standing, now=house.clock.now()
        )
        house.source._changed("books/anna", newer.generation)
        slow.set()
        assert (await tasks[1]).access_token == "newer"
