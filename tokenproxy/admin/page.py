"""The start page: which account is well, until when, and what to do where one is not. No scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any, Final

STYLE: Final = """
:root { color-scheme: light dark; --line: #d4d4d4; --bad: #b00020; --soft: #5f5f5f; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --bad: #ff8a80; --soft: #a8a8a8; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .5rem .75rem .5rem 0; text-align: left; vertical-align: top; }
code { font: .9em ui-monospace, monospace; } .soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
"""
STYLE_HASH: Final = f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
"""For the content security policy: this style and no other."""

WORDS: Final[Mapping[str, str]] = {
    "new": "not logged in",
    "ok": "ok",
    "degraded": "renewal failing, tried again by itself",
    "login_required": "login required",
    "misconfigured": "refused by the provider: check the config",
    "in_doubt": "renewal in doubt",
}
"""States as a person says them."""
_NEEDS_SOMEBODY: Final = frozenset({"login_required", "misconfigured"})


NO_OVERVIEW: Final[Mapping[str, Any]] = {"total": 0, "states": {}, "accounts": []}


def render(
    overview: Mapping[str, Any],
    reasons: Mapping[str, str],
    *,
    now: datetime,
    version: str,
    trouble: str = "",
) -> str:
    """
    The page as HTML.

    ``overview`` as ``core.interfaces.Accounts.overview`` gives it, ``reasons`` as ``Health.reasons``; ``trouble``
    is why the accounts could not be read.
    """
    rows = "".join(_row(account, now) for account in overview["accounts"])
    table = (
        f"<table><thead><tr><th>Account<th>State<th>Token until<th>Last renewal<th>What to do"
        f"</thead><tbody>{rows}</tbody></table>"
        if rows
        else ""
        if overview["total"]
        else "<p>No account is configured yet: add a table <code>[accounts.NAME]</code> to the config file.</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>tokenproxy</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>tokenproxy</h1>"
        f"{_health(reasons)}{_paragraph(trouble) if trouble else _counts(overview) + table}"
        f'<p class="soft">tokenproxy {escape(version)}, as of {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC. '
        'Reload for news. <a href="/metrics">Metrics</a>, <a href="/readyz">readiness</a>, '
        '<a href="/api/accounts">the same as JSON</a>.</p></body></html>'
    )


def _health(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return "<p>Ready for requests.</p>"
    said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    return _paragraph(f"Not ready for requests. {said}")


def _counts(overview: Mapping[str, Any]) -> str:
    """Where there are more logins than rows: how many are in which state, and which are shown."""
    total, shown = overview["total"], len(overview["accounts"])
    if total <= shown:
        return ""
    counts = ", ".join(
        f"{count:,} {escape(WORDS.get(state, state))}"
        for state, count in sorted(overview["states"].items())
        if count
    )
    below = "Below: those that are not well." if shown else "All are well."
    return f"<p>{total:,} logins: {counts}. {below}</p>"


def _paragraph(text: str) -> str:
    return f'<p class="bad">{escape(text)}</p>'


def _row(account: Mapping[str, Any], now: datetime) -> str:
    state = str(account.get("state", ""))
    words = escape(WORDS.get(state, state))
    marked = f'<span class="bad">{words}</span>' if state in _NEEDS_SOMEBODY else words
    identity = account.get("identity")
    detail = account.get("detail")
    step = account.get("next_step")
    cells = (
        escape(str(account.get("account", ""))) + (f"<br>{_soft(identity)}" if identity else ""),
        marked + (f"<br>{_soft(detail)}" if detail else ""),
        _moment(account.get("expires_at"), now, unknown="unknown" if account.get("live") else "-"),
        _moment(account.get("renewed_at"), now, unknown="-"),
        f"<code>{escape(str(step))}</code>" if step else "nothing",
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells)


def _soft(text: object) -> str:
    return f'<span class="soft">{escape(str(text))}</span>'


def _moment(iso: object, now: datetime, *, unknown: str) -> str:
    """``2026-11-22 15:04 UTC (in 38 min)``; ``unknown`` where nobody knows."""
    if not iso:
        return unknown
    try:
        moment = datetime.fromisoformat(str(iso))
    except ValueError:
        return escape(str(iso))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC {_soft(f'({distance(moment - now)})')}"


def distance(delta: timedelta) -> str:
    """``in 38 min``, ``2 h ago``."""
    seconds = abs(delta.total_seconds())
    sizes = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next(((size, unit) for size, unit in sizes if seconds >= 2 * size), (1, "s"))
    length = f"{seconds / size:.0f} {unit}"
    return f"in {length}" if delta > timedelta(0) else f"{length} ago"
