"""What the numbers depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from benchmarks.load import Load
from benchmarks.peers import PEERS
from benchmarks.stage import Stage


def machine(programs: dict[str, str], stage: Stage) -> dict[str, Any]:
    versions = {name: PEERS[name].says_version(path) for name, path in programs.items()}
    ours = {"tokenproxy": version("tokenproxy"), "plain": version("aiohttp")}
    return {
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        "pinned": stage.cores.proxy is not None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "loop": f"uvloop {version('uvloop')}" if stage.loop == "uvloop" else "asyncio",
        "load": "own" if Load().own else "wrk",
        "versions": versions | {name: told for name, told in ours.items() if name in programs},
    }


def cpu() -> str:
    with open("/proc/cpuinfo") as file:
        return next(
            (line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown"
        )
