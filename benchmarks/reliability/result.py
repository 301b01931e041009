"""What a run found, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table; ``figures`` are what was counted, ``faults`` what must not be."""

    test: str
    """``R1``, ``R2`` ..."""
    what: str
    figures: Mapping[str, float | int | str]
    faults: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "figures": dict(self.figures), "good": self.good}


def table(results: Iterable[Result]) -> str:
    """As Markdown; a line that is not good says what was wrong."""
    lines = ["| | what | found | |", "|---|---|---|---|"]
    for each in results:
        found = ", ".join(f"{name} {_shown(value)}" for name, value in each.figures.items())
        verdict = "as it must be" if each.good else "**wrong**: " + "; ".join(each.faults[:3])
        lines.append(f"| {each.test} | {each.what} | {found} | {verdict} |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
