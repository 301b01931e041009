"""The actors of logins are as strict as the stories need them to be."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from tests.simulators import DeskproProvider, DeviceProvider, FakeClock
from tests.simulators.device import DEVICE_GRANT

CLIENT = {"client_id": DeviceProvider.client_id, "client_secret": DeviceProvider.client_secret}


async def get(url: str, **params: str) -> tuple[int, str, Any]:
    """Status, where it leads, and the answer."""
    query = f"?{urlencode(params)}" if params else ""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url + query, allow_redirects=False) as answer,
    ):
        json = answer.content_type == "application/json"
        return answer.status, answer.headers.get("Location", ""), await answer.json() if json else None


async def post(url: str, **params: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, data=params) as answer:
        return answer.status, await answer.json()


async def test_the_third_party_s_first_flow() -> None:
    async with DeskproProvider() as provider:
        status, back, _ = await get(
            f"{provider.url}/authorize", client_key=provider.client_id, redirect_uri="http://x/cb"
        )
        base, _, code = back.partition("#code=")
        exchange = {"secret": provider.client_secret, "access_code": code}
        assert (status, base) == (302, "http://x/cb")
        status, _, answer = await get(f"{provider.url}/token", **exchange)
        assert (status, answer) == (200, {"token": provider.latest()["access_token"]})
        assert (await get(f"{provider.url}/token", **exchange))[0] == 400
        assert provider.complaints == []


@pytest.mark.parametrize(
    "deviation",
    [
        {"client_id": "client-key-1"},
        {"client_key": "another"},
        {"state": "x"},
        {"response_type": "code"},
        {"redirect_uri": ""},
    ],
)
async def test_the_third_party_takes_nothing_else(deviation: dict[str, str]) -> None:
    async with DeskproProvider() as provider:
        asked = {"client_key": provider.client_id, "redirect_uri": "http://x/cb"} | deviation

        assert (await get(f"{provider.url}/authorize", **asked))[0] == 400
        assert len(provider.complaints) == 1


async def test_the_third_party_s_exchange_is_a_bare_get() -> None:
    async with DeskproProvider() as provider:
        good = {"secret": provider.client_secret, "access_code": "x"}

        assert (await post(f"{provider.url}/token", **good))[0] == 405
        assert (await get(f"{provider.url}/token", **good, grant_type="authorization_code"))[0] == 400
        assert (await get(f"{provider.url}/token", **good | {"secret": "wrong"}))[0] == 401
        assert len(provider.complaints) == 2


async def test_a_device_that_polls_too_fast_is_noticed() -> None:
    clock = FakeClock()
    async with DeviceProvider(clock=clock) as provider:
        _, begun = await post(f"{provider.url}{provider.device_path}", **CLIENT)
        poll = {"grant_type": DEVICE_GRANT, "device_code": begun["device_code"], **CLIENT}
        assert begun.keys() >= {"user_code", "verification_uri", "expires_in"}
        assert "interval" not in begun
        errors = [(await post(f"{provider.url}/token", **poll))[1]["error"]]
        await clock.advance(4.9)
        errors.append((await post(f"{provider.url}/token", **poll))[1]["error"])
        assert provider.complaints == ["POST /token: a poll after 4.9 s"]
        await clock.advance(5)
        provider.say("yes")

        status, answer = await post(f"{provider.url}/token", **poll)

        assert (status, errors) == (200, ["authorization_pending", "slow_down"])
        assert answer["access_token"] == provider.latest()["access_token"]
        assert (await post(f"{provider.url}/token", **poll))[1]["error"] == "invalid_grant"
