"""The program in processes of its own, as its users run it: through pipes, and on a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import planted

PATIENCE = 20.0
"""Seconds for anything that ought to happen soon, on a busy machine."""
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str = ""

    def __post_init__(self) -> None:
        planted.said("command", f"{self.out}\n{self.err}")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}}
    return {
        **plain,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "TERM": "xterm",
        "TZ": "UTC",
        **(extra or {}),
    }


def command_line(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "tokenproxy", *words]


def run(
    *words: str, given: bytes | str = b"", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Ended:
    """Run a command to its end, its standard input a pipe."""
    data = given.encode() if isinstance(given, str) else given
    ended = subprocess.run(
        command_line(words),
        input=data,
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


class Waiting:
    """A command that waits for something, with a program before it: its standard input is a pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.out = self.err = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def until(self, text: str) -> str:
        """Read messages until one holds ``text``; all of them."""
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while text not in self.err:
                piece = await self._process.stderr.read(65536)
                assert piece, f"ended without {text!r}:\n{self.err}"
                self.err += piece.decode()
        return self.err

    def give(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ended(self) -> Ended:
        async with asyncio.timeout(PATIENCE):
            out, err = await self._process.communicate()
        self.out, self.err = out.decode(), self.err + err.decode()
        assert self._process.returncode is not None
        return Ended(self._process.returncode, self.out, self.err)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


@asynccontextmanager
async def waiting(*words: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Waiting]:
    process = await asyncio.create_subprocess_exec(
        *command_line(words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env),
    )
    command = Waiting(process)
    try:
        yield command
    finally:
        await command.close()


class Terminal:
    """A command on a pseudo-terminal, with a person before it."""

    def __init__(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, results: bool = True
    ) -> None:
        """``results``: whether standard output is the terminal too; else it is thrown away."""
        self._shown = b""
        self._read_to = 0
        self.screen, side = pty.openpty()
        self._process = subprocess.Popen(
            command_line(words),
            stdin=side,
            stdout=side if results else subprocess.DEVNULL,
            stderr=side,
            cwd=cwd,
            env=environment(env),
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - it calls the kernel and nothing else
        )
        os.close(side)

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, text: str) -> str:
        """Read until the screen shows ``text`` after what was read before."""
        wanted = text.encode()
        deadline = time.monotonic() + PATIENCE
        while (at := self._shown.find(wanted, self._read_to)) < 0:
            assert time.monotonic() < deadline, f"never showed {text!r}:\n{self.shown}"
            assert self._more(0.1) or self._process.poll() is None, f"ended without {text!r}:\n{self.shown}"
        self._read_to = at + len(wanted)
        return self.shown

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def answer(self, question: str, text: str) -> None:
        self.until(question)
        self.type(f"{text}\n")

    def interrupted(self) -> Ended:
        """Press Ctrl-C, again where it fell between Python's look at its signals and the read that blocks."""
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"never ended:\n{self.shown}"
            self.type("\x03")
            pause = time.monotonic() + 1.0
            while self._process.poll() is None and time.monotonic() < pause:
                self._more(0.05)
        return self.ended()

    def ended(self) -> Ended:
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"never ended:\n{self.shown}"
            self._more(0.05)
        while self._more(0.0):
            pass
        return Ended(self._process.returncode, self.shown)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self.screen)

    def _more(self, wait: float) -> bool:
        """Whether there was something to read; a terminal whose other side is closed gives EIO."""
        if not select.select([self.screen], [], [], wait)[0]:
            return False
        try:
            data = os.read(self.screen, 65536)
        except OSError:
            return False
        self._shown += data
        return bool(data)


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C reaches the command."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, results: bool = True
) -> Iterator[Terminal]:
    screen = Terminal(*words, cwd=cwd, env=env, results=results)
    try:
        yield screen
    finally:
        screen.close()


class Serve:
    """``serve`` in the background, its log as JSON on a pipe."""

    def __init__(self, config: Path) -> None:
        self._process = subprocess.Popen(
            command_line(["serve", "--config", str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        self.written = ""

    def started(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.written += line.decode()
            planted.said("serve", line.decode())
            if '"event":"started"' in self.written:
                return
        raise AssertionError(f"serve did not start:\n{self.written}")

    def stop(self) -> int:
        self._process.terminate()
        _, rest = self._process.communicate(timeout=PATIENCE)
        self.written += rest.decode()
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[Serve]:
    """For tests whose own loop plays the provider: all waiting is done in threads."""
    serve = Serve(config)
    try:
        await asyncio.to_thread(serve.started)
        yield serve
    finally:
        await asyncio.to_thread(serve.close)
