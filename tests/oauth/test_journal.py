"""Lost answers, crashes and stores that fail: what a provider has issued is never lost by us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.oauth.house import ROUTE, House, renewed, table
from tests.simulators import AskaraProvider, DeskeraProvider, FakeClock, PlainProvider, Provider, TcpProxy
from tokenproxy.core.account import AT_EASE, Reason, Standing, State
from tokenproxy.core.interfaces import Claim
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import (
    AccountError,
    LoginRequiredError,
    ProviderUnavailableError,
    StoreError,
    StoreUnavailableError,
)
from tokenproxy.oauth import scheduler
from tokenproxy.oauth.journal import LEASE


async def failure(house: House, tokens: TokenSet) -> AccountError:
    with pytest.raises(AccountError) as caught:
        await house.source.renew("books", tokens, route=ROUTE)
    return caught.value


# -- lost answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DeskeraProvider, AskaraProvider])
async def test_a_lost_answer_is_asked_for_again_at_once(kind: type[Provider]) -> None:
    """A provider with a window gives the pair again; the callers notice nothing."""
    async with kind() as provider, House(provider) as house:
        provider.grace, provider.lose_answers = 30, 1
        first = await house.login()
        provider.revoke_all_access()
        tokens = await asyncio.gather(*(renewed(house, first) for _ in range(50)))
        assert {each.generation for each in tokens} == {2}
        assert tokens[0].refresh_token == provider.latest()["refresh_token"]
        assert (provider.token_calls, provider.replays, provider.reuses) == (2, 1, 0)
        stored = await house.stored()
        assert (stored.standing.state, stored.in_flight_since) == (State.OK, None)


async def test_a_lost_answer_of_a_strict_provider_is_told_as_such() -> None:
    """``rotation_lost``, not "revoked": nobody did anything wrong, and a person must log in all the same."""
    async with AskaraProvider() as provider, House(provider) as house:
        provider.lose_answers = 1
        first = await house.login()
        refused = await failure(house, first)
        assert isinstance(refused, LoginRequiredError)
        assert refused.reason == "rotation_lost"
        for _ in range(3):
            await house.clock.advance(3600)
            assert (await failure(house, first)).reason == "rotation_lost"
        assert (provider.token_calls, provider.refreshes) == (2, 1)
        assert (await house.stored()).standing.reason is Reason.ROTATION_LOST


async def test_doubt_stays_until_somebody_answers(tmp_path: Path) -> None:
    """Two lost answers and an outage: in doubt, with the mark on disk; then the grace, at last."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        provider.grace, provider.lose_answers = 3600, 2
        first = await house.login()
        refused = await failure(house, first)
        assert isinstance(refused, ProviderUnavailableError)
        assert refused.retry_after
        assert house.held().standing.state is State.IN_DOUBT
        assert (await house.stored()).in_flight_since is not None
        assert house.source.ready("books") == first  # it may live, and nobody knows better
        provider.outage = 503
        await house.clock.advance(30)
        await failure(house, first)
        assert house.held().standing.state is State.IN_DOUBT
        provider.refuse_connections = True
        await house.clock.advance(60)
        await failure(house, first)
        assert house.held().standing.state is State.IN_DOUBT
        assert (await house.stored()).in_flight_since is not None
        provider.refuse_connections, provider.outage = False, None
        await house.clock.advance(60)
        assert (await renewed(house, first)).refresh_token == provider.latest()["refresh_token"]
        assert (await house.stored()).in_flight_since is None


async def test_a_refusal_after_an_older_doubt_is_a_lost_rotation() -> None:
    """The doubt is remembered over any number of outages."""
    async with AskaraProvider() as provider, TcpProxy(provider.port) as wire, House(provider) as house:
        await house.reload_provider(token_url=wire.url + provider.token_path)
        first = await house.login()
        wire.cut_answers = 2
        provider.kill_on_reuse = False
        assert isinstance(await failure(house, first), ProviderUnavailableError)
        await house.clock.advance(30)
        assert (await failure(house, first)).reason == "rotation_lost"
        assert provider.refreshes == 1


