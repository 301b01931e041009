"""
Where a key stands in a TOML text; ``tomllib`` keeps no lines.

The text was parsed before, so the scanner may trust it: it only needs to know where keys and values end.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Final

Keys = tuple[str | int, ...]
"""A key's way from the top: ``("accounts", "books", "scopes", 0)``."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\[\s\S])*?""""{0,2}'
    r"|'''[\s\S]*?''''{0,2}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'"
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")


class Lines:
    """Looks lines up; scans the text only when somebody asks, which a good config never does."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[Keys, int] | None = None

    def of(self, keys: Keys) -> int | None:
        """The line of a key, else of the nearest table around it; from 1. None: nothing of it is in the text."""
        if self._found is None:
            self._found = _Scan(self._text).found
        for length in range(len(keys), 0, -1):
            line = self._found.get(keys[:length])
            if line is not None:
                return line
        return None


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Keys, int] = {}
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._rows: dict[Keys, int] = {}
        self._document()

    def _document(self) -> None:
        table: Keys = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Keys:
        line = self._line()
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        keys = self._key(())
        self.at += 2 if array else 1
        self.found[keys] = line
        if not array:
            return keys
        row = self._rows[keys] = self._rows.get(keys, -1) + 1
        return (*keys, row)

    def _pair(self, table: Keys) -> None:
        line = self._line()
        keys = self._key(table)
        self.found[keys] = line
        self.at += 1  # the equals sign
        self._value(keys)

    def _key(self, table: Keys) -> Keys:
        """A key, dotted or not, up to what follows it; tables that it implies get its line."""
        keys, line = table, self._line()
        while True:
            self._skip(_SPACE)
            word = self._take(_KEY)
            keys = (*keys, _unquoted(word) if word[:1] in {'"', "'"} else word)
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1
            self.found.setdefault(keys, line)

    def _value(self, keys: Keys) -> None:
        self._skip(_SPACE)
        match self.text[self.at : self.at + 1]:
            case "[":
                self._array(keys)
            case "{":
                self._inline_table(keys)
            case '"' | "'":
                self._take(_STRING)
            case _:
                self._take(_SCALAR)

    def _array(self, keys: Keys) -> None:
        self.at += 1
        item = 0
        while self.text[self._skip(_BLANK)] != "]":
            self.found[(*keys, item)] = self._line()
            self._value((*keys, item))
            item += 1
            self._comma()
        self.at += 1

    def _inline_table(self, keys: Keys) -> None:
        self.at += 1
        while self.text[self._skip(_BLANK)] != "}":
            self._pair(keys)
            self._comma()
        self.at += 1

    def _comma(self) -> None:
        if self.text[self._skip(_BLANK)] == ",":
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self.at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise AssertionError("scanned a text that tomllib refuses")
        self.at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect_right(self._breaks, self.at - 1) + 1


def _unquoted(word: str) -> str:
    return str(tomllib.loads(f"key = {word}")["key"])
