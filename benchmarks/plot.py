"""A plot of requests per second, drawn without a library: bars in groups, one group for each scenario."""

from __future__ import annotations

import statistics
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks.peers import PEERS

COLOURS: Final = {
    "tokenproxy": "#0b6e4f",
    "envoy": "#ac6acc",
    "nginx": "#9aa5b1",
    "haproxy": "#c3cad1",
    "caddy": "#4f9bd9",
    "plain": "#e0a458",
}
WIDTH: Final = 960
LEFT: Final = 300
"""Where bars begin; the scenarios' titles stand before it."""
BAR: Final = 14
GAP: Final = 18
TOP: Final = 60


def drawn(results: list[dict[str, Any]]) -> str:
    """An SVG of what ``compare`` found; the longest bar of a group is as wide as the page, so that groups can be read alone."""
    parts, y = [], TOP
    for result in results:
        rates = {
            name: statistics.median(one[name]["per_second"] for one in result["rounds"])
            for name in result["rounds"][0]
            if "per_second" in result["rounds"][0][name]
        }
        if rates:
            parts += group(result["title"], rates, y)
            y += len(rates) * BAR + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n{heading()}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def heading() -> str:
    words = ['<text x="16" y="24" font-size="15">Requests per second on one core</text>']
    for number, (name, colour) in enumerate(COLOURS.items()):
        x = 16 + number * 150
        words.append(f'<rect x="{x}" y="36" width="10" height="10" fill="{colour}"/>')
        words.append(f'<text x="{x + 15}" y="45">{escape(PEERS[name].title)}</text>')
    return "\n".join(words)


def group(title: str, rates: dict[str, float], y: int) -> list[str]:
    middle = y + len(rates) * BAR / 2 + 4
    parts = [f'<text x="{LEFT - 10}" y="{middle:g}" text-anchor="end">{escape(title)}</text>']
    scale = (WIDTH - LEFT - 80) / max(rates.values())
    for number, (name, rate) in enumerate(rates.items()):
        top, width = y + number * BAR, rate * scale
        parts.append(
            f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>'
            f'<text x="{LEFT + width + 5:.1f}" y="{top + BAR - 4}">{rate:,.0f}</text>'
        )
    return parts