async def test_a_cut_before_the_provider_saw_it_loses_nothing() -> None:
    """The first half of a request went into the dark; the repetition is the first that arrives."""
    async with AskaraProvider() as provider, TcpProxy(provider.port) as wire, House(provider) as house:
        await house.reload_provider(token_url=wire.url + provider.token_path)
        first = await house.login()
        wire.cut_after_up = 100
        waiter = asyncio.create_task(house.source.renew("books", first, route=ROUTE))
        await wire.connected(1)
        wire.cut_after_up = None
        outcome = await waiter
        assert isinstance(outcome, TokenSet)
        assert (provider.refreshes, provider.reuses) == (1, 0)


# -- the next start ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def crash(house: House, provider: Provider) -> AsyncIterator[TokenSet]:
    """The process dies after the provider's commit and before ours; the block is the next start."""
    first = await house.login()
    provider.gate, provider.hold = asyncio.Event(), "after"
    waiter = asyncio.create_task(house.source.renew("books", first, route=ROUTE))
    await provider.refreshed()
    await house.source.close(patience=0)
    await asyncio.wait({waiter})
    await house.store.close()
    provider.gate.set()
    provider.gate = None
    yield first


async def test_a_crash_is_found_and_the_lost_answer_asked_for_at_once(tmp_path: Path) -> None:
    """Within the provider's window, before any request; the account need not be in use."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        provider.grace = 10
        async with crash(house, provider), House(provider, path=tmp_path / "t.db") as again:
            await again.source.recovered(patience=10)
            assert (await again.kept()).refresh_token == provider.latest()["refresh_token"]
            assert (await again.source.current("books")).generation == 2
            assert (provider.refreshes, provider.replays, provider.reuses) == (1, 1, 0)
            assert again.metrics.account("books").refreshes["recovery", "ok"] == 1


async def test_a_crash_with_a_strict_provider_is_told_and_no_loop(tmp_path: Path) -> None:
    """After one try ``rotation_lost``; the start after that asks nobody."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        async with crash(house, provider), House(provider, path=tmp_path / "t.db") as again:
            await again.source.recovered(patience=10)
            assert again.held().standing.reason is Reason.ROTATION_LOST
        async with House(provider, path=tmp_path / "t.db") as third:
            await third.source.recovered(patience=10)
            assert (await failure(third, await third.kept())).reason == "rotation_lost"
        assert provider.token_calls == 2


async def test_requests_of_the_next_start_join_the_recovery(tmp_path: Path) -> None:
    """The two must not send the token twice."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        provider.grace = 10
        async with crash(house, provider) as first, House(provider, path=tmp_path / "t.db") as again:
            provider.revoke_access(first.access_token)
            tokens = await asyncio.gather(*(renewed(again, first) for _ in range(20)))
            assert {each.generation for each in tokens} == {2}
            assert provider.token_calls == 2


async def test_a_provider_that_is_down_at_the_start_is_asked_again(tmp_path: Path) -> None:
    """The scheduler keeps trying what is in doubt, used or not."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        provider.grace = 3600
        async with crash(house, provider):
            provider.outage = 503
            async with House(provider, path=tmp_path / "t.db") as again:
                await again.source.recovered(patience=10)
                assert again.held().standing.state is State.IN_DOUBT
                provider.outage = None
                ticking = asyncio.create_task(
                    scheduler.run(again.source, clock=again.clock, policy=lambda: again.policy)
                )
                for _ in range(3):
                    await again.clock.advance(1)
                async with asyncio.timeout(5):
                    while again.held().tokens.generation < 2:
                        await asyncio.sleep(0.001)
                ticking.cancel()
                assert provider.reuses == 0


