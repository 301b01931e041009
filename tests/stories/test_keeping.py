"""Keeping tokens through the real program: an expired one, the end of the process, a provider with its own limits."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.simulators import Api, AskaraProvider, DeskeraProvider, PerscomProvider, Provider
from tests.stories.serving import calling, imported, serving, status_of
from tests.stories.test_main_job import configured, crowd_of_posts

OVER = {"expires_at": "2026-01-01T00:00:00Z"}
"""Of a token answer that lay somewhere for a while."""


@pytest.mark.parametrize("kind", [AskaraProvider, DeskeraProvider], ids=lambda kind: kind.__name__)
async def test_fifty_requests_with_an_expired_token_make_one_token_call(
    tmp_path: Path, kind: type[Provider]
) -> None:
    """Nobody sends a dead token, all fifty succeed, and the grant lives on (a second refresh would kill it)."""
    async with kind() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant() | OVER)
            await crowd_of_posts(serve, caller, 50)
        assert (provider.token_calls, provider.reuses) == (1, 0)
        assert api.statuses == [200] * 50
        assert provider.complaints == []


async def test_sigterm_during_a_refresh_stores_the_pair(tmp_path: Path) -> None:
    """The answer comes while the program ends: it waits for it, and the next start goes on with the new pair."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        provider.gate, provider.hold = asyncio.Event(), "after"
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant() | OVER)
            asking = asyncio.ensure_future(caller.get(f"{serve.url}/books/x"))
            await provider.token_call_arrived()
            serve.process.send_signal(signal.SIGTERM)
            await serve.told("stopping")
            provider.gate.set()
            async with await asking as answer:
                assert answer.status == 200
            assert await serve.ended() == 0
        async with serving(config) as serve, calling() as caller:
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            assert (await status_of(config, "books"))["generation"] == 2
        assert (provider.token_calls, provider.reuses) == (1, 0)
        assert provider.complaints == []
