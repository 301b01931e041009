"""What a 401 of the upstream leads to: validate, hold, and when the caller gets to see it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.oauth.house import ROUTE, House, renewed
from tests.simulators import AskaraProvider, DeskeraProvider, PlainProvider
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import ProviderUnavailableError


async def refused(house: House, rejected: TokenSet, *, route: str = ROUTE) -> TokenSet | KeepAnswer:
    """A request's way: a 401, a renewal, the resend, and again a 401."""
    outcome = await house.source.renew("books", rejected, route=route)
    if isinstance(outcome, TokenSet):
        house.source.refused_again("books", outcome, route=route)
    return outcome


# -- validate ----------------------------------------------------------------------------------------------------------


async def test_live_means_no_refresh_and_one_validate_call_for_fifty() -> None:
    """The 401 is about something else, and the callers get it."""
    async with DeskeraProvider() as provider, House(provider) as house:
        first = await house.login()
        outcomes = await asyncio.gather(*(house.source.renew("books", first, route=ROUTE) for _ in range(50)))
        assert set(outcomes) == {KeepAnswer.LIVE}
        assert (provider.validate_calls, provider.token_calls) == (1, 0)
        assert house.source.ready("books") == first


async def test_live_is_believed_for_ten_seconds() -> None:
    """Then it is asked again, and "dead" is believed at once."""
    async with DeskeraProvider() as provider, House(provider) as house:
        first = await house.login()
        assert await house.source.renew("books", first, route=ROUTE) is KeepAnswer.LIVE
        await house.clock.advance(9.9)
        provider.revoke_all_access()
        assert await house.source.renew("books", first, route="other") is KeepAnswer.LIVE
        assert provider.validate_calls == 1
        await house.clock.advance(0.1)
        assert (await renewed(house, first)).generation == 2
        assert (provider.validate_calls, provider.token_calls) == (2, 1)
        assert provider.complaints == []


async def test_live_of_an_old_generation_says_nothing_about_the_new_one() -> None:
    """One validate call per generation."""
    async with PlainProvider() as provider, House(provider) as house:
        first = await house.login()
        assert await house.source.renew("books", first, route=ROUTE) is KeepAnswer.LIVE
        second = await house.source.refresh("books")
        provider.revoke_all_access()
        assert (await renewed(house, second)).generation == 3


@pytest.mark.parametrize("trouble", ["dead", "down", "limit", "unreachable"])
async def test_anything_but_live_goes_on_to_renew(trouble: str) -> None:
    """A validate call that cannot be asked must not keep a dead token in use."""
    async with PlainProvider() as provider, PlainProvider() as validator, House(provider) as house:
        first = await house.login()
        validate = house.accounts["books"].provider.validate
        assert validate is not None
        await house.reload_provider(validate=replace(validate, url=validator.url + "/validate"))
        validator.validate_override = {"dead": 401, "down": 503, "limit": 429}.get(trouble)
        validator.refuse_connections = trouble == "unreachable"
        assert (await renewed(house, first)).generation == 2
        assert provider.token_calls == 1


async def test_a_token_that_is_known_to_be_dead_is_never_sent() -> None:
    """Rule 3: neither while the renewal runs, nor when it fails: then 503, with the time of the next try."""
    async with DeskeraProvider() as provider, House(provider) as house:
        first = await house.login()
        provider.revoke_all_access()
        provider.outage, provider.gate = 503, asyncio.Event()
        waiter = asyncio.create_task(house.source.renew("books", first, route=ROUTE))
        await provider.token_call_arrived()
        assert house.source.ready("books") is None
        provider.gate.set()
        with pytest.raises(ProviderUnavailableError):
            await waiter
        assert house.source.ready("books") is None
        with pytest.raises(ProviderUnavailableError) as unavailable:
            await house.source.current("books")
        assert unavailable.value.retry_after
        assert not (await house.operator.status("books"))["live"]


async def test_no_validate_call_for_a_renewal_ahead_of_time() -> None:
    """Only a 401 raises the question."""
    async with PlainProvider() as provider, House(provider) as house:
        await house.login(expires_in=600)
        await house.clock.advance(580)
        await house.source.current("books")
        assert (provider.validate_calls, provider.token_calls) == (0, 1)


# -- hold --------------------------------------------------------------------------------------------------------------


