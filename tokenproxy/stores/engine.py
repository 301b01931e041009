"""What a store of rows needs of its database: one statement at a time, each durable by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

Value = str | bytes | int | float | datetime | timedelta | None


class Row(Protocol):
    """By column."""

    def __getitem__(self, name: str, /) -> Any: ...


class Engine(Protocol):
    """The one way to a database; ``disk.Disk`` and ``server.Server`` are those that there are."""

    async def run(
        self, operation: str, sql: str, parameters: Mapping[str, Value] | None = None
    ) -> Sequence[Row]:
        """
        One statement with ``:names``: its rows, and what it changed is durable. Raises ``StoreError``.

        ``operation`` is the label of the metrics.
        """

    async def wipe_log(self) -> None:
        """Overwrite what a log still has of rows that are gone, where that can be done."""

    async def refuse_lost(self) -> None:
        """Raise ``StoreError`` where what is written now will not be found again."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a database server keeps of what it confirms."""

    version: str
    lossy: tuple[str, ...]
    """Settings by which it forgets what it said it has."""
    doubts: tuple[str, ...]
    """What else may cost a login; one sentence each."""
    standbys: int
    synchronous: int
    """How many of these have what was confirmed."""
