"""R27: all rows are sealed anew by the real ``serve`` while it serves, and it is killed in the middle, again and again."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.reliability.result import Result
from tests.simulators import Api, PlainProvider, write_config
from tests.stores.values import BOUND, NOW, OK, tokens
from tests.stories.serving import Serve, calling, command, imported, serving
from tokenproxy.stores import create_key_file, open_store, read_key_file, verify_store
from tokenproxy.stores.cipher import Cipher

LONG: Final = 300.0
"""Seconds for 10,000 rows on a busy machine."""


class Rotation:
    """A store with so many logins, of which one is used and renewed all the time."""

    def __init__(self, folder: Path, *, rows: int) -> None:
        self._folder = folder
        self._rows = rows
        self._key = folder / "tokenproxy.key"
        self._url = f"sqlite:{folder / 't.db'}"
        self.answered: Counter[int] = Counter()
        self.killed = 0
        self.faults: list[str] = []

    async def run(self, kills: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        create_key_file(self._key)
        await self._fill()
        async with PlainProvider() as provider, Api(provider) as api, calling() as caller:
            provider.grace = 3600.0  # what a kill takes from a renewal is R1's and R2's
            config = write_config(
                self._folder,
                provider,
                api,
                store=self._url,
                store_extra=f'key = "file:{self._key}"',
                extra='[log]\nformat = "json"\n',
            )
            for number in range(kills + 1):
                async with serving(config) as serve:
                    if number == 0:
                        await imported(config, "books", provider.new_grant())
                    await self._rotate(serve, provider, caller, killed=number < kills)
                await self._judge(done=number == kills)

    async def _fill(self) -> None:
        store = await open_store(self._url, read_key_file(self._key))
        for number in range(self._rows):
            await store.adopt(f"crm/{number:05}", tokens(), bound_to=BOUND, standing=OK, now=NOW)
        await store.close()

    async def _rotate(
        self, serve: Serve, provider: PlainProvider, caller: aiohttp.ClientSession, *, killed: bool
    ) -> None:
        rotating = asyncio.ensure_future(command(serve.config, "key", "rotate", patience=LONG))
        while len(read_key_file(self._key)) < 2 and not rotating.done():
            await self._request(serve, provider, caller)
        moments = random.randrange(1, 40) if killed else 10**9
        while not rotating.done() and moments > 0:
            await self._request(serve, provider, caller)
            moments -= 1
        if killed and not rotating.done():
            self.killed += 1
            await serve.stop(signal.SIGKILL)
            await rotating
            return
        code, _, err = await rotating
        if code:
            self.faults.append(f"key rotate: {err.strip()}")
        await serve.stop()

    async def _request(self, serve: Serve, provider: PlainProvider, caller: aiohttp.ClientSession) -> None:
        """Every other one brings a renewal."""
        if self.answered.total() % 2:
            provider.revoke_all_access()
        async with caller.get(f"{serve.url}/books/x") as answer:
            await answer.read()
            self.answered[answer.status] += 1

    async def _judge(self, *, done: bool) -> None:
        """Every row opens, and each is under one key of the file; in the end that is one for all."""
        keys = read_key_file(self._key)
        store = await open_store(self._url, keys)
        found = await verify_store(store)
        if not found["ok"] or found["accounts"] != self._rows + 1:
            self.faults.append(
                f"{found['accounts']} rows, {found['unreadable'][:3]} do not open, {found['damage']}"
            )
        prefixes = {Cipher([key]).prefix for key in keys}
        seals = await store.ask("moving", "SELECT DISTINCT substr(sealed, 1, 5) AS prefix FROM account", {})  # type: ignore[attr-defined]
        strange = {row["prefix"] for row in seals} - prefixes
        if strange or (done and len(seals) != 1) or (done and len(keys) != 1):
            self.faults.append(f"{len(seals)} keys seal, {len(strange)} are not in the file of {len(keys)}")
        await store.close()


async def rotation(folder: Path, *, rows: int, kills: int) -> Result:
    story = Rotation(folder, rows=rows)
    await story.run(kills)
    faults = list(story.faults)
    errors = sum(number for status, number in story.answered.items() if status != 200)
    if errors:
        faults.append(f"{errors} requests were not answered with 200: {dict(story.answered)}")
    if kills and not story.killed:
        faults.append("no rotation was killed")
    figures = {
        "rows": rows,
        "killed": story.killed,
        "requests meanwhile": story.answered.total(),
        "errors": errors,
    }
    return Result("R27", "a key rotation under load, killed and begun again", figures, faults)
