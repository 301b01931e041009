"""A program that is being measured, seen from outside: its core, its CPU time, its memory, its end."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core a proxy runs on, and which one everything else; None on a machine with a single one."""

    proxy: int | None
    other: int | None

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1]) if len(cores) > 1 else cls(None, None)


@dataclass(frozen=True, slots=True)
class Running:
    """A program and its children, which share a process group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it says."""
    began: float

    @property
    def group(self) -> int:
        return self.process.pid

    def dead(self) -> bool:
        return self.process.poll() is not None

    def cpu_seconds(self) -> float:
        """In user and kernel so far."""
        return sum(int(fields[11]) + int(fields[12]) for fields in self._stats()) / TICKS

    def resident(self) -> float:
        """MB; what a master and its worker share counts twice."""
        return sum(int(fields[21]) for fields in self._stats()) * PAGE / 1e6

    @contextmanager
    def alone(self, others: Iterable[Running]) -> Iterator[None]:
        """While it is measured the others are held."""
        held = [other for other in others if other is not self]
        try:
            for other in held:
                os.killpg(other.group, signal.SIGSTOP)
            yield
        finally:
            for other in held:
                os.killpg(other.group, signal.SIGCONT)

    def _stats(self) -> Iterator[list[str]]:
        """The fields of ``/proc/PID/stat`` behind the name, so that field n of proc(5) is at n - 3."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.group:
                    yield fields


@contextmanager
def running(
    name: str, command: Sequence[str], *, core: int | None, cwd: Path, path: Path
) -> Iterator[Running]:
    """
    Start a program in a process group of its own, what it says kept in ``cwd``, and end it with its children.

    ``path`` is where a Python program finds this package.
    """

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    began = time.perf_counter()
    path_of_log = cwd / f"{name}.log"
    with path_of_log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=cwd,
            env=os.environ
            | dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(cwd))
            | {"PYTHONPATH": str(path)},
            start_new_session=True,
            preexec_fn=pin,  # noqa: PLW1509 - this program has one thread
        )
    try:
        yield Running(name, process, path_of_log, began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)


def busy_seconds(core: int | None) -> float:
    """Of a core so far, whoever it worked for; nan where there is only one."""
    if core is None:
        return math.nan
    words = re.search(rf"^cpu{core} (.*)$", Path("/proc/stat").read_text(), re.MULTILINE)
    assert words is not None
    fields = [int(word) for word in words[1].split()]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS


def wait_until_good(program: Running, port: int, path: str, *, within: float = 30.0) -> float:
    """The moment of the first answer with status 200, on ``time.perf_counter``."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    until, said = time.perf_counter() + within, b""
    while time.perf_counter() < until and not program.dead():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(request)
                said = connection.recv(4096)
        except OSError as error:
            said = str(error).encode()
        if said.startswith(b"HTTP/1.1 200"):
            return time.perf_counter()
        time.sleep(0.001)
    how = "ended" if program.dead() else f"gave no good answer in {within:g} s, but {said[:300]!r}"
    raise SystemExit(f"{program.name} {how}; it said: {program.log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def allow_descriptors() -> None:
    """As many open files as this process may have, which its children inherit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
