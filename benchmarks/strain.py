"""
What tokenproxy bears: ``python -m benchmarks.strain``.

Bodies of 1 GiB, 10,000 idle callers, 1,000 slow ones, and four times as many as it may take at once, each with what is
promised for it. The exit code is 1 where one is not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from benchmarks import load, report, wire
from benchmarks.compare import installed
from benchmarks.load import Load
from benchmarks.machine import machine
from benchmarks.running import allow_descriptors
from benchmarks.scenarios import SCENARIOS, Effort
from benchmarks.stage import PATH, Proxy, Stage, Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A figure, and what it must be."""

    what: str
    found: float
    least: float | None = None
    most: float | None = None

    def kept(self) -> bool:
        return (self.least is None or self.found >= self.least) and (
            self.most is None or self.found <= self.most
        )


Strain = Callable[[Stage], Iterator[Promise]]


def streams(stage: Stage) -> Iterator[Promise]:
    """A GiB each way, beside Envoy."""
    for name, word in (("stream-down", "down"), ("stream-up", "up")):
        rounds = list(SCENARIOS[name].measure(stage, Effort(rounds=3, seconds=0)))
        result = {"rounds": rounds}
        ours = report.median(result, "tokenproxy", "gb_per_second")
        ratio = report.ratio(result, "tokenproxy", "envoy")
        grown = max(one["tokenproxy"]["peak_mb"] - one["tokenproxy"]["before_mb"] for one in rounds)
        yield Promise(what=f"1 GiB {word}, GB/s", found=ours)
        if ratio is not None:
            yield Promise(what=f"1 GiB {word}, x Envoy", found=ratio, least=0.8)
        yield Promise(what=f"1 GiB {word}, MB more at most", found=grown, most=16)


def idle(stage: Stage) -> Iterator[Promise]:
    alone = Stage(programs={"tokenproxy": stage.programs["tokenproxy"]}, folder=stage.folder)
    found = next(SCENARIOS["idle"].measure(alone, Effort(rounds=1, seconds=0)))["tokenproxy"]
    yield Promise(what="10,000 idle callers, MB", found=found["callers_mb"], most=150)


def slow(stage: Stage) -> Iterator[Promise]:
    """A thousand callers who never end what they began, and what 32 others notice; a head may take 10 s, so they come again."""
    with Upstream(reading=True).running(stage) as (port, _), stage.proxy("tokenproxy", port) as proxy:
        before = load.send(Load(), proxy.port, 5)
        with crowd("slow", proxy, 1000, 25):
            time.sleep(5)
            cpu = proxy.process.cpu_seconds()
            time.sleep(2)
            cpu = (proxy.process.cpu_seconds() - cpu) / 2
            beside = load.send(Load(), proxy.port, 12)
        yield Promise(what="requests/s of 32 others without slow callers", found=before.per_second)
        yield Promise(what="requests/s of 32 others beside 1,000 slow callers", found=beside.per_second)
        yield Promise(what="p99 of others without them, ms", found=before.p99_ms)
        yield Promise(what="p99 of others beside them, ms", found=beside.p99_ms, most=50)
        yield Promise(what="of a core that the slow ones take alone", found=cpu)


def limit(stage: Stage) -> Iterator[Promise]:
    """``limits.in_flight = 100``, an upstream that takes 50 ms, 400 callers who come again at once: 2,000/s can be served."""
    for queue, words in (("1 s", "queue of 1 s"), ("50 ms", "queue of 50 ms")):
        with environment(TOKENPROXY_LIMITS__IN_FLIGHT="100", TOKENPROXY_LIMITS__QUEUE=queue):
            yield from pressed(stage, words)


def pressed(stage: Stage, words: str, seconds: float = 20) -> Iterator[Promise]:
    with Upstream(wait=0.05).running(stage) as (port, _), stage.proxy("tokenproxy", port) as proxy:
        with crowd("many", proxy, 400, seconds) as pressing:
            checks = list(healthy(proxy, pressing))
            said = json.loads(pressing.communicate()[0])
        ended = time.perf_counter()
        with wire.connect(proxy.port) as caller:
            while wire.ask(caller, PATH) > 0.1:
                pass
        recovered = time.perf_counter() - ended
        served, refused = said["served"] / seconds, said["refused"] / seconds
        yield Promise(what=f"{words}: served a second, of 2,000 possible", found=served, least=1600)
        yield Promise(what=f"{words}: refused a second with 503 and Retry-After", found=refused)
        yield Promise(what=f"{words}: anything else", found=sum(said["other"].values()), most=0)
        yield Promise(what=f"{words}: longest wait of who was served, ms", found=said["longest_ms"])
        yield Promise(what=f"{words}: health endpoints, answered", found=len(checks), least=20)
        yield Promise(what=f"{words}: health endpoints, longest ms", found=max(checks) * 1000, most=1000)
        yield Promise(
            what=f"{words}: seconds until a request takes less than 0.1 s again", found=recovered, most=2
        )


def healthy(proxy: Proxy, pressing: subprocess.Popen[str]) -> Iterator[float]:
    """Seconds of each answer of the health endpoints while the crowd presses."""
    while pressing.poll() is None:
        for path in ("healthz", "readyz"):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{proxy.admin}/{path}", timeout=10) as answer:
                answer.read()
            yield time.perf_counter() - began
        with contextlib.suppress(subprocess.TimeoutExpired):
            pressing.wait(0.2)


@contextmanager
def crowd(kind: str, proxy: Proxy, count: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "benchmarks.crowd", kind, str(proxy.port), str(count), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def environment(**more: str) -> Iterator[None]:
    """For the programs that are started meanwhile."""
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


STRAINS: Final[dict[str, Strain]] = {"streams": streams, "idle": idle, "slow": slow, "limit": limit}
TITLES: Final = {
    "streams": "1 GiB each way",
    "idle": "10,000 idle callers",
    "slow": "1,000 slow callers",
    "limit": "400 callers where 100 requests may be under way",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=STRAINS, default=list(STRAINS), help="these")
    parser.add_argument("--envoy", metavar="FILE", help="its program, if it is not on PATH")
    parser.add_argument("--save", action="store_true", help="keep what is found in benchmarks/results/")
    args = parser.parse_args()
    allow_descriptors()
    programs, _ = installed(["tokenproxy", "envoy"], args.envoy)
    broken = False
    with Stage.built(programs) as stage:
        for name in args.only:
            promises = list(STRAINS[name](stage))
            broken |= not all(promise.kept() for promise in promises)
            result = {
                "scenario": f"strain-{name}",
                "title": TITLES[name],
                "date": datetime.now(UTC).date().isoformat(),
                "machine": machine(programs, stage),
                "promises": [asdict(promise) for promise in promises],
            }
            print(report.promises(result))
            if args.save:
                report.keep(result)
    sys.exit(broken)


if __name__ == "__main__":
    main()
