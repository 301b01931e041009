"""The process and what the system lets it do."""

from __future__ import annotations

import platform
import re
import resource
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tokenproxy import __version__
from tokenproxy.doctor.finding import Case, Finding, good, warn

FEW: Final = 4096
"""File descriptors below which a busy proxy runs out: a request takes two."""
_READS_THE_LIMIT: Final = ("systemd-coredump", "apport")
"""Collectors of core dumps that keep none of a process whose limit is 0."""


def version(case: Case) -> Iterator[Finding]:
    python = platform.python_version()
    running = case.running
    if running is None:
        yield good("version", f"tokenproxy {__version__}, Python {python}; serve is not running")
    elif running.get("version") != __version__:
        yield warn(
            "version_differs",
            "version",
            f"serve runs tokenproxy {running.get('version')}, and {__version__} is installed here",
            "restart serve",
        )
    else:
        yield good(
            "version", f"tokenproxy {__version__}, Python {python}; serve runs, process {running.get('pid')}"
        )


def descriptors(case: Case) -> Iterator[Finding]:
    soft = _limit(case, "Max open files")
    if soft is None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= FEW:
        yield good("limits", f"{soft if soft != resource.RLIM_INFINITY else 'unlimited'} file descriptors")
        return
    callers = case.config.limits.connections or soft // 2
    yield warn(
        "descriptors_few",
        "limits",
        f"{soft} file descriptors: room for about {min(callers, soft // 2)} callers at once",
        "raise it: ulimit -n 65536, LimitNOFILE=65536 in the unit, or --ulimit nofile of the container",
    )


def core_dumps(case: Case) -> Iterator[Finding]:
    """``serve`` sets its own limit to 0, which a kernel that pipes dumps into a program does not look at (core(5))."""
    limit = _limit(case, "Max core file size")
    pattern = _read("/proc/sys/kernel/core_pattern").strip()
    program = pattern.removeprefix("|").split(" ", 1)[0]
    if pattern.startswith("|") and not program.endswith(_READS_THE_LIMIT):
        yield warn(
            "core_dumps",
            "core dumps",
            f"the kernel hands every dump to {program}, whatever a process asks; one of serve would hold tokens",
            "let kernel.core_pattern be a file name, or a collector that keeps none of a process with limit 0",
        )
    elif limit:
        yield warn(
            "core_dumps",
            "core dumps",
            "the running serve may write one, which would hold tokens",
            "restart serve, which switches them off",
        )
    else:
        yield good("core dumps", "off while serve runs")


def event_loop(case: Case) -> Iterator[Finding]:
    if case.config.server.loop == "asyncio":
        yield good("loop", "asyncio's own, as server.loop says")
    elif find_spec("uvloop") is not None:
        yield good("loop", "uvloop")
    else:
        yield good(
            "loop",
            "asyncio's own; with uvloop a core takes a fifth more requests",
            "pip install 'tokenproxy[fast]'",
        )


def _limit(case: Case, name: str) -> int | None:
    """A soft limit of the running ``serve`` (proc_pid_limits(5)); None where none runs, or it may not be looked at."""
    if case.running is None:
        return None
    found = re.search(
        rf"^{name}\s+(\d+|unlimited)\s", _read(f"/proc/{case.running.get('pid')}/limits"), re.MULTILINE
    )
    if found is None:
        return None
    return resource.RLIM_INFINITY if found[1] == "unlimited" else int(found[1])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
