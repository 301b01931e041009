"""The sentences in which mistakes are told, so that every one of them sounds the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from tokenproxy.config.lines import Keys, Lines
from tokenproxy.errors import Problem

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN: Final = 40


class Report:
    """All that is wrong, and all that is odd, with the place where it was written."""

    def __init__(self, lines: Lines, variables: Mapping[Keys, str]) -> None:
        """``variables``: which keys came from the environment, and by which variable."""
        self._lines = lines
        self._variables = variables
        self._broken: set[Keys] = set()
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, keys: Keys, message: str) -> None:
        self._broken.add(keys)
        self.problems.append(self._at(keys, message))

    def warning(self, keys: Keys, message: str) -> None:
        self.warnings.append(self._at(keys, message))

    def sound(self, *keys: str | int) -> bool:
        """Whether nothing was wrong so far with this key or below it: else what follows from it is no news."""
        return not any(broken[: len(keys)] == keys for broken in self._broken)

    def place(self, keys: Keys) -> str:
        """How another problem's sentence may point here: ``routes.books (line 8)``."""
        found = self._at(keys, "")
        return found.path if found.line is None else f"{found.path} (line {found.line})"

    def in_file(self, keys: Keys) -> bool:
        """Whether the file says this, and not a variable."""
        return not any(keys[:length] in self._variables for length in range(1, len(keys) + 1))

    def _at(self, keys: Keys, message: str) -> Problem:
        for length in range(len(keys), 0, -1):
            if variable := self._variables.get(keys[:length]):
                return Problem(variable, message)
        return Problem(dotted(keys), message, self._lines.of(keys))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """As they stand in the file; what stands in no file comes last."""
    return sorted(problems, key=lambda each: (each.line is None, each.line or 0))


def dotted(keys: Keys) -> str:
    """``routes.crm.pass[0]``; a key that TOML would quote is quoted."""
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        else:
            path += ("." if path else "") + (key if _PLAIN_KEY.fullmatch(key) else quoted(key))
    return path


def quoted(text: str) -> str:
    """A TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def shown(value: Any) -> str:
    """A value in an error's sentence, as TOML would write it; long ones are cut. Never call it on a secret."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return quoted(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
        case int() | float():
            return str(value)[:_SHOWN]
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    by_fold = {each.casefold().replace("-", "_"): each for each in known}
    found = get_close_matches(name.casefold().replace("-", "_"), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean "scopes"?``, or what there is to choose from; begins with a space."""
    names = sorted(known)
    if meant := nearest(name, names):
        return f" Did you mean {quoted(meant)}?"
    return f" Known: {', '.join(names)}" if names else ""


def either(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
