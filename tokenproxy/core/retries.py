"""Second tries after an upstream's passing failures (``retry``): when, after how long, and how many of them at most."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

CONNECT: Final = "connect"
"""No connection came about, so that nothing was sent."""
RESET: Final = "reset"
"""The connection ended before the head of an answer was whole."""
FAULT: Final = re.compile(r"connect|reset|429|5[0-9]{2}")
SAFE: Final = ("GET", "HEAD", "OPTIONS")
REPEATABLE: Final = (*SAFE, "PUT", "DELETE")
"""RFC 9110 section 9.2.2: twice is as good as once."""

FIRST_PAUSE: Final = 0.025
LONGEST_PAUSE: Final = 0.25
"""Seconds; Envoy's back-off, 25 ms and ten times that."""
SHORT: Final = 2
"""Seconds of a ``Retry-After`` that a caller can be kept waiting for; with a longer one the answer is passed on."""

WINDOW: Final = 10
SHARE: Final = 0.2
FEW: Final = 3
"""Of the requests in the last 10 s a fifth may be tried again, and 3 in a second, as with Finagle's retry budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    attempts: int
    """In all, the first one included."""
    on: frozenset[str] = frozenset({CONNECT, RESET, "502", "503", "504"})
    """``connect``, ``reset`` and statuses."""
    methods: frozenset[str] = frozenset(SAFE)

    def means(self, method: str, fault: str) -> bool:
        """Whether this failure of this request is one to try again; where nothing was sent, whatever the method."""
        return fault in self.on and (fault == CONNECT or method in self.methods)


def pause(tries: int, *, retry_after: bytes | None, chance: float) -> float | None:
    """
    Seconds before the next try after ``tries`` of them; ``chance`` is random between 0 and 1, so that those which failed
    together do not come back together. None: the upstream asks for more patience than a caller has.
    """
    longest = min(FIRST_PAUSE * 2.0**tries, LONGEST_PAUSE)
    if retry_after is None:
        return chance * longest
    if not retry_after.isdigit() or len(retry_after) > 9 or int(retry_after) > SHORT:  # a date says as little
        return None
    return int(retry_after) + chance * longest


class Budget:
    """Of one upstream: when it fails for everybody, second tries must not double what it has to bear."""

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()
        """Second, requests in it, second tries in it; the last 10 of them."""

    def request(self, now: float) -> None:
        self._current(now)[1] += 1

    def take(self, now: float) -> bool:
        """Whether one more may be tried again; it counts then."""
        current = self._current(now)
        requests = sum(each[1] for each in self._seconds)
        retries = sum(each[2] for each in self._seconds)
        if retries >= SHARE * requests + FEW * WINDOW:
            return False
        current[2] += 1
        return True

    def _current(self, now: float) -> list[int]:
        second = int(now)
        while self._seconds and self._seconds[0][0] <= second - WINDOW:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]
