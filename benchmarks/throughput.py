"""
Requests per second on one core: the data plane against a plain aiohttp proxy, in the same run.

``python -m benchmarks.throughput``; see README.md beside this file for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.parts import BEST_LOOP

FIELDS: Final = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "Accept: application/json, text/plain, */*",
    "Accept-Language: en-US,en;q=0.9,de;q=0.8",
    "Accept-Encoding: gzip, deflate, br",
    "Referer: http://localhost/app/items",
    "X-Requested-With: XMLHttpRequest",
    "Cookie: session=0123456789abcdef; theme=dark",
    "Cache-Control: no-cache",
)
WRK: Final = re.compile(
    r"50%\s+([\d.]+)(us|ms|s).*?99%\s+([\d.]+)(us|ms|s).*?(\d+) requests in.*?Requests/sec:\s+([\d.]+)",
    re.DOTALL,
)
UNITS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Part:
    address: str
    pid: int

    def cpu_seconds(self) -> float:
        """Of the process so far, in user and kernel; nan where there is no ``/proc``."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return math.nan
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def part(name: str, *, core: int | None, target: str = "", loop: str = BEST_LOOP) -> Iterator[Part]:
    """Start a process of ``benchmarks.parts``, and end it."""
    command = [sys.executable, "-m", "benchmarks.parts", name, "--loop", loop, "--target", target]
    if core is not None:
        command += ["--core", str(core)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise SystemExit(f"{name} did not start; run it alone to see why: {' '.join(command[1:])}")
        yield Part(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()  # it removes its folder
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def measure(proxy: Part, args: argparse.Namespace, *, core: int | None, seconds: float) -> dict[str, float]:
    """
    Requests per second, latencies in milliseconds, and the proxy's own CPU time for one request in microseconds.

    The last is what a busy machine disturbs least.
    """
    before = proxy.cpu_seconds()
    use_wrk = shutil.which("wrk") is not None and not args.own_load
    count, found = (by_wrk if use_wrk else by_own_load)(proxy.address, args, core=core, seconds=seconds)
    return found | {"cpu_us": (proxy.cpu_seconds() - before) / count * 1e6}


def by_wrk(
    address: str, args: argparse.Namespace, *, core: int | None, seconds: float
) -> tuple[float, dict[str, float]]:
    command = ["wrk", "-t1", f"-c{args.connections}", f"-d{seconds:g}s", "--latency"]
    for field in FIELDS if args.fields else ():
        command += ["-H", field]
    pinned = ["taskset", "-c", str(core)] if core is not None and shutil.which("taskset") else []
    said = subprocess.run(
        [*pinned, *command, f"http://{address}/bench/items"], capture_output=True, text=True, check=True
    ).stdout
    found = WRK.search(said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk saw errors:\n{said}")
    p50, unit50, p99, unit99, count, rate = found.groups()
    return float(count), {
        "per_second": float(rate),
        "p50_ms": float(p50) * UNITS[unit50],
        "p99_ms": float(p99) * UNITS[unit99],
    }


def by_own_load(
    address: str, args: argparse.Namespace, *, core: int | None, seconds: float
) -> tuple[float, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.load", "--port", address.rpartition(":")[2]]
    command += ["--seconds", str(seconds), "--connections", str(args.connections)]
    command += ["--fields", str(len(FIELDS) if args.fields else 0)]
    if core is not None:
        command += ["--core", str(core)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found.pop("count"), found


def run(args: argparse.Namespace) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    proxy_core, other_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    rounds: dict[str, list[dict[str, float]]] = {"tokenproxy": [], "plain aiohttp": []}
    with (
        part("upstream", core=other_core) as upstream,
        part("tokenproxy", core=proxy_core, target=f"http://{upstream.address}", loop=args.loop) as ours,
        part("plain", core=proxy_core, target=f"http://{upstream.address}", loop=args.loop) as plain,
    ):
        proxies = {"tokenproxy": ours, "plain aiohttp": plain}
        for name, proxy in proxies.items():
            measure(proxy, args, core=other_core, seconds=1)  # connections, caches, first imports
            print(f"warmed up: {name}", file=sys.stderr)
        for number in range(args.rounds):
            for name, proxy in proxies.items():  # in turn, so that a noisy minute hits both
                found = measure(proxy, args, core=other_core, seconds=args.seconds)
                rounds[name].append(found)
                print(f"round {number + 1}: {name} {found['per_second']:,.0f}/s", file=sys.stderr)
    ratios = [
        a["per_second"] / b["per_second"]
        for a, b in zip(rounds["tokenproxy"], rounds["plain aiohttp"], strict=True)
    ]
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "pinned": proxy_core is not None,
            "python": platform.python_version(),
            "aiohttp": version("aiohttp"),
            "loop": f"uvloop {version('uvloop')}" if args.loop == "uvloop" else "asyncio",
            "load": "wrk" if shutil.which("wrk") and not args.own_load else "own",
            "connections": args.connections,
            "fields": len(FIELDS) if args.fields else 0,
        },
        "results": {
            name: {key: statistics.median(one[key] for one in found) for key in found[0]}
            for name, found in rounds.items()
        },
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }


def table(found: dict[str, Any]) -> str:
    lines = ["| proxy | requests/s | p50 ms | p99 ms | CPU us/request |", "|---|---|---|---|---|"]
    for name, one in found["results"].items():
        speed = f"{one['per_second']:,.0f} | {one['p50_ms']:.2f} | {one['p99_ms']:.2f}"
        lines.append(f"| {name} | {speed} | {one['cpu_us']:.1f} |")
    ratio = found["ratio"]
    lines.append(f"\n{ratio['median']:.2f} x (rounds: {ratio['least']:.2f} to {ratio['most']:.2f})")
    lines.append(", ".join(f"{key} {value}" for key, value in found["machine"].items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Requests per second on one core, against a plain aiohttp proxy."
    )
    parser.add_argument("--seconds", type=float, default=3, help="of one round and proxy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--fields", action="store_true", help="send eight fields as a browser does")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default=BEST_LOOP)
    parser.add_argument(
        "--own-load", action="store_true", help="use our load generator although wrk is installed"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    args = parser.parse_args()
    found = run(args)
    print(json.dumps(found, indent=2) if args.json else table(found))


if __name__ == "__main__":
    main()
