"""A login where the browser is elsewhere (RFC 8628)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.oauth.house import profile, table
from tests.oauth.reception import Reception
from tests.simulators import ABSENT, DeviceProvider, FakeClock
from tokenproxy.core.provider import DEVICE_CODE, Account, ClientAuth
from tokenproxy.errors import BadLoginError, MisconfiguredError, ProviderUnavailableError


def account(simulator: DeviceProvider, **changes: Any) -> Account:
    provider = replace(
        profile(simulator),
        name="device",
        client_auth=ClientAuth.POST,
        scopes=("read",),
        device_url=simulator.url + simulator.device_path,
        validate=None,
    )
    return table(simulator, provider=provider, grant=DEVICE_CODE, **changes)


class Elsewhere(Reception):
    """A house whose account logs in by device; its provider lives on the same clock."""

    def __init__(self, simulator: DeviceProvider, clock: FakeClock, **changes: Any) -> None:
        super().__init__(simulator, accounts={"books": account(simulator, **changes)}, clock=clock)
        self.provider = simulator

    async def polled(self, after: float) -> None:
        """Move on by so many seconds, in which one more poll comes and is done with."""
        count = len(self.provider.polls)
        await self.clock.advance(after)
        await self.provider.polled(count + 1)
        await self.all_done()
        await self.clock.until_sleeping(2)  # the next poll, and who tidies up

    async def ended(self, login: dict[str, Any]) -> dict[str, Any]:
        return await self.desk.status(login["id"], wait=10)


async def test_a_person_says_yes_elsewhere() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        login = await house.begun("books/anna")
        assert login.keys() == {
            "id", "account", "expires_at", "user_code", "verification_uri", "verification_uri_complete", "interval",
        }  # fmt: skip
        assert (login["verification_uri"], login["interval"]) == (f"{provider.url}/activate", 5.0)
        assert login["user_code"] in login["verification_uri_complete"]
        await house.clock.until_sleeping(2)
        await house.polled(after=5)
        await house.polled(after=5)
        assert (await house.desk.status(login["id"]))["state"] == "pending"

        provider.say("yes")
        await house.clock.advance(5)

        status = await house.ended(login)
        assert (status["state"], status["result"]["state"]) == ("success", "ok")
        assert (await house.kept("books/anna")).access_token == provider.latest()["access_token"]
        assert (await house.kept("books/anna")).scope_asked == "read"
        assert len(provider.polls) == 3
        assert provider.complaints == []


async def test_slow_down_is_for_good() -> None:
    """Five seconds more for this and all later polls; the simulator complains of any that comes sooner."""
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        provider.slow_downs = 2
        login = await house.begun()
        await house.clock.until_sleeping(2)
        for after in (5, 10, 15, 15):
            await house.polled(after)

        provider.say("yes")
        await house.clock.advance(15)

        assert (await house.ended(login))["state"] == "success"
        gaps = [later - earlier for earlier, later in zip(provider.polls, provider.polls[1:], strict=False)]
        assert gaps == [10, 15, 15, 15]
        assert provider.complaints == []


@pytest.mark.parametrize(("interval", "gap"), [(ABSENT, 5), (None, 5), (2, 2), (12, 12)])
async def test_the_provider_s_interval_is_kept(interval: Any, gap: float) -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        provider.interval = interval
        assert (await house.begun())["interval"] == gap
        await house.clock.until_sleeping(2)

        await house.polled(after=gap)
        await house.clock.advance(gap - 0.5)
        assert len(provider.polls) == 1
        await house.polled(after=0.5)

        assert provider.complaints == []


async def test_somebody_says_no() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        login = await house.begun()
        await house.clock.until_sleeping(2)
        provider.say("no")

        await house.clock.advance(5)

        status = await house.ended(login)
        assert (status["state"], status["error"]) == ("failed", "access_denied")
        assert await house.store.store.load("books") is None


async def test_nobody_says_anything() -> None:
    """It stops at ``expires_in``, whatever the provider would answer."""
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        provider.device_life = 12
        login = await house.begun()
        await house.clock.until_sleeping(2)
        await house.polled(after=5)
        await house.polled(after=5)

        await house.clock.advance(60)

        assert (await house.ended(login))["state"] == "expired"
        assert len(provider.polls) == 2


async def test_the_provider_ends_it_sooner_than_it_said() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        login = await house.begun()
        await house.clock.until_sleeping(2)
        provider.error = {"error": "expired_token"}

        await house.clock.advance(5)

        status = await house.ended(login)
        assert (status["state"], status["error"]) == ("expired", "expired")


async def test_a_provider_in_trouble_is_asked_ever_more_rarely() -> None:
    """RFC 8628 section 3.5: exponential back-off, for calls that fail to connect and for outages alike."""
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        login = await house.begun()
        await house.clock.until_sleeping(2)
        provider.outage = 503
        for calls, after in enumerate((5, 10, 20), start=1):
            await house.clock.advance(after)
            await provider.changes.until(lambda calls=calls: provider.token_calls == calls, what="a poll")  # type: ignore[misc]
            await house.all_done()
            await house.clock.until_sleeping(2)
        assert house.clock.next_wake() == 40
        provider.outage = None
        provider.refuse_connections = True
        await house.clock.advance(40)
        await house.all_done()
        await house.clock.until_sleeping(2)
        assert house.clock.next_wake() == 60
        provider.refuse_connections = False
        provider.say("yes")

        await house.clock.advance(60)

        assert (await house.ended(login))["state"] == "success"


@pytest.mark.parametrize("error", ["invalid_client", "invalid_grant", "unsupported_grant_type"])
async def test_any_other_refusal_ends_the_polling(error: str) -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        login = await house.begun()
        await house.clock.until_sleeping(2)
        provider.error = {"error": error}

        await house.clock.advance(5)

        assert (await house.ended(login))["state"] == "failed"
        await house.clock.advance(60)
        assert provider.token_calls == 1


async def test_a_login_that_is_given_up_asks_no_more() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        login = await house.begun()
        await house.clock.until_sleeping(2)

        await house.desk.cancel(login["id"])
        await house.clock.advance(60)

        assert provider.polls == []
        other = await house.begun()
        with pytest.raises(BadLoginError):
            await house.desk.paste(other["id"], "http://127.0.0.1:9100/callback/books?code=x")


async def test_addresses_that_no_browser_should_open_are_refused() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        provider.device_answer = {"verification_uri_complete": "javascript:alert(1)"}
        assert (await house.begun())["verification_uri_complete"] == ""
        provider.device_answer = {"verification_uri": "file:///etc/passwd"}
        with pytest.raises(ProviderUnavailableError, match="cannot begin") as down:
            await house.begun()
        assert down.value.next_step.startswith("tokenproxy login books ")


async def test_a_client_that_the_provider_does_not_know_begins_nothing() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        registration = replace(house.accounts["books"].registration, client_secret="another-secret-of-ours")
        await house.reload(registration=registration)
        with pytest.raises(MisconfiguredError, match="cannot begin"):
            await house.begun()
        assert len(house.desk._attempts) == 0


async def test_an_account_of_a_browser_may_log_in_by_device_too() -> None:
    """``tokenproxy login --device`` on a headless box."""
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider, Elsewhere(provider, clock) as house:
        await house.reload(grant="authorization_code")
        login = await house.begun(device=True)
        await house.clock.until_sleeping(2)
        provider.say("yes")
        await house.clock.advance(5)

        assert (await house.ended(login))["state"] == "success"
