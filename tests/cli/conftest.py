"""A provider and an API in the test's own loop; commands run beside it in processes, so that tests await them in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.program import Ended, run
from tests.simulators import Api, PlainProvider, write_config


class Setup:
    """One account ``books`` at a strict provider, and every word that commands printed about it."""

    def __init__(self, provider: PlainProvider, api: Api, config: Path) -> None:
        self.provider = provider
        self.api = api
        self.config = config
        self.printed = ""

    async def run(self, *words: str, given: bytes | str = b"") -> Ended:
        ended = await asyncio.to_thread(run, *words, "--config", str(self.config), given=given)
        self.printed += ended.out + ended.err
        return ended

    def nothing_leaked(self) -> None:
        assert not self.provider.leaks(self.printed)
        assert "Traceback" not in self.printed


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with PlainProvider() as provider, Api(provider) as api:
        setup = Setup(provider, api, write_config(tmp_path, provider, api))
        yield setup
        setup.nothing_leaked()