async def test_a_mark_without_a_sent_request_costs_one_repetition(tmp_path: Path) -> None:
    """Killed between the mark and the request: the token was never spent, and the next start cannot know."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        await house.store.claim("books", generation=1, now=house.clock.now(), lease=LEASE)
        await house.source.close(patience=0)
        await house.store.close()
        async with House(provider, path=tmp_path / "t.db") as again:
            await again.source.recovered(patience=10)
            assert again.held().tokens.generation == 2
            assert again.held().tokens.access_token != first.access_token
            assert (provider.refreshes, provider.reuses) == (1, 0)


# -- a store that fails ------------------------------------------------------------------------------------------------


async def test_no_claim_no_call() -> None:
    """What cannot be written down is not sent; what lives is used, what is dead is 503 ``store_unavailable``."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.store.failing["claim"] = 3
        refused = await failure(house, first)
        assert isinstance(refused, StoreUnavailableError)
        assert refused.retry_after
        assert refused.next_step == "make room"
        await house.clock.advance(86400 - 30)
        assert await house.source.current("books") == first
        await house.clock.advance(30)
        with pytest.raises(StoreUnavailableError):
            await house.source.current("books")
        assert provider.token_calls == 0
        assert (await house.source.current("books")).generation == 2
        assert house.metrics.account("books").refreshes["on_demand", "store_error"] == 2


async def test_no_read_no_token() -> None:
    """An account that is not in memory needs the store."""
    async with AskaraProvider() as provider, House(provider) as house:
        await house.login()
        house.source._entries.drop("books")
        house.store.failing["load"] = 1
        with pytest.raises(StoreUnavailableError):
            await house.source.current("books")
        assert (await house.source.current("books")).generation == 1


@pytest.mark.parametrize("failures", [1, 5])
async def test_a_pair_that_the_store_does_not_take_is_served_and_written_later(
    failures: int, tmp_path: Path
) -> None:
    """The only copy is in memory: it is used, counted where health looks, and written as soon as that works."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        first = await house.login()
        house.store.failing["commit"] = failures
        second = await renewed(house, first)
        assert (house.source.unstored, (await house.kept()).generation) == (1, 1)
        assert house.source.ready("books") == second
        assert (await house.operator.status("books"))["unstored"]
        assert (await house.stored()).in_flight_since is not None

        # Renewing it again would need the store as well; no token call is made for it.
        assert isinstance(await failure(house, second), StoreUnavailableError)
        with pytest.raises(StoreUnavailableError):
            await house.source.refresh("books")
        assert provider.token_calls == 1
        house.source.worked("books", second)

        for _ in range(failures):
            await house.clock.until_sleeping()
            assert house.source.unstored == 1
            await house.clock.advance(house.clock.next_wake() or 0.0)
        await house.idle()
        assert house.source.unstored == 0
        assert await house.kept() == second
        assert (await house.stored()).in_flight_since is None
        house.source.worked("books", second)
        await house.idle()
        assert (await house.stored()).previous is None
        assert (await renewed(house, second)).generation == 3
        assert provider.reuses == 0


async def test_at_the_end_it_is_tried_once_more(tmp_path: Path) -> None:
    """SIGTERM with a pair that was not stored: no waiting for the back-off."""
    async with AskaraProvider() as provider:
        async with House(provider, path=tmp_path / "t.db") as house:
            first = await house.login()
            house.store.failing["commit"] = 1
            second = await renewed(house, first)
            await house.source.close()
            assert house.source.unstored == 0
        async with House(provider, path=tmp_path / "t.db") as house:
            assert await house.kept() == second


async def test_a_pair_in_memory_is_not_forgotten_by_a_reload() -> None:
    """The account's table goes away and comes back while the store is full: the spent token must not be sent again."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.store.failing["commit"] = 3
        second = await renewed(house, first)
        accounts = house.accounts
        house.source.configure({}, house.policy)
        assert house.source.unstored == 1
        house.source.configure(accounts, house.policy)
        await house.clock.advance(0)
        with pytest.raises(StoreUnavailableError):
            await house.source.renew("books", first, route=ROUTE)
        await house.clock.until_sleeping()
        for _ in range(3):
            await house.clock.advance(40)
            await asyncio.sleep(0.01)
        await house.idle()
        assert await house.source.current("books") == second == await house.kept()
        assert (provider.token_calls, provider.reuses) == (1, 0)


