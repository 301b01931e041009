"""Logins that need somebody, or will soon."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from tokenproxy.core.grants import traits_of
from tokenproxy.doctor.finding import Case, Finding, House, bad, good, warn

SHOWN: Final = 20
"""Findings about single logins; more are counted."""
LOOKED_AT: Final = 2_000
"""Logins whose end is looked at, and ..."""
OPENED: Final = 100
"""... whose scopes are: a row is opened for each."""
SOON: Final = timedelta(days=3)

_LEVELS: Final[Mapping[str, tuple[str, str]]] = {
    "login_required": ("bad", "login_required"),
    "misconfigured": ("bad", "misconfigured"),
    "in_doubt": ("warn", "in_doubt"),
    "degraded": ("warn", "degraded"),
    "new": ("warn", "not_logged_in"),
}
"""State -> level and code."""


def nobody_yet(case: Case) -> list[Finding]:
    """Where there is no store."""
    return [
        warn("not_logged_in", f"login {name}", "nobody has logged in yet", f"tokenproxy login {name}")
        for name, account in case.config.accounts.items()
        if traits_of(account).person and not account.capture
    ][:SHOWN]


async def judged(case: Case, house: House) -> list[Finding]:
    overview = await house.accounts.overview(rows=SHOWN)
    unwell = [each for each in overview["accounts"] if each["state"] in _LEVELS]
    found = [_of_state(each) for each in unwell]
    more = sum(count for state, count in overview["states"].items() if state in _LEVELS) - len(unwell)
    if more > 0:
        found.append(
            bad("login_required", "logins", f"{more:,} more are not well", "tokenproxy status --all")
        )
    ending, narrow, looked_at = await _coming(case, house, unwell={each["account"] for each in unwell})
    found += [*ending[:SHOWN], *narrow[:SHOWN]]
    well, total = overview["states"].get("ok", 0), overview["total"]
    if not found:
        some = f", the end of the first {looked_at:,} looked at" if looked_at < total else ""
        found.append(good("logins", f"{well:,} of {total:,} well{some}"))
    return found


def _of_state(status: Mapping[str, Any]) -> Finding:
    level, code = _LEVELS[status["state"]]
    say = bad if level == "bad" else warn
    remedy = status["next_step"] or "nothing: it is tried again by itself while serve runs"
    return say(code, f"login {status['account']}", status["detail"], remedy)


async def _coming(case: Case, house: House, *, unwell: set[str]) -> tuple[list[Finding], list[Finding], int]:
    """Of those that are well: what ends soon, and what was granted less than was asked for."""
    ending, narrow, after, looked_at = [], [], "", 0
    while looked_at < LOOKED_AT:
        page = await house.accounts.page(after=after, limit=500)
        for status in page:
            looked_at += 1
            if status.get("unstored"):
                ending.append(_unstored(status["account"]))
            if status["account"] in unwell or not status["generation"]:
                continue
            ends = status["refresh_expires_at"]
            if ends and (left := datetime.fromisoformat(ends) - case.now()) < SOON:
                ending.append(_ends(status["account"], left))
            if looked_at <= OPENED:
                narrow += _narrower(await house.accounts.status(status["account"]))
        if len(page) < 500:
            break
        after = page[-1]["account"]
    return ending, narrow, looked_at


def _unstored(account: str) -> Finding:
    return bad(
        "store_failed",
        f"login {account}",
        "its newest tokens are not in the store yet; that is tried again by itself",
        "make room on the store's disk, or make it writable; do not stop serve before",
    )


def _ends(account: str, left: timedelta) -> Finding:
    hours = max(0, round(left.total_seconds() / 3600))
    when = f"in {hours} h" if left > timedelta() else "is over"
    return warn(
        "refresh_ends",
        f"login {account}",
        f"its refresh token ends {when}" if left > timedelta() else f"its refresh token {when}",
        f"tokenproxy login {account}",
    )


def _narrower(status: Mapping[str, Any]) -> list[Finding]:
    missing = status.get("scope_missing") or []
    if not missing:
        return []
    return [
        warn(
            "scope_narrower",
            f"login {status['account']}",
            f"was granted less than was asked for: {' '.join(missing)} is missing",
            f"tokenproxy login {status['account']}   (and agree to all of it), or ask for less in scopes",
        )
    ]
