"""Commands in this process, for tests that are about what is said; a provider and an API for those that use one."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.cli.program import Ended, run
from tests.simulators import Api, PlainProvider, write_config
from tokenproxy.cli import root


class Here(Protocol):
    def __call__(
        self, *words: str, given: bytes | str = b"", env: Mapping[str, str] | None = None
    ) -> Ended: ...


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command in ``tmp_path``, its standard input a pipe: a tenth of what a process of its own takes."""
    monkeypatch.chdir(tmp_path)

    def run_here(*words: str, given: bytes | str = b"", env: Mapping[str, str] | None = None) -> Ended:
        data = given.encode() if isinstance(given, str) else given
        with monkeypatch.context() as around:
            for name, value in (env or {}).items():
                around.setenv(name, value)
            around.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            code = root.run(words)
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return run_here


class Setup:
    """One account ``books`` at a strict provider, and every word that commands printed about it."""

    def __init__(self, provider: PlainProvider, api: Api, config: Path, here: Here) -> None:
        self.provider = provider
        self.api = api
        self.config = config
        self.printed = ""
        self._here = here

    async def run(self, *words: str, given: bytes | str = b"") -> Ended:
        """In a thread, since the provider lives in this one's loop."""
        return self._told(
            await asyncio.to_thread(self._here, *words, "--config", str(self.config), given=given)
        )

    async def process(self, *words: str, given: bytes | str = b"") -> Ended:
        return self._told(await asyncio.to_thread(run, *words, "--config", str(self.config), given=given))

    async def process_run(
        self, *words: str, dashes: bool = True, env: Mapping[str, str] | None = None
    ) -> Ended:
        """``run`` with a command; ``dashes``: with ``--`` before it."""
        line = ("run", "--config", str(self.config), *(("--",) if dashes else ()), *words)
        return self._told(await asyncio.to_thread(run, *line, env=env))

    def _told(self, ended: Ended) -> Ended:
        self.printed += ended.out + ended.err
        return ended

    def nothing_leaked(self) -> None:
        assert not self.provider.leaks(self.printed)
        assert "Traceback" not in self.printed


@pytest.fixture
async def setup(tmp_path: Path, here: Here) -> AsyncIterator[Setup]:
    async with PlainProvider() as provider, Api(provider) as api:
        setup = Setup(provider, api, write_config(tmp_path, provider, api), here)
        yield setup
        setup.nothing_leaked()
