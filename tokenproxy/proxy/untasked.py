"""
A coroutine that goes on without a task, for as long as it waits for nothing but an upstream's answer.

A task is made, planned, woken and planned once more for every request, and nearly every request waits for one thing only.
So whoever begins it takes its first step, whoever has the answer the next one, and a task takes over where it waits for
anything else. ``benchmarks/README.md`` says what that saves.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, Final

ANSWER: Final = object()
"""What a coroutine without a task yields while it waits to be called for its next step."""


@types.coroutine
def tasked(wanted: bool) -> Generator[None, None, None]:  # noqa: FBT001 - the one thing to say
    """Wait until a task has taken over, where that is ``wanted``: time limits and much else need one."""
    if wanted:
        yield None


class Rest(Coroutine[Any, Any, None]):
    """For a task: what is left of a coroutine that waits for ``awaited``, None where it only wanted the task."""

    __slots__ = ("_awaited", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited

    def send(self, value: Any) -> Any:
        """The task's first step is to wait for what the coroutine waits for already."""
        awaited, self._awaited = self._awaited, None
        return self._coroutine.send(value) if awaited is None else awaited

    def throw(self, *error: Any) -> Any:
        """A task that is cancelled before its first step has still something to cancel."""
        self._awaited = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("This is for a task.")
