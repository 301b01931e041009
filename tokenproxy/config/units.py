"""Sizes and durations as people write them."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from tokenproxy.config.words import shown
from tokenproxy.core.settings import GIB, KIB, MIB

_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_SIZES: Final = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_DURATIONS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LARGEST_SIZE: Final = 1024 * GIB
_LONGEST: Final = 10 * 366 * _DURATIONS["d"]


def size(value: Any) -> int:
    """Bytes; raises ``ValueError`` with a sentence that says what is accepted."""
    number = _scaled(value, _SIZES) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise ValueError(
            f'must be a size such as "64 MiB" or "1 KiB" (B, KiB, MiB, GiB), or a whole number of bytes, got {shown(value)}'
        )
    if not 0 <= number <= _LARGEST_SIZE:
        raise ValueError(f"must be between 0 and 1024 GiB, got {shown(value)}")
    return int(number)


def seconds(value: Any) -> float:
    """Seconds; raises ``ValueError`` with a sentence that says what is accepted."""
    number = _scaled(value, _DURATIONS) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise ValueError(
            f'must be a duration such as "30 s", "500 ms", "5 min" or "1 h", or a number of seconds, got {shown(value)}'
        )
    if not 0 <= number <= _LONGEST:
        raise ValueError(f"must be between 0 s and 3660 d, got {shown(value)}")
    return float(number)


def _scaled(text: str, units: dict[str, int] | dict[str, float]) -> float | None:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in units:
        return None
    number = float(found[1]) if "." in found[1] else int(found[1])
    return number * units[found[2]] if len(found[1]) < 20 else math.inf