async def test_an_import_replaces_a_pair_in_memory() -> None:
    """It is newer; the one that was never stored must not come back over it."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        house.store.failing["commit"] = 1
        await renewed(house, first)
        imported = await house.login()
        await house.clock.until_sleeping()
        await house.clock.advance(30)
        await house.idle()
        assert house.source.unstored == 0
        assert (await house.kept()).refresh_token == imported.refresh_token
        assert house.source.ready("books") == imported


async def test_a_failure_that_cannot_be_written_is_still_told() -> None:
    """The answer was "no", and the store is full: the mark stays, which loses nothing."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.error = {"error": "invalid_grant"}
        house.store.failing["give_up"] = 1
        assert isinstance(await failure(house, first), LoginRequiredError)
        assert house.held().standing.state is State.LOGIN_REQUIRED
        assert (await house.stored()).in_flight_since is not None
        await house.login()
        assert house.source.gauges()[0].states == {"ok": 1}


@pytest.mark.parametrize(
    "method", ["load", "claim", "commit", "give_up", "settled", "stand", "adopt", "forget"]
)
@pytest.mark.parametrize("nth", [1, 2])
async def test_whatever_call_fails_nothing_is_lost(method: str, nth: int, tmp_path: Path) -> None:
    """SQLite's own way of testing: fail the n-th call of each kind, and see that the login survives."""
    clock = FakeClock()
    async with (
        PlainProvider(clock=clock) as provider,
        House(provider, path=tmp_path / "t.db", clock=clock) as house,
    ):
        tokens = await house.login()

        house.store.failing[method] = nth
        for step in range(6):
            provider.outage = 503 if step == 2 else None
            provider.revoke_all_access()
            try:
                outcome = await house.source.renew("books", house.held().tokens, route=ROUTE)
            except AccountError:
                outcome = None
            if isinstance(outcome, TokenSet):
                house.source.worked("books", outcome)
            await clock.advance(40)
            await asyncio.sleep(0.005)
        house.store.failing.clear()
        for _ in range(3):
            await clock.advance(40)
            await asyncio.sleep(0.005)
        await house.idle()
        provider.revoke_all_access()
        last = await renewed(house, house.held().tokens)
        assert last.refresh_token == provider.latest()["refresh_token"] == (await house.kept()).refresh_token
        assert last.generation > tokens.generation
        assert (provider.reuses, house.source.unstored) == (0, 0)
        assert not provider.grant_of(last.access_token).dead


async def test_somebody_else_was_quicker() -> None:
    """Another process renewed: its generation is taken, and nothing is sent."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        newer = replace(first, access_token="theirs", generation=2)
        standing = (await house.stored()).standing
        assert await house.store.adopt(
            "books",
            newer,
            bound_to=house.accounts["books"].bound_to,
            standing=standing,
            now=house.clock.now(),
        )
        assert await renewed(house, first) == newer
        assert provider.token_calls == 0


async def test_somebody_else_is_at_it() -> None:
    """Another process holds the lease: no second token call until it runs out, and then it is ours."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        await house.store.claim("books", generation=1, now=house.clock.now(), lease=LEASE)
        waiter = asyncio.create_task(renewed(house, first))
        await house.store.called("claim", 2)
        await house.clock.advance(29)
        assert provider.token_calls == 0
        await house.clock.advance(2)
        assert (await waiter).generation == 2
        assert provider.reuses == 0


