"""
R4, R5, R6: the disk of the real ``serve`` fails below SQLite, in the moment in which a new pair is on its way to it.

The provider is strict: a spent refresh token that comes again ends the login. Each story goes on in one of two ways: the
disk mends, or the process is killed while nothing but the spool has the new pair.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks.reliability.result import Result
from tests.simulators import Api, AskaraProvider, write_config
from tests.stories.serving import Serve, calling, command, imported, serving

HANG: Final = 5.0
"""Seconds that nothing may take, whatever the disk does."""
MENDS: Final = 60.0
"""Seconds in which everything is well again after a fault; the longest pause between two tries is 30."""
MEANWHILE: Final = 20
"""Requests with a live token while the disk fails."""
_KIB: Final = 1024


class Fault(ABC):
    """Something that a disk does to a process."""

    what: str
    for_good: bool = False
    """Only a start mends it."""
    lasts: bool = False
    """It is there at the next start as well."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is where the store lies."""
        self.folder = folder
        self.store = folder / "t.db"

    @abstractmethod
    async def begin(self, serve: Serve) -> None: ...

    @abstractmethod
    async def end(self) -> None: ...


class Traced(Fault):
    """System calls on the store's files end as the disk would end them."""

    calls = "fdatasync"
    injected = "error=EIO"

    async def begin(self, serve: Serve) -> None:
        files = [word for each in self.folder.glob("t.db*") if each.is_file() for word in ("-P", str(each))]
        self._strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-o", "/dev/null", *files),
            *("-e", f"trace={self.calls}", "-e", f"inject={self.calls}:{self.injected}:when=1+"),
            *("-p", str(serve.process.pid)),
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._strace.stderr is not None
        await self._strace.stderr.readuntil(b"attached")

    async def end(self) -> None:
        if self._strace.returncode is None:
            self._strace.kill()  # it lets go of the process with that; a gentler end waits for its delays
        await self._strace.communicate()


class SyncFails(Traced):
    what = "each sync of the store ends in EIO"


class ReadOnly(Traced):
    what = "the store's mount became read-only"
    calls = "pwrite64,ftruncate,fallocate,fdatasync"
    injected = "error=EROFS"


class Hangs(Traced):
    what = "the store's mount hangs"
    calls = "pwrite64,fdatasync"
    injected = "delay_enter=600000000"


class Full(Fault):
    what = "the store's disk is full"
    lasts = True

    async def begin(self, serve: Serve) -> None:  # noqa: ARG002 - it is all the same to the disk
        self._filler = self.folder / "filler"
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(_KIB))

    async def end(self) -> None:
        self._filler.unlink()


class Deleted(Fault):
    what = "the store's file is deleted"
    for_good = True

    async def begin(self, serve: Serve) -> None:  # noqa: ARG002
        for each in self.folder.glob("t.db*"):
            if each.is_file():
                each.unlink()

    async def end(self) -> None: ...


FAULTS: Final[Mapping[str, Sequence[Callable[[Path], Fault]]]] = {
    "R4": (SyncFails,),
    "R5": (Full,),
    "R6": (ReadOnly, Hangs, Deleted),
}


