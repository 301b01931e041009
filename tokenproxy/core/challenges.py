"""
``WWW-Authenticate``, taken apart (RFC 9110 section 11.6.1).

Several challenges may stand in one field or in several, a comma separates both challenges and parameters, and quoted
text may hold commas. Servers also forget the commas, or leave out quotes around a URL: whatever can be told is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MOST: Final = 64
"""Challenges of one field that are read; nobody means more."""
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar
_PARAMETER: Final = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))(?=[ \t,]|$)'
)
_SCHEME: Final = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_TOKEN68: Final = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_BETWEEN: Final = re.compile(r"[ \t,]*")
_REST: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")*')
"""What nothing can be made of, to the next comma outside of quotes."""
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    """Lower case: ``bearer``, ``dpop``."""
    params: Mapping[str, str]
    """Names in lower case; of a name that comes twice, the first."""
    token68: str = ""


def challenges(fields: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of an answer, in order; ``fields`` are the values of its ``WWW-Authenticate`` lines."""
    return tuple(challenge for field in fields for challenge in _read(field))


def _read(field: str) -> list[Challenge]:
    found: list[Challenge] = []
    params: dict[str, str] = {}
    at = _end(_BETWEEN, field, 0)
    while at < len(field) and len(found) <= MOST:
        parameter = _PARAMETER.match(field, at)
        scheme = None if parameter else _SCHEME.match(field, at)
        if parameter:
            quoted = parameter[2]
            value = parameter[3] if quoted is None else _ESCAPED.sub(r"\1", quoted)
            params.setdefault(parameter[1].lower(), value)
            at = parameter.end()
        elif scheme:
            at = scheme.end()
            opaque = None if _PARAMETER.match(field, _end(_BETWEEN, field, at)) else _TOKEN68.match(field, at)
            params = {}
            found.append(Challenge(scheme[1].lower(), params, opaque[1] if opaque else ""))
            at = opaque.end() if opaque else at
        else:
            skipped = _end(_REST, field, at)
            at = skipped if skipped > at else len(field)  # a quote that never ends takes the rest
        at = _end(_BETWEEN, field, at)
    return found


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
