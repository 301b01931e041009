"""Bodies of a size that nobody can hold, and answers that take their time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.simulators import Api, PerscomProvider, write_config
from tests.stories.serving import Serve, calling, imported, serving

GIB = 1024**3
MIB = 1024**2
PIECE = b"\0" * (256 * 1024)
FLAT = 16 * MIB


async def zeros(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(PIECE)):
        yield PIECE


async def grown(serve: Serve, work: asyncio.Future[None]) -> int:
    """By how much resident memory grows at the most while ``work`` runs."""
    before = highest = serve.resident()
    while not work.done():
        highest = max(highest, serve.resident())
        await asyncio.wait({work}, timeout=0.02)
    await work
    return highest - before


async def warm(serve: Serve, caller: aiohttp.ClientSession) -> None:
    """Some of everything, so that what is imported and allocated once is there already."""
    async with caller.put(f"{serve.url}/books/sink", data=zeros(32 * MIB)) as answer:
        assert answer.status == 200
    async with caller.get(f"{serve.url}/books/big?size={32 * MIB}") as answer:
        await answer.read()


@pytest.mark.timeout(120)
async def test_a_gigabyte_each_way_leaves_memory_flat(tmp_path: Path) -> None:
    """Neither direction is held: what one side does not take, the other is not allowed to send."""
    async with PerscomProvider() as provider, Api(provider) as api:
        api.hash_bodies = False
        config = write_config(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            await warm(serve, caller)

            async def up() -> None:
                async with caller.put(f"{serve.url}/books/sink", data=zeros(GIB)) as answer:
                    assert (await answer.json())["length"] == GIB

            async def down() -> None:
                got = 0
                async with caller.get(f"{serve.url}/books/big?size={GIB}") as answer:
                    async for piece in answer.content.iter_any():
                        got += len(piece)
                assert got == GIB

            assert await grown(serve, asyncio.ensure_future(up())) <= FLAT
            assert await grown(serve, asyncio.ensure_future(down())) <= FLAT


async def test_the_first_piece_arrives_before_the_last_is_made(tmp_path: Path) -> None:
    """A stream is passed on as it comes; nothing waits for its end."""
    async with PerscomProvider() as provider, Api(provider) as api:
        api.step = asyncio.Semaphore(0)
        config = write_config(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            async with caller.get(f"{serve.url}/books/stream?n=3&size=100") as answer:
                for _ in range(3):
                    api.step.release()
                    piece = await answer.content.readexactly(100)
                    assert len(piece) == 100
                assert await answer.content.read() == b""


async def test_bodies_use_the_same_memory_again_and_again(tmp_path: Path) -> None:
    """The kernel is not asked for fresh pages for each of them: that takes longer than passing 64 kB on."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())

            async def send() -> None:
                for _ in range(10):
                    async with caller.put(f"{serve.url}/books/sink", data=bytes(64 * 1024)) as answer:
                        assert (await answer.json())["length"] == 64 * 1024

            async def send_many() -> None:
                await asyncio.gather(*[send() for _ in range(16)])

            await send_many()
            before = serve.page_faults()
            await send_many()
            assert serve.page_faults() - before < 160
