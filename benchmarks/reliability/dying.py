"""
``tokenproxy`` that ends at a chosen step of a renewal: ``python -m benchmarks.reliability.dying FILE serve ...``.

FILE names the step (one of ``STEPS``), and behind it the signal that the process sends to itself, where that is not
``SIGKILL``; while it is not there, nothing happens. The program is the real one: only its store is wrapped, and does all
that it is asked.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from tokenproxy import stores
from tokenproxy.core.interfaces import Store

STEPS: Final = {
    "before_mark": ("claim", "before"),
    "after_mark": ("claim", "after"),
    "before_store": ("commit", "before"),
    "after_store": ("commit", "after"),
    "before_settle": ("settled", "before"),
    "after_settle": ("settled", "after"),
}
"""Step -> the store's call, and where in it."""


class Dying:
    """A real store of which one call is the process's last, or the last for a while."""

    def __init__(self, store: Store, armed: Path) -> None:
        self._store = store
        self._armed = armed

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._store, name)
        if name not in {call for call, _ in STEPS.values()}:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._die_if(name, "before")
            result = await method(*args, **kwargs)
            self._die_if(name, "after")
            return result

        return call

    def _die_if(self, name: str, where: str) -> None:
        try:
            step, _, name_of_signal = self._armed.read_text().partition(" ")
        except FileNotFoundError:
            return
        if STEPS.get(step) == (name, where):
            self._armed.unlink()  # who is continued goes on
            os.kill(os.getpid(), signal.Signals[name_of_signal or "SIGKILL"])


def main() -> None:
    armed = Path(sys.argv.pop(1))
    opened = stores.open_store

    async def open_store(*args: Any, **kwargs: Any) -> Store:
        return cast("Store", Dying(await opened(*args, **kwargs), armed))

    stores.open_store = open_store
    from tokenproxy.__main__ import main as tokenproxy

    tokenproxy()


if __name__ == "__main__":
    main()
