"""``python -m tests.fuzz --seconds 60``."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import logging
import random
import sys
import time

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzz.arena import Arena
from tests.fuzz.grammar import CORPUS, Case, callers, corpus, upstreams
from tests.fuzz.judge import Disagreement

ROUND = 250
"""Cases of one kind in a row, before the clock is looked at."""


def main() -> int:
    asking = argparse.ArgumentParser(prog="python -m tests.fuzz")
    asking.add_argument("--seconds", type=float, default=60.0)
    asking.add_argument("--seed", type=int, default=None, help="repeat a run; default: any")
    asking.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    asked = asking.parse_args()
    for name in ("asyncio", "tokenproxy"):  # of what is cut off in every other case
        logging.getLogger(name).setLevel(logging.CRITICAL)
    first = random.randrange(1 << 30) if asked.seed is None else asked.seed
    end = time.monotonic() + asked.seconds
    factory = importlib.import_module(asked.loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        arena = runner.run(Arena().__aenter__())
        try:
            for case in corpus().values():
                runner.run(arena.run(case))
            number = first
            while time.monotonic() < end:
                for cases in (callers(), upstreams()):
                    played(runner, arena, cases, number)
                number += 1
        except Disagreement as found:
            print(found)
            if hasattr(found, "__notes__"):  # else it is one of the corpus
                print(f"kept: {CORPUS / kept(found)}.json, seed {number}")
            return 1
        finally:
            runner.run(arena.__aexit__())
    good = arena.upstream.good
    print(f"{arena.cases} cases, {good} requests through, no disagreement; seeds {first} to {number - 1}")
    return 0 if good > arena.cases / 5 else 1  # else it proves nothing


def played(runner: asyncio.Runner, arena: Arena, cases: SearchStrategy[Case], number: int) -> None:
    @seed(number)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(cases)
    def play(case: Case) -> None:
        try:
            runner.run(arena.run(case))
        except Disagreement as found:
            found.add_note(case.dump())
            raise

    play()


def kept(found: Disagreement) -> str:
    """The smallest case that fails, as a file of the corpus."""
    text = found.__notes__[0]
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.json").write_text(text + "\n")
    return name


if __name__ == "__main__":
    sys.exit(main())
