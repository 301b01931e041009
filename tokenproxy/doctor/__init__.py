"""
Everything that commonly breaks, as a list of small checks; each gives findings with the remedy.

Rule: a check looks and changes nothing, here or at anybody else's. What it sends carries no credential.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tokenproxy.doctor import files, listeners, machine, network, stored
from tokenproxy.doctor.finding import CODES, Case, Finding, House, warn

__all__ = ["CHECKS", "CODES", "ONLINE", "Case", "Check", "Finding", "House", "examine"]

Found = Iterable[Finding]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    look: Callable[[Case], Found | Awaitable[Found]]
    """A plain function is called in a thread: a dead disk must hold up nobody."""
    network: bool = False


CHECKS: Final[Sequence[Check]] = (
    Check("version", machine.version),
    Check("config", files.config_file),
    Check("key", files.key),
    Check("admin token", files.admin_token),
    Check("secrets", files.secrets),
    Check("store", files.store_place),
    Check("store", stored.opens),
    Check("database", stored.database, network=True),
    Check("disk", files.disks),
    Check("redirect", listeners.redirect),
    Check("listener", listeners.taken),
    Check("certificate", listeners.certificates),
    Check("limits", machine.descriptors),
    Check("core dumps", machine.core_dumps),
    Check("loop", machine.event_loop),
    Check("providers", network.providers, network=True),
    Check("redirect", network.login_pages, network=True),
    Check("upstreams", network.upstreams, network=True),
)
ONLINE: Final = tuple(each for each in CHECKS if each.network or each.name == "store")
"""What ``check --online`` adds."""


async def examine(case: Case, *, checks: Sequence[Check] = CHECKS) -> Sequence[Finding]:
    """All checks at once, in the order of the list; a case that is offline leaves out those that ask others."""
    chosen = [each for each in checks if not (case.offline and each.network)]
    found = await asyncio.gather(*(_looked(each, case) for each in chosen))
    return [finding for some in found for finding in some]


async def _looked(check: Check, case: Case) -> Sequence[Finding]:
    # A check that gives parts of its work this time itself has a moment more, to say what it did find.
    patience = case.patience
    try:
        async with asyncio.timeout(patience + 1.0):
            if inspect.iscoroutinefunction(check.look):
                return list(await check.look(case))
            return await _in_thread(check.look, case)
    except TimeoutError:
        return [
            warn(
                "check_timeout",
                check.name,
                f"could not be looked at within {patience:g} s",
                "see whether the disk or the network hangs; --timeout gives it longer",
            )
        ]
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others find
        return [
            warn(
                "check_failed",
                check.name,
                f"could not be looked at ({type(error).__name__})",
                "tokenproxy doctor --verbose   (and report what it shows)",
            )
        ]


async def _in_thread(look: Callable[[Case], object], case: Case) -> Sequence[Finding]:
    """In a daemon thread: one that a dead disk holds must not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Sequence[Finding]] = loop.create_future()

    def settle(found: Sequence[Finding] | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(found or ())

    def run() -> None:
        found, failed = None, None
        try:
            found = list(look(case))  # type: ignore[call-overload]
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            failed = error
        try:
            loop.call_soon_threadsafe(settle, found, failed)
        except RuntimeError:  # nobody waits any more
            return

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await done


def tally(findings: Iterable[Finding]) -> tuple[int, int]:
    """How many problems, how many warnings."""
    levels = [each.level for each in findings]
    return levels.count("bad"), levels.count("warn")
