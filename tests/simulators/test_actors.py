"""The wire, the clock and the config files."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import aiohttp
import pytest

from tests.simulators import (
    Api,
    AskaraProvider,
    DeskeraProvider,
    FakeClock,
    PerscomProvider,
    PlainProvider,
    TcpProxy,
    write_config,
)
from tokenproxy.core.interfaces import Clock


async def post(url: str, token: str, *, timeout: float = 5.0) -> int:
    """POST, because aiohttp sends a GET whose answer was cut a second time by itself."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as http,
        http.post(url, headers={"x-access-token": token}) as response,
    ):
        await response.read()
        return response.status


async def test_the_wire_passes_cuts_and_swallows() -> None:
    """An answer that is cut has been served: the API saw the request, the caller heard nothing."""
    async with DeskeraProvider() as provider, Api(provider) as api, TcpProxy(api.port) as wire:
        token = provider.new_grant()["access_token"]
        assert await post(wire.url, token) == 200

        wire.cut_answers = 1
        with pytest.raises(aiohttp.ClientError):
            await post(wire.url, token)
        assert api.statuses == [200, 200]
        assert await post(wire.url, token) == 200

        wire.black_hole = True
        with pytest.raises(TimeoutError):
            await post(wire.url, token, timeout=0.1)
        assert len(api.requests) == 3
        wire.black_hole = False

        wire.cut_after_up = 10
        with pytest.raises(aiohttp.ClientError):
            await post(wire.url, token)
        wire.cut_after_up = None

        hanging = asyncio.create_task(post(wire.url + "/hang", token))
        await api.arrived(4)
        wire.cut()
        with pytest.raises(aiohttp.ClientError):
            await hanging
        assert wire.connections == 6


async def test_the_clock_wakes_sleepers_in_order() -> None:
    """A sleeper sees the time it asked for, also when one step of the clock passes several."""
    clock = FakeClock()
    typed: Clock = clock
    start = typed.monotonic()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic() - start))

    tasks = [
        asyncio.create_task(sleeper("a", 5, 5)),
        asyncio.create_task(sleeper("b", 3)),
        asyncio.create_task(sleeper("never", 1000)),
    ]
    await clock.until_sleeping(3)
    assert clock.next_wake() == 3
    began = clock.now()
    await clock.advance(60)
    assert woken == [("b", 3), ("a", 5), ("a", 10)]
    assert (clock.now() - began).total_seconds() == 60
    assert clock.sleeping == 1
    tasks[2].cancel()
    await clock.advance(0)
    assert clock.sleeping == 0
    await asyncio.gather(*tasks[:2])


@pytest.mark.parametrize("kind", [DeskeraProvider, PerscomProvider, AskaraProvider, PlainProvider])
async def test_a_config_says_only_where_things_are(kind: type[PlainProvider], tmp_path: Path) -> None:
    """Every quirk must come from the shipped preset, or a story about a guide would test its own config."""
    async with kind() as provider, Api(provider) as api:
        path = write_config(tmp_path, provider, api, extra="[renew]\nhold = 1")
        config = tomllib.loads(path.read_text())

        table = config["providers"][provider.name]
        if kind is not PlainProvider:
            assert table.keys() <= {"authorize_url", "token_url", "validate"}
        host = config["accounts"]["books"].get("vars", {}).get("dashboard", "")
        assert table["token_url"].format(dashboard=host) == provider.url + provider.token_path
        assert config["routes"]["books"] == {"upstream": api.url, "account": "books"}
        assert config["renew"] == {"hold": 1}
        secret = tmp_path / "books.secret"
        assert secret.read_text() == provider.client_secret
        assert secret.stat().st_mode & 0o777 == 0o600
