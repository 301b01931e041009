"""How much a provider is asked at once and in a second, and that no provider holds up another's renewals."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from tests.oauth.house import House, profile, table
from tests.simulators import PlainProvider
from tokenproxy.core.provider import Ceiling
from tokenproxy.core.settings import RenewPolicy
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import ProviderUnavailableError
from tokenproxy.oauth.ceilings import PATIENCE

WIDE = Ceiling(concurrent=100)


async def expired(house: House, provider: PlainProvider, count: int, *, account: str = "books") -> list[str]:
    """So many logins whose access tokens are past their time."""
    names = [f"{account}/{number}" for number in range(count)]
    for name in names:
        refresh_token = provider.new_grant()["refresh_token"]
        await house.source.adopt(name, TokenSet("dead", refresh_token, expires_at=house.clock.now()))
    return names


def requests(house: House, names: list[str]) -> asyncio.Task[list[TokenSet]]:
    """One for each of them, at once."""

    async def ask() -> list[TokenSet]:
        return await asyncio.gather(*(house.source.current(name) for name in names))

    return asyncio.create_task(ask())


@pytest.mark.parametrize("concurrent", [1, 3])
async def test_so_many_calls_at_once_and_no_more(concurrent: int) -> None:
    """``limits.concurrent``; the others wait, and all are served."""
    async with (
        PlainProvider() as provider,
        House(provider, limits=Ceiling(concurrent=concurrent)) as house,
    ):
        names = await expired(house, provider, 7)
        provider.delay = 0.005
        assert [each.generation for each in await requests(house, names)] == [2] * 7
        assert provider.max_concurrent_token_calls == concurrent


async def test_32_calls_that_hang_hold_up_nobody_elses_renewals() -> None:
    """One provider takes connections and never answers; every other renews as if nothing were."""
    async with PlainProvider() as slow, PlainProvider() as quick, House(slow, limits=WIDE) as house:
        house.accounts["crm"] = table(quick, "crm")
        house.source.configure(house.accounts, house.policy)
        slow.gate = asyncio.Event()
        hanging = requests(house, await expired(house, slow, 32))
        await slow.token_call_arrived(16)
        served = await requests(house, await expired(house, quick, 40, account="crm"))
        assert [each.generation for each in served] == [2] * 40
        slow.gate.set()
        await hanging
        assert slow.max_concurrent_token_calls == 16


async def test_many_providers_that_hang_leave_room_for_the_next() -> None:
    """Whatever their own ceilings, each gets no more than what is free: 16, 8, 4, 2 and 1 of 32 places."""
    shares = (16, 8, 4, 2)
    async with AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(PlainProvider()) for _ in range(len(shares) + 1)]
        accounts = {
            f"p{number}": table(each, f"p{number}", provider=profile(each, limits=WIDE))
            for number, each in enumerate(providers)
        }
        house = await stack.enter_async_context(House(providers[0], accounts=accounts))
        hanging = []
        for number, share in enumerate(shares):
            slow = providers[number]
            slow.gate = asyncio.Event()
            hanging.append(requests(house, await expired(house, slow, 20, account=f"p{number}")))
            await slow.token_call_arrived(share)
        served = await requests(house, await expired(house, providers[-1], 5, account=f"p{len(shares)}"))
        assert [each.generation for each in served] == [2] * 5
        for slow in providers[:-1]:
            assert slow.gate is not None
            assert slow.max_concurrent_token_calls <= 16
            slow.gate.set()
        await asyncio.gather(*hanging)


async def test_a_reload_changes_the_ceilings() -> None:
    """Both of them, for whoever comes next."""
    async with PlainProvider() as provider, House(provider, limits=Ceiling(concurrent=1)) as house:
        house.policy = RenewPolicy(concurrent=6)
        await house.reload_provider(limits=Ceiling(concurrent=5))
        provider.delay = 0.005
        await requests(house, await expired(house, provider, 9))
        assert provider.max_concurrent_token_calls == 3


async def test_a_rate_is_a_bucket_that_fills() -> None:
    """``limits.per_second = 2``: two at once after a rest, then one every half second, whoever waits."""
    async with PlainProvider() as provider, House(provider, limits=Ceiling(per_second=2)) as house:
        asked = requests(house, await expired(house, provider, 6))
        for calls in (2, 3, 4, 5, 6):
            await provider.token_calls_made(calls)
            assert provider.token_calls == calls
            await house.clock.until_sleeping(1 if calls < 6 else 0)
            await house.clock.advance(0.49)
            assert provider.token_calls == calls
            await house.clock.advance(0.01)
        await asked


async def test_a_request_does_not_wait_for_ever() -> None:
    """A provider that hangs must not collect all requests that there may be; the token is not to blame."""
    async with PlainProvider() as provider, House(provider, limits=Ceiling(concurrent=1)) as house:
        first, second = await expired(house, provider, 2)
        provider.gate = asyncio.Event()
        inside = requests(house, [first])
        await provider.token_call_arrived()
        waiting = requests(house, [second])
        await house.waiting(1, second)
        await house.clock.advance(PATIENCE + 1)
        with pytest.raises(ProviderUnavailableError, match="its turn") as refused:
            await waiting
        assert refused.value.retry_after
        assert house.held(second).standing.fails == 0
        assert house.metrics.account("books").refreshes["on_demand", "ceiling"] == 1
        provider.gate.set()
        await inside
        assert (await house.source.current(second)).generation == 2


async def test_whom_nobody_waits_for_any_more_goes_last() -> None:
    """A caller that hung up has its token renewed all the same, after those who are still there."""
    async with PlainProvider() as provider, House(provider, limits=Ceiling(concurrent=1)) as house:
        names = await expired(house, provider, 3)
        provider.gate = asyncio.Event()
        inside = requests(house, names[:1])
        await provider.token_call_arrived()
        gone = asyncio.create_task(house.source.current(names[1]))
        await house.waiting(1, names[1])
        waiting = requests(house, names[2:])
        await house.waiting(1, names[2])
        gone.cancel()
        await asyncio.wait({gone})
        provider.gate.set()
        await asyncio.gather(inside, waiting)
        await house.idle()
        sent = [call.parameters["refresh_token"] for call in provider.requests]
        assert [provider.grant_of(token).number for token in sent] == [1, 3, 2]


async def test_a_renewal_that_is_cut_off_in_the_queue_leaves_no_place_taken() -> None:
    """The end of the process, with more renewals than may run: those that were not sent are not."""
    async with PlainProvider() as provider, House(provider, limits=Ceiling(concurrent=1)) as house:
        names = await expired(house, provider, 3)
        provider.gate = asyncio.Event()
        asked = [requests(house, [name]) for name in names]
        await provider.token_call_arrived()
        await house.source.close(patience=0)
        await asyncio.gather(*asked, return_exceptions=True)
        provider.gate.set()
        assert (provider.token_calls, house.source._ceilings._free) == (1, house.policy.concurrent)


@pytest.mark.parametrize(
    ("status", "retry_after", "pause"), [(429, 40, 40), (503, 40, 40), (429, "", 0.75)], ids=str
)
async def test_slow_down_is_said_to_all_of_its_accounts(
    status: int, retry_after: int | str, pause: float
) -> None:
    """429 or ``Retry-After`` to one login: no background renewal of any other; what a request needs goes through."""
    async with PlainProvider() as provider, House(provider) as house:
        house.accounts["other"] = replace(house.accounts["books"], name="other")
        house.source.configure(house.accounts, house.policy)
        for name in ("books/anna", "other/ben"):
            await house.login(name, expires_in=3000)
        (carl,) = await expired(house, provider, 1)
        await house.clock.advance(2800)
        for name in ("books/anna", "other/ben"):
            assert house.source.ready(name)

        provider.outage, provider.retry_after = status, retry_after
        assert house.source.renew_due(1) == 1
        await house.idle()
        provider.outage = None
        await house.clock.advance(pause - 0.1)
        assert house.source.renew_due(9) == 0
        assert (await house.source.current(carl)).generation == 2
        assert house.source.renew_due(9) == 0
        await house.clock.advance(0.2)
        assert house.source.renew_due(9) == 2
        await house.idle()
        assert provider.token_calls == 4


async def test_an_outage_without_retry_after_pauses_one_login_alone() -> None:
    """The next login may be luckier: 5xx says nothing about the others."""
    async with PlainProvider() as provider, House(provider) as house:
        await expired(house, provider, 1)
        provider.outage = 503
        with pytest.raises(ProviderUnavailableError):
            await house.source.current("books/0")
        assert house.source._ceilings.open_for(house.accounts["books"])


async def test_tokens_from_files_and_commands_have_ceilings_of_their_own() -> None:
    """A command that hangs holds up no other account, though none of them has a provider."""
    async with PlainProvider() as provider, House(provider) as house:
        spec = replace(house.accounts["books"], grant="command", token_from="cmd:x")
        ceilings = house.source._ceilings
        one, other = replace(spec, name="one"), replace(spec, name="other")
        ceilings.pause(one, 60)
        assert not ceilings.open_for(one)
        assert ceilings.open_for(other)
