"""
What systemd and a service say to each other: sockets handed over (sd_listen_fds(3)), and words back (sd_notify(3)).

Both are short protocols over the environment and one datagram socket, and need no library.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

FIRST: Final = 3
"""The descriptor at which those that are handed over begin."""
UNNAMED: Final = "unknown"
"""What systemd calls a socket whose unit has no name for it."""


def take_sockets(environ: MutableMapping[str, str]) -> Mapping[str, Sequence[socket.socket]]:
    """
    The sockets that were handed over, by their ``FileDescriptorName``; none where they were meant for another process.

    The variables go, and the descriptors are closed in every program that we start: neither is meant for it.
    """
    count = environ.pop("LISTEN_FDS", "")
    process = environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or process != str(os.getpid()):
        return {}
    found: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        name = names[number] if number < len(names) and names[number] else UNNAMED
        with contextlib.suppress(OSError):  # a FIFO or a file, which the unit may hand over too
            passed = socket.socket(fileno=FIRST + number)
            passed.set_inheritable(False)
            found.setdefault(name, []).append(passed)
    return found


class Notifier:
    """Tells systemd how far we are; silent where nobody asked to be told."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes its variables away: programs that we start must not speak for us."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._period = _watchdog(environ)
        self._beating: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Started, or done with a reload."""
        self._send("READY=1")
        if self._period and self._beating is None:
            self._beat(asyncio.get_running_loop())

    def reloading(self) -> None:
        """``ready`` must follow; the time is what ``Type=notify-reload`` compares."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the loop that serves: where it hangs, no sign of life comes, and systemd starts us anew."""
        self._send("WATCHDOG=1")
        self._beating = loop.call_later(self._period, self._beat, loop)

    def _send(self, words: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address[:1] == "@" else self._address
        # Nobody may be there to read it, or too late; a service goes on all the same.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(words.encode(), address)


def _watchdog(environ: MutableMapping[str, str]) -> float:
    """Seconds between two signs of life: half of what ``WatchdogSec`` allows (sd_watchdog_enabled(3)); 0: none."""
    microseconds = environ.pop("WATCHDOG_USEC", "")
    process = environ.pop("WATCHDOG_PID", "") or str(os.getpid())
    if not microseconds.isdecimal() or process != str(os.getpid()):
        return 0.0
    return int(microseconds) / 2_000_000
