"""Two real ``serve`` processes on one PostgreSQL, and a provider that takes each refresh token once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.simulators import Api, AskaraProvider, free_port, write_config
from tests.stories.serving import PATIENCE, Serve, calling, command, imported, serving, status_of
from tokenproxy.stores import create_key_file


@asynccontextmanager
async def pair(
    tmp_path: Path, dsn: str, provider: AskaraProvider, api: Api, **how: Any
) -> AsyncIterator[tuple[Serve, Serve, aiohttp.ClientSession]]:
    """Logged in, and each has the token in memory. ``how`` is for ``write_config``."""
    key = tmp_path / "tokenproxy.key"
    create_key_file(key)
    configs = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        extra = f'key = "file:{key}"\nheartbeat = "300 ms"'
        configs.append(
            write_config(
                folder, provider, api, store=dsn, store_extra=extra, extra='[log]\nformat = "json"\n', **how
            )
        )
    async with serving(configs[0]) as one, serving(configs[1]) as two, calling() as caller:
        await imported(configs[0], "books", provider.new_grant())
        for serve in (one, two):
            assert await asked(caller, serve) == 200
        yield one, two, caller


async def asked(caller: aiohttp.ClientSession, serve: Serve) -> int:
    async with caller.get(f"{serve.url}/books/x") as answer:
        return answer.status


async def test_a_dead_token_in_both_is_one_token_call(tmp_path: Path, dsn: str) -> None:
    """The second to spend a refresh token would lose the login for both."""
    async with (
        AskaraProvider() as provider,
        Api(provider) as api,
        pair(tmp_path, dsn, provider, api) as (one, two, caller),
    ):
        provider.revoke_all_access()
        provider.gate = asyncio.Event()
        asking = [asyncio.ensure_future(asked(caller, serve)) for serve in (one, two) * 10]
        await provider.token_call_arrived()
        provider.gate.set()

        assert set(await asyncio.gather(*asking)) == {200}
        assert (provider.token_calls, provider.reuses) == (1, 0)
        for serve in (one, two):
            assert (await status_of(serve.config, "books"))["generation"] == 2
            assert not provider.leaks(serve.written)


async def test_what_a_killed_replica_had_sent_is_recovered_by_the_other(tmp_path: Path, dsn: str) -> None:
    """By itself, without a request, and long before the lease of 30 s runs out: the provider's grace may be 10."""
    async with (
        AskaraProvider() as provider,
        Api(provider) as api,
        pair(tmp_path, dsn, provider, api) as (one, two, caller),
    ):
        provider.grace = 30.0
        provider.revoke_all_access()
        provider.gate, provider.hold = asyncio.Event(), "after"
        asking = asyncio.ensure_future(asked(caller, one))
        await provider.token_call_arrived()
        await one.stop(signal.SIGKILL)
        await asyncio.gather(asking, return_exceptions=True)
        killed_at = time.monotonic()
        provider.gate.set()

        await two.told("renewal_recovered")
        assert time.monotonic() - killed_at < 5
        assert await asked(caller, two) == 200
        assert provider.reuses == 0
        assert (await status_of(two.config, "books"))["state"] == "ok"


async def test_a_logout_at_one_is_one_at_the_other(tmp_path: Path, dsn: str) -> None:
    """Without a restart and without a wait for the token's end."""
    async with (
        AskaraProvider() as provider,
        Api(provider) as api,
        pair(tmp_path, dsn, provider, api) as (one, two, caller),
    ):
        code, _, err = await command(one.config, "logout", "books")
        assert code in {0, 3}, err
        async with asyncio.timeout(PATIENCE):
            while await asked(caller, two) != 503:
                pass
        assert (await status_of(two.config, "books"))["state"] == "new"


async def test_processes_share_a_port(tmp_path: Path, dsn: str) -> None:
    """One for each core: both get callers, and callers get answers as long as one is there."""
    async with AskaraProvider() as provider, Api(provider) as api:
        listen = f"127.0.0.1:{free_port()}"
        sharing = pair(tmp_path, dsn, provider, api, listen=listen, server_extra="reuse_port = true")
        async with sharing as (one, two, caller):
            assert one.url == two.url
            assert {await asked_anew(one) for _ in range(60)} == {200}
            served = [await requests_of(caller, serve) for serve in (one, two)]
            assert sum(served) == 62  # two of them by ``pair``
            assert min(served) > 5

            assert await one.stop() == 0
            assert {await asked_anew(two) for _ in range(20)} == {200}
            assert await requests_of(caller, two) == served[1] + 20


async def asked_anew(serve: Serve) -> int:
    """Over a connection of its own."""
    async with calling() as caller:
        return await asked(caller, serve)


async def requests_of(caller: aiohttp.ClientSession, serve: Serve) -> int:
    async with caller.get(f"{serve.admin}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(
        int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("tokenproxy_requests_total{")
    )
