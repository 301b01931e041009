"""What every code means, as data: why it happens, what happens by itself, what a person does."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

KINDS: Final[Mapping[str, str]] = MappingProxyType({
    "answer": "answer to callers",
    "admin": "answer of the admin API",
    "state": "state of an account",
    "reason": "reason of a state",
    "event": "event of the log",
    "finding": "finding of doctor",
    "ending": "ending of a login",
    "exit": "exit code",
})  # fmt: skip
"""What a code may be, in words."""


@dataclass(frozen=True, slots=True)
class Explanation:
    code: str
    kinds: tuple[str, ...]
    """Of ``KINDS``; one word may be several."""
    cause: str
    itself: str
    """What tokenproxy does by itself."""
    person: str
    """What a person does."""


@cache
def explanations() -> Mapping[str, Explanation]:
    """All of them, by code, in the order of ``explanations.toml``."""
    text = resources.files("tokenproxy.core").joinpath("explanations.toml").read_text(encoding="utf-8")
    return {
        code: Explanation(code, tuple(each["is"]), each["cause"], each["itself"], each["person"])
        for code, each in tomllib.loads(text).items()
    }
