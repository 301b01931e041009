"""
Whether a change made the data plane slow: ``python -m benchmarks.guard``, half a minute, last in ``.ci/run``.

Requests per second of tokenproxy over those of a plain aiohttp proxy, on this machine, in turns, the best of three. It
fails when that is more than a fifth below what ``ratio.json`` keeps. ``--keep`` writes today's there, the median of three,
so that a lucky round is not what later ones are held to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.load import Load
from benchmarks.peers import PEERS
from benchmarks.scenarios import Effort, under_load
from benchmarks.stage import Stage

KEPT: Final = Path(__file__).with_name("ratio.json")
FALL: Final = 0.8
"""Below so much of the ratio that was kept, it fails."""
EFFORT: Final = Effort(rounds=3, seconds=2)


def ratios(sent: Load) -> tuple[list[float], bool]:
    """Of the rounds; whether each proxy had a core for itself."""
    programs = {name: path for name in ("tokenproxy", "plain") if (path := PEERS[name].path())}
    with Stage.built(programs) as stage:
        rounds = list(under_load("guard", sent).measure(stage, EFFORT))
        pinned = stage.cores.proxy is not None
    return [one["tokenproxy"]["per_second"] / one["plain"]["per_second"] for one in rounds], pinned


def judge(best: float, kept: float) -> str | None:
    """What is wrong, or None."""
    if best >= kept * FALL:
        return None
    return (
        f"The data plane has become slower: {best:.2f} x a plain aiohttp proxy, and {kept:.2f} x was kept in "
        f"benchmarks/ratio.json; less than {kept * FALL:.2f} x fails. Compare with the commit before, "
        "python -m benchmarks.compare --only tokenproxy plain --scenario http-32-fields, and profile; if the cost is "
        "wanted, python -m benchmarks.guard --keep."
    )


def keep(everything: dict[str, Any], generator: str, ratio: float) -> None:
    everything[generator] = {
        "ratio": round(ratio, 2),
        "date": datetime.now(UTC).date().isoformat(),
        "how": "median of three, http, 32 connections, eight fields, every request another",
    }
    KEPT.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="what is measured is what counts from now on")
    parser.add_argument(
        "--own-load", action="store_true", help="with our load generator although wrk is installed"
    )
    args = parser.parse_args()
    sent = Load(fields=8, **({"own": True} if args.own_load else {}))
    generator = "own" if sent.own else "wrk"
    found, pinned = ratios(sent)
    everything: dict[str, Any] = json.loads(KEPT.read_text())
    listed = ", ".join(f"{one:.2f}" for one in found)
    print(f"{max(found):.2f} x a plain aiohttp proxy (best of {listed}; load by {generator})")
    if args.keep:
        keep(everything, generator, statistics.median(found))
    elif not pinned:
        print("This machine has a single core, which proxy, load and upstream share: not judged.")
    elif wrong := judge(max(found), everything[generator]["ratio"]):
        sys.exit(wrong)


if __name__ == "__main__":
    main()