async def test_one_refused_renewal_holds_the_next_ones() -> None:
    """A revoked permission must not turn every request into a token call."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        outcomes = await asyncio.gather(*(refused(house, first) for _ in range(20)))
        second = outcomes[0]
        assert isinstance(second, TokenSet)
        assert provider.token_calls == 1
        for _ in range(20):
            assert await refused(house, second) is KeepAnswer.HELD
        assert provider.token_calls == 1


async def test_a_first_401_is_never_held() -> None:
    """Only the resend with a new generation that is refused too begins a hold."""
    async with AskaraProvider() as provider, House(provider) as house:
        first = await house.login()
        second = await renewed(house, first)
        third = await renewed(house, second)
        house.source.refused_again("books", second, route=ROUTE)  # of an older generation: too late to count
        assert (await renewed(house, third)).generation == 4


async def test_holds_double_to_five_minutes_and_are_forgotten_in_the_end() -> None:
    """10, 20, 40, 80, 160, 300, 300; after a long peace from the start."""
    async with AskaraProvider() as provider, House(provider) as house:
        provider.jwt_life = None
        token: TokenSet | KeepAnswer = await house.login(expires_in=10**6)
        for wanted in (10, 20, 40, 80, 160, 300, 300):
            assert isinstance(token, TokenSet)
            provider.expires_in = 10**6
            token = await refused(house, token)
            assert isinstance(token, TokenSet)
            await house.clock.advance(wanted - 0.1)
            assert await refused(house, token) is KeepAnswer.HELD
            await house.clock.advance(0.1)
        await house.clock.advance(3000)
        assert isinstance(token, TokenSet)
        token = await refused(house, token)
        assert isinstance(token, TokenSet)
        await house.clock.advance(10)
        assert isinstance(await refused(house, token), TokenSet)


async def test_a_hold_is_of_one_route() -> None:
    """Another upstream may take the token gladly, or really find it dead."""
    async with AskaraProvider() as provider, House(provider) as house:
        second = await refused(house, await house.login())
        assert isinstance(second, TokenSet)
        assert await refused(house, second) is KeepAnswer.HELD
        third = await house.source.renew("books", second, route="other")
        assert isinstance(third, TokenSet)
        assert await refused(house, third) is KeepAnswer.HELD


async def test_an_import_ends_the_hold() -> None:
    """Somebody has done something about it."""
    async with AskaraProvider() as provider, House(provider) as house:
        second = await refused(house, await house.login())
        assert isinstance(second, TokenSet)
        imported = await house.login()
        assert isinstance(await house.source.renew("books", imported, route=ROUTE), TokenSet)


async def test_a_validate_answer_dead_ends_the_hold() -> None:
    """It proves that a renewal would help after all; asked at most every ``renew.hold``."""
    async with PlainProvider() as provider, House(provider) as house:
        token: TokenSet | KeepAnswer = await house.login(expires_in=10**6)
        provider.expires_in = 10**6
        for _ in range(2):  # the second hold lasts 20 s
            assert isinstance(token, TokenSet)
            provider.validate_override = 503
            token = await refused(house, token)
            assert isinstance(token, TokenSet)
            await house.clock.advance(10)
        provider.validate_override = None
        assert isinstance(token, TokenSet)
        calls = provider.validate_calls
        assert await house.source.renew("books", token, route=ROUTE) is KeepAnswer.LIVE
        assert provider.validate_calls == calls + 1
        provider.revoke_all_access()
        assert await house.source.renew("books", token, route=ROUTE) is KeepAnswer.HELD
        await house.clock.advance(9.9)
        assert await house.source.renew("books", token, route=ROUTE) is KeepAnswer.HELD
        assert provider.validate_calls == calls + 1


async def test_in_a_hold_silence_is_not_enough() -> None:
    """An unreachable validate call renews outside of a hold, never inside."""
    async with PlainProvider() as provider, House(provider, policy=RenewPolicy(hold=10)) as house:
        token: TokenSet | KeepAnswer = await house.login(expires_in=10**6)
        provider.expires_in, provider.validate_override = 10**6, 503
        for _ in range(2):
            assert isinstance(token, TokenSet)
            token = await refused(house, token)
            await house.clock.advance(10)
        assert isinstance(token, TokenSet)
        assert await house.source.renew("books", token, route=ROUTE) is KeepAnswer.HELD
        assert provider.token_calls == 2
        provider.validate_override = 401
        await house.clock.advance(9.9)  # still held, and not yet asked again
        assert await house.source.renew("books", token, route=ROUTE) is KeepAnswer.HELD


async def test_dead_inside_a_hold_renews_at_once() -> None:
    """The hold ends with the answer, and the request gets a new token."""
    async with PlainProvider() as provider, House(provider) as house:
        token: TokenSet | KeepAnswer = await house.login(expires_in=10**6)
        provider.expires_in, provider.validate_override = 10**6, 503
        for _ in range(2):
            assert isinstance(token, TokenSet)
            token = await refused(house, token)
            await house.clock.advance(10)
        provider.validate_override = None
        provider.revoke_all_access()
        assert isinstance(token, TokenSet)
        assert (await renewed(house, token)).generation == 4
        assert house.held().held(ROUTE, house.clock.monotonic()) is None


async def test_a_validate_call_that_is_wrong_makes_no_storm() -> None:
    """It says "dead" of every token, and the upstream refuses every token: a few renewals, not one per request."""
    async with PlainProvider() as provider, House(provider) as house:
        provider.validate_override, provider.expires_in = 401, 10**6
        token: TokenSet | KeepAnswer = await house.login(expires_in=10**6)
        newest = token
        for _ in range(600):
            assert isinstance(newest, TokenSet)
            token = await refused(house, newest)
            newest = token if isinstance(token, TokenSet) else newest
            await house.clock.advance(1)
        assert provider.token_calls <= 60


async def test_a_hold_of_one_route_does_not_keep_another_from_renewing() -> None:
    """Held means "ask validate first"; whoever is not held and joins that question still gets a renewal."""
    async with PlainProvider() as provider, House(provider) as house:
        token: TokenSet | KeepAnswer = await house.login(expires_in=10**6)
        provider.expires_in, provider.validate_override = 10**6, 503
        for _ in range(2):
            assert isinstance(token, TokenSet)
            token = await refused(house, token)
            await house.clock.advance(10)
        assert isinstance(token, TokenSet)
        calls, provider.validate_gate = provider.validate_calls, asyncio.Event()
        held = asyncio.create_task(house.source.renew("books", token, route=ROUTE))
        await provider.validate_call_arrived(calls + 1)
        free = asyncio.create_task(house.source.renew("books", token, route="other"))
        operator = asyncio.create_task(house.source.refresh("books"))
        await house.waiting(3)
        provider.validate_gate.set()
        assert await held is KeepAnswer.HELD
        assert await free == await operator
        assert provider.token_calls == 3
