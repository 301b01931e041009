"""The real program is told to end, and to read its config again, while many callers are at work."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Self

import aiohttp

from tests.simulators import Api, PerscomProvider
from tests.simulators.api import pattern
from tests.stories.serving import PATIENCE, Serve, calling, imported, serving, status_of
from tests.stories.test_main_job import configured

CALLERS = 16
RELOADS = int(os.environ.get("TOKENPROXY_TEST_RELOADS", "12"))
"""Half of them with a config that cannot be; 200 take two minutes."""


class Load:
    """Callers that ask as fast as they are answered; one connection for each request where ``fresh``."""

    def __init__(self, serve: Serve, *, fresh: bool) -> None:
        self.serve = serve
        self.fresh = fresh
        self.whole = 0
        """Answers 200 with the right body."""
        self.others: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=self.fresh))
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._session.close()

    async def answers(self, count: int) -> None:
        """Wait until there have been so many."""
        async with asyncio.timeout(PATIENCE):
            while self.whole < count:
                await asyncio.sleep(0.002)

    async def ended(self) -> None:
        """Wait until every caller finds nobody there any more."""
        await asyncio.wait(self._tasks)

    async def _caller(self, number: int) -> None:
        body = f"body of {number} ".encode() * (100 if number % 2 else 5000)
        while True:
            try:
                async with self._session.post(f"{self.serve.url}/books/orders/{number}", data=body) as answer:
                    said = await answer.json(content_type=None)
                    right = answer.status == 200 and said["sha256"] == hashlib.sha256(body).hexdigest()
                    if right:
                        self.whole += 1
                    else:
                        self.others[str(answer.status)] += 1
            except aiohttp.ClientConnectorError:
                return
            except (aiohttp.ClientError, ConnectionError) as error:
                self.others[type(error).__name__] += 1
                if self.serve.process.returncode is not None:
                    return


async def test_sigterm_under_load_during_a_renewal(tmp_path: Path) -> None:
    """
    What the upstream answered reaches its caller whole: the streams that run, and those that wait for the renewal.

    Callers that come too late are sent away before the upstream hears of them. The pair is stored.
    """
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())

            async def stream() -> bytes:
                async with caller.get(f"{serve.url}/books/stream?n=20&size=1000") as answer:
                    return await answer.read()

            async with Load(serve, fresh=True) as load:
                api.step = asyncio.Semaphore(16)
                streams = [asyncio.create_task(stream()) for _ in range(8)]
                await api.changes.until(lambda: api.chunks_sent == 16 and load.whole > 50, what="load")
                provider.gate, provider.hold = asyncio.Event(), "after"
                provider.revoke_all_access()
                await provider.token_call_arrived()
                serve.process.send_signal(signal.SIGTERM)
                await serve.told("stopping")
                for _ in range(8 * 20):
                    api.step.release()
                provider.gate.set()
                assert await asyncio.gather(*streams) == [b"".join(pattern(1000)) * 20] * 8
                assert await serve.ended() == 0
                await load.ended()
            answered = [request for request in api.requests if request.status == 200]
            assert load.whole == len(answered) - len(streams)
            assert set(load.others) <= {"ServerDisconnectedError", "ClientOSError"}, load.others
        async with serving(config) as serve, calling() as caller:
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            assert (await status_of(config, "books"))["generation"] == 2
        assert (provider.token_calls, provider.reuses) == (1, 0)
        assert provider.complaints == []


async def test_reloads_under_load_cost_no_request(tmp_path: Path) -> None:
    """Every other config cannot be, and the last good one stays in force; connections are kept all the while."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        good = config.read_text()
        async with serving(config) as serve:
            await imported(config, "books", provider.new_grant())
            async with Load(serve, fresh=False) as load:
                for number in range(1, RELOADS // 2 + 1):
                    before = load.whole
                    config.write_text(f"{good}\n[routes.more]\nnonsense = {number}\n")
                    serve.process.send_signal(signal.SIGHUP)
                    await serve.told("config_reload_failed", times=number)
                    config.write_text(
                        f'{good}\n[routes.more{number}]\nupstream = "http://127.0.0.1:{9000 + number}"\naccount = "books"\n'
                    )
                    serve.process.send_signal(signal.SIGHUP)
                    await serve.told("config_reloaded", times=number)
                    await load.answers(before + 1)
            assert load.others == Counter()
            assert load.whole >= RELOADS
            assert await serve.stop() == 0
        assert provider.complaints == []
