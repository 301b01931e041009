"""Every key with its line of ``docs/config.md``, which the wheel carries along; without the models, so that it is quick."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_PLACES: Final = (_HERE / "settings.md", _HERE.parent.parent / "docs/config.md")
"""Where an installed package has the page, and where a checkout has it."""
_ROW: Final = re.compile(r"^\| `([a-z_]+\.[^`]+)` \|([^|]*)\|([^|]*)\|(.*)\|$", re.MULTILINE)
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Described:
    """One key, as the page has it."""

    key: str
    """Dotted, with NAME where the operator chooses."""
    type: str
    default: str
    meaning: str


def described() -> Mapping[str, Described]:
    """By key, in the page's order; empty where the page is not to be found."""
    for place in _PLACES:
        if place.is_file():
            return {row.key: row for row in _rows(place.read_text(encoding="utf-8"))}
    return {}


def _rows(text: str) -> list[Described]:
    """A row without a meaning shares that of the row before it (``proxy.username``, ``proxy.password``)."""
    rows: list[Described] = []
    for key, kind, default, given in _ROW.findall(text):
        meaning = _plain(given) or (rows[-1].meaning if rows else "")
        rows.append(Described(key, kind.strip(), _plain(default), meaning))
    return rows


def _plain(text: str) -> str:
    """Markdown as a terminal shows it best."""
    return _LINK.sub(r"\1", text).replace("`", "").strip()