async def test_what_somebody_else_brings_is_taken_without_a_call() -> None:
    """The second process needs no notice: it looks every second, give or take."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        theirs = await house.store.store.claim("books", generation=1, now=house.clock.now(), lease=LEASE)
        assert theirs is not None
        waiter = asyncio.create_task(renewed(house, first))
        await house.store.called("claim")
        newer = replace(first, access_token="theirs", refresh_token="theirs too", generation=2)
        standing = (await house.stored()).standing
        now = house.clock.now()
        await house.store.store.commit(theirs, newer, previous=None, standing=standing, now=now)
        await house.clock.advance(1)
        assert await waiter == newer
        assert provider.token_calls == 0


async def test_why_somebody_else_got_nothing_is_taken_too() -> None:
    """Ten replicas that ask a provider one after the other, each told the same, are a storm."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        theirs = await house.store.store.claim("books", generation=1, now=house.clock.now(), lease=LEASE)
        assert theirs is not None
        waiter = asyncio.create_task(failure(house, first))
        await house.store.called("claim")
        refused = Standing(State.LOGIN_REQUIRED, Reason.REFUSED, house.clock.now())
        await house.store.store.give_up(theirs, standing=refused, keep_mark=False)
        await house.clock.advance(1)
        assert isinstance(await waiter, LoginRequiredError)
        assert provider.token_calls == 0


async def test_somebody_else_who_never_ends_is_not_waited_for_for_ever() -> None:
    """A moment longer than a lease; then the caller is told when to come again."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        theirs = await house.store.store.claim("books", generation=1, now=house.clock.now(), lease=LEASE)
        assert theirs is not None
        waiter = asyncio.create_task(failure(house, first))
        await house.store.called("claim")
        for _ in range(36):
            await house.store.store.prolong(theirs, now=house.clock.now(), lease=LEASE)
            await house.clock.advance(1)
        refused = await waiter
        assert isinstance(refused, ProviderUnavailableError)
        assert (refused.retry_after, provider.token_calls) == (1, 0)


async def test_a_holder_that_was_stopped_sends_nothing_after_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGSTOP between claim and request: meanwhile another has taken over and may have sent the same refresh token."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        real, theirs = house.store.store.claim, list[Claim | None]()

        async def stopped(account: str, *, generation: int, now: datetime, lease: timedelta) -> Claim | None:
            taken = await real(account, generation=generation, now=now, lease=lease)
            if not theirs:
                await house.clock.advance(31)
                now = house.clock.now()
                theirs.append(await real(account, generation=generation, now=now, lease=lease))
            return taken

        monkeypatch.setattr(house.store.store, "claim", stopped)
        waiter = asyncio.create_task(renewed(house, first))
        await house.store.called("claim", 2)
        assert provider.token_calls == 0
        (holder,) = theirs
        assert holder is not None
        newer = replace(first, access_token="theirs", refresh_token="theirs too", generation=2)
        standing, now = (await house.stored()).standing, house.clock.now()
        await house.store.store.commit(holder, newer, previous=None, standing=standing, now=now)
        await house.clock.advance(1)
        assert await waiter == newer
        assert provider.token_calls == 0


async def test_an_answer_that_comes_after_the_lease_is_kept_where_nobody_got_a_newer_one() -> None:
    """A holder that was stopped: its successor's repetition was refused, so that this pair is the only one there is."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.gate = asyncio.Event()
        waiter = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        later = house.clock.now() + LEASE
        theirs = await house.store.store.claim("books", generation=1, now=later, lease=LEASE)
        assert theirs is not None
        provider.gate.set()
        await house.store.called("commit")
        refused = Standing(State.LOGIN_REQUIRED, Reason.ROTATION_LOST, later)
        await house.store.store.give_up(theirs, standing=refused, keep_mark=False)
        await house.clock.advance(1)
        tokens = await waiter
        assert tokens.generation == 2
        assert await house.kept() == tokens
        assert (await house.stored()).standing.state is State.OK