@asynccontextmanager
async def tmpfs(folder: Path, size: int) -> AsyncIterator[Path]:
    """A disk of ``size`` bytes; it takes root, as ``mount`` does."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={size},mode=700", "tokenproxy", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


class Story:
    """One login, one fault, one end of it."""

    def __init__(self, folder: Path, fault: Fault, *, killed: bool) -> None:
        self._fault = fault
        self._killed = killed
        self._folder = folder
        self.slowest = 0.0
        self.lost = 0
        self.faults: list[str] = []
        self._provider: AskaraProvider
        self._caller: aiohttp.ClientSession

    async def run(self) -> None:
        async with AskaraProvider() as self._provider, Api(self._provider) as api, calling() as self._caller:
            config = write_config(
                self._folder,
                self._provider,
                api,
                store=f"sqlite:{self._fault.store}",
                extra='[log]\nformat = "json"\n',
            )
            async with serving(config) as serve:
                await imported(config, "books", self._provider.new_grant())
                await self._expect(serve, 200, "before the fault")
                await self._fails(serve)
                if self._killed:
                    serve.process.send_signal(signal.SIGKILL)
                    if not self._fault.lasts:
                        await self._fault.end()  # a process that is held up does not even die
                    await serve.ended()
                elif not self._fault.for_good:
                    await self._fault.end()
                    await self._mends(serve)
                if not self._killed:
                    await serve.stop()
            if self._killed or self._fault.for_good:
                await self._starts_again(config)

    async def _fails(self, serve: Serve) -> None:
        """The pair is issued, the disk does not take it, and everything goes on."""
        provider, calls = self._provider, self._provider.token_calls
        provider.revoke_all_access()
        provider.gate, provider.hold = asyncio.Event(), "after"
        asking = asyncio.ensure_future(self._ask(serve))
        await provider.token_call_arrived()
        await self._fault.begin(serve)
        began = time.monotonic()
        provider.gate.set()
        provider.gate = None
        if await asking != 200:
            self._fail("the request that waited was not answered")
        self._note(began)
        if await self._spooled(serve) != 1:
            self._fail("tokenproxy_spooled_tokens is not 1")
        for _ in range(MEANWHILE):
            await self._expect(serve, 200, "with a live token, during the fault")
        if not await self._ready(serve, 503, within=HANG):
            self._fail("/readyz does not tell")
        provider.revoke_all_access()
        await self._expect(serve, 503, "with a dead token, during the fault")
        if provider.token_calls != calls + 1:
            self._fail("a renewal was sent that nothing could have kept")

    async def _mends(self, serve: Serve) -> None:
        began = time.monotonic()
        while (
            await self._spooled(serve) or await self._ask(serve) != 200
        ) and time.monotonic() - began < MENDS:
            await asyncio.sleep(0.1)
        await self._expect(serve, 200, "after the fault", lost=True)
        if not await self._ready(serve, 200, within=MENDS):
            self._fail("/readyz still tells")
        self._judge()

    async def _starts_again(self, config: Path) -> None:
        async with serving(config) as serve:
            if self._fault.lasts:
                await self._fault.end()
            await self._mends(serve)
            await serve.stop()

    def _judge(self) -> None:
        if self._provider.reuses:
            self._fail("a spent refresh token was sent")

    async def _expect(self, serve: Serve, status: int, when: str, *, lost: bool = False) -> None:
        began = time.monotonic()
        found = await self._ask(serve)
        self._note(began)
        if found != status:
            self.lost += lost
            self._fail(f"{when}: {found} instead of {status}")

    async def _ask(self, serve: Serve) -> int:
        async with self._caller.get(f"{serve.url}/books/x") as answer:
            await answer.read()
            return answer.status

    async def _ready(self, serve: Serve, status: int, *, within: float) -> bool:
        """Whether ``/readyz`` comes to say so; it believes an answer for a second."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            async with self._caller.get(f"{serve.admin}/readyz") as answer:
                if answer.status == status:
                    return True
            await asyncio.sleep(0.1)
        return False

    async def _spooled(self, serve: Serve) -> int:
        async with self._caller.get(f"{serve.admin}/metrics") as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith("tokenproxy_spooled_tokens "):
                    return int(float(line.split()[1]))
        return -1

    def _note(self, began: float) -> None:
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        if took > HANG:
            self._fail(f"something took {took:.1f} s")

    def _fail(self, text: str) -> None:
        self.faults.append(f"{self._fault.what}, {'killed' if self._killed else 'mended'}: {text}")


async def disk_fails(folder: Path, test: str, *, times: int) -> list[Result]:
    """R4, R5 or R6; one result for each fault."""
    results = []
    for kind in FAULTS[test]:
        stories = []
        for number in range(times):
            for killed in (False, True):
                place = folder / f"{kind.__name__}-{number}-{killed}"
                async with tmpfs(place / "disk", 256 * _KIB) as disk:
                    story = Story(place, kind(disk), killed=killed)
                    await story.run()
                stories.append(story)
        figures = {
            "stories": len(stories),
            "lost": sum(story.lost for story in stories),
            "slowest request, s": round(max(story.slowest for story in stories), 2),
        }
        faults = [fault for story in stories for fault in story.faults]
        results.append(Result(test, kind(folder).what, figures, faults))
    return results


async def starts_read_only(folder: Path) -> Result:
    """R6 at a start: an exit code and one sentence, and nothing is sent."""
    faults = []
    async with (
        tmpfs(folder / "disk", 256 * _KIB) as disk,
        AskaraProvider() as provider,
        Api(provider) as api,
    ):
        config = write_config(
            folder, provider, api, store=f"sqlite:{disk}/t.db", extra='[log]\nformat = "json"\n'
        )
        async with serving(config) as serve:
            await imported(config, "books", provider.new_grant())
            await serve.stop()
        _mount("-o", "remount,ro", str(disk))
        code, _, err = await command(config, "serve")
        if code != 5 or "read-only" not in err or len(err.strip().splitlines()) > 2:
            faults.append(f"exit code {code}: {err.strip()}")
        _mount("-o", "remount,rw", str(disk))
        if provider.token_calls:
            faults.append("something was sent")
    return Result(
        "R6",
        "a start on a read-only store",
        {"exit code": code, "lines": len(err.strip().splitlines())},
        faults,
    )
