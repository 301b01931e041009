"""
Expressions over a landing address: the config writes them, and strangers write what they run on.

google-re2 runs them in time linear in the text, so that none can stall the loop (Deskpro's guide has the spelling).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Protocol

LONGEST_TEXT: Final = 16 * 1024
"""Characters of an address that is looked at; a longer one is refused whole."""
LONGEST_PATTERN: Final = 1024

_MEMORY: Final = 64 * 1024
"""Bytes of a compiled expression: repetitions of repetitions take more, and would take long."""
_SLASHED: Final = re.compile(r"/(.*)/([a-z]*)", re.DOTALL)
_FLAGS: Final = frozenset("dgimsuv")
"""JavaScript's; ``d``, ``g``, ``u`` and ``v`` change nothing here, ``y`` would."""
_SPELLINGS: Final = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|(Z)|(.))", re.DOTALL)


class Match(Protocol):
    def group(self, name: str) -> str | None: ...


class Expression(Protocol):
    @property
    def groupindex(self) -> dict[str, int]: ...

    def search(self, text: str) -> Match | None: ...


def caught(pattern: str, group: str, text: str) -> str | None:
    """What the named group of a pattern without ``problem_of`` catches in the text; None: it does not match."""
    if len(text) > LONGEST_TEXT:
        return None
    found = _compiled(pattern).search(text)
    return (found.group(group) or None) if found is not None else None


def problem_of(pattern: str, group: str) -> str:
    """What is wrong with an expression, as a phrase for people; "" where it is fine."""
    if len(pattern) > LONGEST_PATTERN:
        return f"is longer than {LONGEST_PATTERN} characters"
    slashed = _SLASHED.fullmatch(pattern)
    if slashed and (unknown := set(slashed[2]) - _FLAGS):
        return f"has the flag {min(unknown)}, which is not known here"
    try:
        compiled = _compiled(pattern)
    except ValueError as error:
        return f"is no expression that google-re2 takes ({error})"
    if group not in compiled.groupindex:
        return f"needs a group named {group}: (?<{group}>...)"
    return ""


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Expression:
    """Raises ``ValueError``."""
    import re2  # type: ignore[import-untyped]  # only who uses expressions pays for it

    options = re2.Options()
    options.log_errors = False  # to standard error, past our log
    options.max_mem = _MEMORY
    try:
        compiled: Expression = re2.compile(_respelled(pattern), options)
    except re2.error as error:
        said = error.args[0]
        raise ValueError(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from None
    return compiled


def _respelled(pattern: str) -> str:
    """``/.../flags`` taken off, and JavaScript's and Python's own escapes as RE2 has them; it knows both kinds of group."""
    slashed = _SLASHED.fullmatch(pattern)
    body, flags = (slashed[1], "".join(sorted(set(slashed[2]) & set("ims")))) if slashed else (pattern, "")
    return (f"(?{flags})" if flags else "") + _SPELLINGS.sub(_escape, body)


def _escape(found: re.Match[str]) -> str:
    letter = found[1] or found[2]
    if letter:
        return rf"\x{{{letter}}}"
    return r"\z" if found[3] else found[0]
