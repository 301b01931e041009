"""Lines that a person or a program gives on standard input while a command waits for something else."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

_LONGEST: Final = 64 * 1024
_ENDS: Final = b"\r\n"
_ERASES: Final = b"\x08\x7f"
_BLANK: Final = 0x20


class Pasted:
    """
    For ``with``: lines as they come; a terminal shows none of them and cuts none off.

    A landing address holds a code, which must not stay on a screen, and may be longer than the 4,095 characters that
    a terminal gives of one line. Where standard input cannot be waited for, there are no lines.
    """

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._part = bytearray()
        self._descriptor = _descriptor()
        self._before: list[Any] | None = None
        self._asking = False

    @property
    def person(self) -> bool:
        """Whether somebody may be asked."""
        return self._descriptor is not None and os.isatty(self._descriptor)

    async def line(self) -> str:
        """The next one, without blanks around it."""
        return await self._lines.get()

    async def yes(self, question: str) -> bool:
        """What the person answers; what they type is shown, and Enter alone means no."""
        self._show()
        self._part.clear()
        self._asking = True
        try:
            print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
            return (await self.line()).lower() in {"y", "yes"}
        finally:
            self._asking = False

    def __enter__(self) -> Self:
        if self._descriptor is None:
            return self
        self._hide()
        try:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        except PermissionError:  # a file: epoll waits for none, since all of it is there
            while self._read():
                pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._show()

    def _read(self) -> bool:
        """Whether there may be more."""
        assert self._descriptor is not None  # noqa: S101 - else nobody reads
        data = b""
        with suppress(OSError):  # EIO: the terminal is gone
            data = os.read(self._descriptor, _LONGEST)
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            if self._asking:
                self._lines.put_nowait("")
        for byte in data:
            self._take(byte)
        return bool(data)

    def _take(self, byte: int) -> None:
        if byte in _ENDS:
            line = self._part.decode(errors="replace").strip()
            self._part.clear()
            if line or self._asking:
                self._lines.put_nowait(line)
        elif byte in _ERASES:
            del self._part[-1:]
        elif byte >= _BLANK and len(self._part) < _LONGEST:
            self._part.append(byte)

    def _hide(self) -> None:
        if not self.person:
            return
        import termios

        assert self._descriptor is not None  # noqa: S101 - a person has one
        before = termios.tcgetattr(self._descriptor)
        # Without ICANON the terminal keeps no line of its own, whose length it would limit.
        silent = [*before[:3], before[3] & ~(termios.ECHO | termios.ICANON), *before[4:]]
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, silent)
        self._before = before

    def _show(self) -> None:
        if self._before is None:
            return
        import termios

        assert self._descriptor is not None  # noqa: S101 - it was hidden
        before, self._before = self._before, None
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)


def _descriptor() -> int | None:
    """Of standard input; None where there is none, or where a shell would stop us for touching its terminal."""
    try:
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
            return None
    except (AttributeError, OSError, ValueError):  # closed, or no file at all
        return None
    return descriptor
