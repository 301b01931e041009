"""
tokenproxy beside nginx, HAProxy, Caddy, Envoy and a plain aiohttp proxy: ``python -m benchmarks.compare``.

README.md beside this file says what is measured and how. ``--save`` keeps what was found in ``benchmarks/results/``, from
which ``python -m benchmarks.report`` makes the tables and the plot.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import Any

from benchmarks import report
from benchmarks.machine import machine
from benchmarks.parts import BEST_LOOP
from benchmarks.peers import PEERS
from benchmarks.running import allow_descriptors
from benchmarks.scenarios import SCENARIOS, Effort
from benchmarks.stage import Stage


def installed(names: list[str], envoy: str | None) -> tuple[dict[str, str], list[str]]:
    """The programs of the peers that are here, and the names of those that are not."""
    paths = {name: envoy if name == "envoy" and envoy else PEERS[name].path() for name in names}
    missing = [name for name, path in paths.items() if path is None]
    for name in missing:
        print(f"{PEERS[name].title} is not installed: left out", file=sys.stderr)
    return {name: path for name, path in paths.items() if path}, missing


def run(name: str, stage: Stage, effort: Effort, about: dict[str, Any]) -> dict[str, Any]:
    print(f"{name}: {SCENARIOS[name].title}", file=sys.stderr)
    began = datetime.now(UTC)
    rounds = list(SCENARIOS[name].measure(stage, effort))
    return {
        "scenario": name,
        "title": SCENARIOS[name].title,
        "date": began.date().isoformat(),
        "seconds": effort.seconds,
        "machine": about,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="these proxies")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each proxy and round")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default=BEST_LOOP, help="of both in Python")
    parser.add_argument("--envoy", metavar="FILE", help="its program, if it is not on PATH")
    parser.add_argument("--save", action="store_true", help="keep what is found in benchmarks/results/")
    parser.add_argument("--json", action="store_true", help="print what is found as JSON instead of tables")
    args = parser.parse_args()
    allow_descriptors()
    programs, missing = installed(args.only, args.envoy)
    effort = Effort(rounds=args.rounds, seconds=args.seconds)
    results = []
    with Stage.built(programs, args.loop) as stage:
        about = machine(programs, stage) | {"missing": missing}
        for name in args.scenario:
            results.append(run(name, stage, effort, about))
            if args.save:
                report.keep(results[-1])
    print(json.dumps(results, indent=1) if args.json else report.tables(results))


if __name__ == "__main__":
    main()
