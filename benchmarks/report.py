"""
The tables and the plot, from what ``benchmarks/results/`` keeps: ``python -m benchmarks.report``.

Puts the tables between marks in README.md and draws ``throughput.svg``; no figure there is typed by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import plot
from benchmarks.peers import PEERS
from benchmarks.reliability.result import Result as BrokenResult
from benchmarks.reliability.result import table as lost
from benchmarks.scenarios import SCENARIOS

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
README: Final = HERE / "README.md"
PLOT: Final = HERE / "throughput.svg"
BLOCK: Final = re.compile(
    r"(<!-- from here on: python -m benchmarks.report (\w+) -->\n).*?(<!-- until here -->\n)", re.DOTALL
)
"""What this program writes; the word says which results."""

Result = dict[str, Any]
"""What ``compare`` found in one scenario."""

COLUMNS: Final[dict[str, tuple[str, str]]] = {
    "per_second": ("requests/s", ",.0f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "cpu_us": ("CPU us/request", ".1f"),
    "proxy_busy": ("its core busy", ".0%"),
    "other_busy": ("load's core busy", ".0%"),
    "resident_mb": ("resident MB", ".0f"),
    "gb_per_second": ("GB/s", ".2f"),
    "before_mb": ("MB before", ".0f"),
    "peak_mb": ("MB at most", ".0f"),
    "after_mb": ("MB after", ".0f"),
    "callers_mb": ("MB with them", ".0f"),
    "kb_each": ("kB each", ".1f"),
    "start_s": ("seconds", ".3f"),
    "idle_mb": ("MB when idle", ".0f"),
    "scraped_p50_ms": ("p50 ms, scraped", ".2f"),
    "scraped_max_ms": ("longest ms, scraped", ".2f"),
    "alone_p50_ms": ("p50 ms, alone", ".2f"),
    "alone_max_ms": ("longest ms, alone", ".2f"),
}
"""How a figure is headed and written."""


def keep(result: Result) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['scenario']}.json").write_text(json.dumps(result, indent=1) + "\n")


def kept() -> list[Result]:
    """In the order of the scenarios."""
    paths = [RESULTS / f"{name}.json" for name in SCENARIOS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def borne() -> list[Result]:
    """What ``strain`` found."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("strain-*.json"))]


def broken() -> list[Result]:
    """What ``reliability`` found, in the order of its tests."""
    paths = sorted(RESULTS.glob("reliability-R*.json"), key=lambda path: int(path.stem.partition("-R")[2]))
    return [json.loads(path.read_text()) for path in paths]


def median(result: Result, name: str, figure: str) -> float:
    found: list[float] = [one[name][figure] for one in result["rounds"]]
    return statistics.median(found)


def ratio(result: Result, name: str, other: str) -> float | None:
    """The median of the rounds' ratios of the first figure; None: the other was not measured."""
    first = next(iter(result["rounds"][0][name]))
    if other not in result["rounds"][0]:
        return None
    ratios: list[float] = [one[name][first] / one[other][first] for one in result["rounds"]]
    return statistics.median(ratios)


def table(result: Result) -> str:
    names = list(result["rounds"][0])
    figures = list(result["rounds"][0][names[0]])
    heads = [COLUMNS[figure][0] for figure in figures]
    lines = [
        f"| **{result['title']}** | {' | '.join(heads)} | x Envoy | x plain |",
        "|---|" + "---|" * (len(heads) + 2),
    ]
    for name in names:
        cells = [format(median(result, name, figure), COLUMNS[figure][1]) for figure in figures]
        ratios = [ratio(result, name, other) for other in ("envoy", "plain")]
        cells += ["" if one is None else f"{one:.2f}" for one in ratios]
        lines.append(f"| {PEERS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def promises(result: Result) -> str:
    """What strain found, beside what is promised."""
    lines = [f"| **{result['title']}** | found | promised |", "|---|---|---|"]
    for one in result["promises"]:
        least, most, found = one["least"], one["most"], one["found"]
        bound = "" if least is None else f"at least {least:,g}"
        bound += "" if most is None else f"at most {most:,g}"
        broken = (least is not None and found < least) or (most is not None and found > most)
        written = f"{found:,.0f}" if found >= 100 else f"{found:.2f}".removesuffix(".00")
        lines.append(f"| {one['what']} | {written} | {bound}{', **not kept**' if broken else ''} |")
    return "\n".join(lines) + "\n"


def measured(result: Result) -> str:
    """When, and on what."""
    about = result["machine"]
    versions = ", ".join(f"{PEERS[name].title} {said}" for name, said in about["versions"].items())
    return (
        f"Measured {result['date']}, load by {about['load']}, on {about['cpus']} CPUs ({about['cpu']}), Linux {about['kernel']}, "
        f"Python {about['python']}, {about['loop']}; {versions}.\n"
    )


def page(results: list[Result], written: Callable[[Result], str]) -> str:
    """All tables; below each run of those that were measured alike, on what."""
    alike = itertools.groupby(results, key=measured)
    return "\n".join("\n".join([*map(written, some), how]) for how, some in alike)


def losses(found: list[Result]) -> str:
    """One line for each thing that was broken."""
    results = [
        BrokenResult(**{key: value for key, value in one.items() if key != "good"})
        for each in found
        for one in each["results"]
    ]
    when = ", ".join(
        f"{each['scenario'].partition('-')[2]} {each['date']} ({each['seconds']} s)" for each in found
    )
    if not found:
        return ""
    return f"{lost(results)}\n\nMeasured: {when}.\n"


def waits() -> str:
    """What ``renewal`` found."""
    path = RESULTS / "renewal.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    lines = [
        "| processes | requests that wait | expiries | token calls | added wait p50, ms | p99 | max |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['processes']} | {one['waiting']:,} | {one['expiries']} | {one['token_calls']} "
        f"| {one['p50_ms']:.1f} | {one['p99_ms']:.1f} | {one['max_ms']:.1f} |"
        for one in found["sizes"]
    ]
    return "\n".join(lines) + f"\n\nMeasured {found['date']}, on {found['machine']}.\n"


def filled(readme: str) -> str:
    """The page with the tables of what is kept."""
    made = {
        "compare": lambda: page(kept(), table),
        "strain": lambda: page(borne(), promises),
        "reliability": lambda: losses(broken()),
        "renewal": waits,
    }
    return BLOCK.sub(lambda found: f"{found[1]}\n{made[found[2]]()}\n{found[3]}", readme)


def tables(results: list[Result]) -> str:
    return "\n".join(table(result) for result in results)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    README.write_text(filled(README.read_text()))
    PLOT.write_text(plot.drawn(kept()))


if __name__ == "__main__":
    main()