async def test_our_refusal_and_somebodys_success() -> None:
    """``invalid_grant`` because another process spent the token: its pair is used, nobody is asked to log in."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.error, provider.gate = {"error": "invalid_grant"}, asyncio.Event()
        waiter = asyncio.create_task(house.source.renew("books", first, route=ROUTE))
        await provider.token_call_arrived()
        newer = replace(first, access_token="theirs", refresh_token="theirs too", generation=2)
        standing = (await house.stored()).standing
        await house.store.adopt(
            "books",
            newer,
            bound_to=house.accounts["books"].bound_to,
            standing=standing,
            now=house.clock.now(),
        )
        provider.gate.set()
        assert await waiter == newer
        assert house.held().standing.state is State.OK
        assert await house.kept() == newer


async def test_a_start_without_a_readable_store_says_so() -> None:
    """One sentence, not a half-started program."""
    async with AskaraProvider() as provider, House(provider, start=False) as house:
        house.store.failing["tally"] = 1
        with pytest.raises(StoreError):
            await house.source.start()


async def test_many_in_doubt_are_all_asked(tmp_path: Path) -> None:
    """In parallel, each once."""
    async with AskaraProvider() as provider, House(provider, path=tmp_path / "t.db") as house:
        house.accounts["gone"] = table(provider, "gone")
        house.source.configure(house.accounts, house.policy)
        names = [f"books/{number}" for number in range(40)]
        for name in [*names, "gone"]:
            await house.login(name)
            await house.store.claim(name, generation=1, now=house.clock.now(), lease=LEASE)
        await house.source.close(patience=0)
        await house.store.close()
        async with House(provider, path=tmp_path / "t.db") as again:
            await again.source.recovered(patience=10)
            assert {again.held(name).tokens.generation for name in names} == {2}
            assert (provider.refreshes, provider.reuses) == (40, 0)


async def test_a_lease_that_the_store_did_not_take_back_holds_nobody_up() -> None:
    """``give_up`` failed: the next try gives it back first, and need not wait for 30 s until the lease runs out."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.outage = 503
        house.store.failing["give_up"] = 1
        with pytest.raises(ProviderUnavailableError):
            await renewed(house, first)
        provider.outage = None
        await house.clock.advance(2)
        second = await renewed(house, first)
        assert second.generation == 2
        assert (await house.stored()).in_flight_since is None


async def test_a_lease_is_not_given_back_twice_over_another_ones() -> None:
    """An import came meanwhile: what is owed belongs to a generation that is gone."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.outage = 503
        house.store.failing["give_up"] = 2
        for _ in range(2):
            with pytest.raises(AccountError):
                await renewed(house, first)
            await house.clock.advance(2)
        provider.outage = None
        imported = await house.login()
        assert (await renewed(house, imported)).generation == imported.generation + 1


async def test_metrics_tell_what_never_left_from_what_was_never_answered() -> None:
    """``network`` loses nothing and ``timeout`` may have spent the refresh token: an operator acts differently."""
    async with PlainProvider() as provider, House(provider) as house:
        provider.grace = 10**9
        first = await house.login()
        provider.refuse_connections = True
        with pytest.raises(ProviderUnavailableError):
            await renewed(house, first)
        provider.refuse_connections = False
        assert house.metrics.account("books").refreshes["on_401", "network"] == 1
        provider.lose_answers = 2
        await house.clock.advance(2)
        with pytest.raises(ProviderUnavailableError):
            await renewed(house, first)
        assert house.metrics.account("books").refreshes["on_401", "timeout"] == 1


async def test_metrics_tell_a_lost_lease() -> None:
    """Another login came while the answer was under way: ours is not stored, and theirs is used."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.gate, provider.hold = asyncio.Event(), "after"
        waiting = asyncio.create_task(renewed(house, first))
        await provider.token_call_arrived()
        theirs = replace(house.imported(provider.new_grant()), generation=2)
        bound_to = house.accounts["books"].bound_to
        now = house.clock.now()
        assert await house.store.store.adopt("books", theirs, bound_to=bound_to, standing=AT_EASE, now=now)
        provider.gate.set()
        assert await waiting == theirs
        assert house.metrics.account("books").refreshes["on_401", "lost_lease"] == 1
