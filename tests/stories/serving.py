"""The real program in a process of its own, as its users run it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests import planted

PATIENCE = 30.0
"""Seconds for anything that ought to happen soon, on a busy machine."""


class Serve:
    """``tokenproxy serve`` on a config; everything that it writes is kept."""

    def __init__(self, config: Path, process: asyncio.subprocess.Process) -> None:
        self.config = config
        self.process = process
        self.addresses: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.written = ""
        self._told = asyncio.Condition()
        self._reading = [
            asyncio.ensure_future(self._read(stream)) for stream in (process.stderr, process.stdout) if stream
        ]

    @property
    def url(self) -> str:
        return f"http://{self.addresses['proxy']}"

    @property
    def admin(self) -> str:
        return f"http://{self.addresses['admin']}"

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="replace")
            planted.said("serve", text)
            self.written += text
            if text.startswith("{"):
                event = json.loads(text)
                self.events.append(event)
                if event["event"] == "listening":
                    self.addresses[event["name"]] = event["address"]
            async with self._told:
                self._told.notify_all()
        async with self._told:
            self._told.notify_all()

    async def told(self, event: str, *, times: int = 1) -> dict[str, Any]:
        """Wait until the log has said ``event`` so often; the last of them."""

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.events if entry["event"] == event]

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._told:
                await self._told.wait_for(
                    lambda: len(found()) >= times or self.process.returncode is not None
                )
        assert len(found()) >= times, f"never said {event}; wrote:\n{self.written}"
        return found()[times - 1]

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await asyncio.gather(*self._reading)
        return code

    def resident(self) -> int:
        """Resident memory, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def page_faults(self) -> int:
        """How often the kernel gave it another page so far."""
        return int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[7])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "error", "NO_COLOR": "1"}


@asynccontextmanager
async def serving(
    config: Path, *, python: tuple[str, ...] = (), module: tuple[str, ...] = ("tokenproxy",)
) -> AsyncIterator[Serve]:
    """Run ``serve`` until the block ends; ready when it is entered. ``module`` runs the program, with words of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *python, "-m", *module, "serve", "--config", str(config),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=_environment(), limit=2**22,
    )  # fmt: skip
    serve = Serve(config, process)
    try:
        await serve.told("started")
        planted.process_list()
        yield serve
    finally:
        if process.returncode is None:
            process.kill()
        await serve.ended()


async def command(
    config: Path, *words: str, given: bytes = b"", patience: float = PATIENCE
) -> tuple[int, str, str]:
    """Run a command to its end, in seconds: (exit code, standard output, standard error)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tokenproxy", *words, "--config", str(config),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )  # fmt: skip
    async with asyncio.timeout(patience):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    planted.said(f"command {words[0]}", (out + err).decode())
    return process.returncode, out.decode(), err.decode()


async def imported(config: Path, account: str, answer: dict[str, Any]) -> None:
    """Hand a provider's token answer in, by the command."""
    code, _, err = await command(config, "import", account, given=json.dumps(answer).encode())
    assert code == 0, err


async def status_of(config: Path, account: str) -> dict[str, Any]:
    """The account's status, by the command; its exit code is told by the state and is not looked at."""
    _, out, err = await command(config, "status", account, "--json")
    assert out, err
    found = json.loads(out)
    found = found["accounts"][0] if isinstance(found, dict) and "accounts" in found else found
    found = found[0] if isinstance(found, list) else found
    assert isinstance(found, dict)
    return found


@asynccontextmanager
async def calling() -> AsyncIterator[aiohttp.ClientSession]:
    """A caller without limits of its own."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session
