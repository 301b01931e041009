"""One entry of the log: whether it is wanted, and how it looks to a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tokenproxy.cli.accounts import local_now
from tokenproxy.cli.present import Printer

LEVELS: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3}
Entry = Mapping[str, Any]

_AGO: Final = re.compile(r"(\d{1,6}) ?(s|m|min|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "min": "minutes", "h": "hours", "d": "days"}
_STATUS: Final = re.compile(r"([1-5])xx|([1-5]\d\d)", re.IGNORECASE)
_FIRST: Final = frozenset({"ts", "level", "event", "account", "route", "traceback"})
_STEPS: Final = {"login_required": "tokenproxy login", "misconfigured": "tokenproxy status"}
"""Code of a request, or event -> the command for its account."""


def status_of(text: str) -> range:
    """``5xx`` or ``404``; raises ``ValueError``."""
    found = _STATUS.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no status; write 404, or 5xx")
    if found[1]:
        return range(int(found[1]) * 100, int(found[1]) * 100 + 100)
    return range(int(found[2]), int(found[2]) + 1)


def moment_of(text: str) -> datetime:
    """``10m`` ago, ``14:04`` today, or a time as ISO 8601 has it, here unless it says where; raises ``ValueError``."""
    now = local_now()
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if re.fullmatch(r"\d{1,2}:\d\d(?::\d\d)?", text.strip()):
        text = f"{now:%Y-%m-%d}T{text.strip():0>5}"
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write 10m, 2h, 14:04 or 2026-11-22T14:04") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=now.tzinfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries are shown; what is empty lets all through."""

    routes: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    statuses: tuple[range, ...] = ()
    events: tuple[str, ...] = ()
    level: str | None = None
    since: datetime | None = None

    @property
    def narrow(self) -> bool:
        return bool(self.routes or self.accounts or self.statuses or self.events or self.level or self.since)

    def matches(self, entry: Entry) -> bool:
        if self.events and entry["event"] not in self.events:
            return False
        if self.level and LEVELS.get(str(entry.get("level")), 1) < LEVELS[self.level]:
            return False
        if self.routes and entry.get("route") not in self.routes:
            return False
        if self.accounts and not self._of_accounts(str(entry.get("account", ""))):
            return False
        if self.statuses and not any(entry.get("status") in each for each in self.statuses):
            return False
        return self.since is None or _is_since(entry, self.since)

    def _of_accounts(self, account: str) -> bool:
        """``crm`` means its logins as well."""
        return any(account == each or account.startswith(f"{each}/") for each in self.accounts)


def _is_since(entry: Entry, since: datetime) -> bool:
    at = _at(entry)
    return at is not None and at >= since


def _at(entry: Entry) -> datetime | None:
    try:
        return datetime.fromisoformat(str(entry.get("ts")))
    except ValueError:
        return None


class Shown:
    """Entries as lines, the subject in one column."""

    def __init__(self, out: Printer, *, step: Callable[[str], str]) -> None:
        """``step``: how a next step is written, so that it means this config."""
        self._out = out
        self._step = step
        self._wide = 4
        self._day: str | None = None

    def line(self, entry: Entry) -> str:
        """``14:04:12  crm  GET /v1/orders      200      83 ms (0.4 here)``."""
        whose = _text(entry.get("route") or entry.get("account") or "-")
        self._wide = min(24, max(self._wide, len(whose)))
        return f"{self._time(entry)}  {whose:<{self._wide}}  {self._what(entry)}".rstrip()

    def plain(self, text: str) -> str:
        """A line that is none of ours, with what could drive the terminal made harmless."""
        return _safe(text.rstrip("\r\n").replace("\t", "    "))

    def _time(self, entry: Entry) -> str:
        """The day stands before the first line of it, where it is not today's."""
        at = _at(entry)
        if at is None:
            return "--:--:--"
        now = local_now()
        at = at.astimezone(now.tzinfo)
        day = f"{at:%Y-%m-%d}"
        before = "" if day == (self._day or f"{now:%Y-%m-%d}") else f"{day}\n"
        self._day = day
        return f"{before}{at:%H:%M:%S}"

    def _what(self, entry: Entry) -> str:
        match entry["event"]:
            case "request" | "request_slow":
                return self._request(entry)
            case "token_renewed":
                return self._renewed(entry)
        words = _text(entry["event"]).replace("_", " ")
        rest = "  ".join(
            _pair(name, value)
            for name, value in entry.items()
            if name not in _FIRST and value not in (None, "")
        )
        return f"{self._mark(entry)}{words:<22}  {rest}{self._then(entry['event'], entry)}"

    def _request(self, entry: Entry) -> str:
        status, seconds = entry.get("status"), _number(entry.get("seconds"))
        here = max(0.0, seconds - _number(entry.get("upstream_seconds")))
        asked = f"{_text(entry.get('method'))} {_text(entry.get('path'))}"
        code = _text(entry.get("code") or "")
        told = code.replace("_", " ") if code else f"{seconds * 1000:.0f} ms ({here * 1000:.1f} here)"
        tries = f"  sent {entry['attempts']} times" if _number(entry.get("attempts")) > 1 else ""
        return f"{asked:<28}  {'left' if status == 0 else _text(status):<4}  {told}{tries}{self._then(code, entry)}"

    def _renewed(self, entry: Entry) -> str:
        waiters = _number(entry.get("waiters"))
        released = f"  released {waiters:.0f} waiting" if waiters else ""
        return (
            f"{'refresh ok':<22}  {_number(entry.get('seconds')):.2f} s  generation {_text(entry.get('generation'))}"
            f"  {_text(entry.get('trigger') or '')}{released}"
        )

    def _mark(self, entry: Entry) -> str:
        kind = {"warning": "warn", "error": "bad"}.get(str(entry.get("level")))
        return f"{self._out.mark(kind)} " if kind else ""

    def _then(self, code: str, entry: Entry) -> str:
        """The one command for a person."""
        account = entry.get("account")
        if code not in _STEPS or not account:
            return ""
        return f"   -> {self._step(f'{_STEPS[code]} {_text(account)}')}"


def _safe(text: str) -> str:
    """Without what could drive the terminal that shows it."""
    from tokenproxy import log

    return log.printable(text)


def _text(value: Any) -> str:
    return _safe(value if isinstance(value, str) else json.dumps(value))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _pair(name: str, value: Any) -> str:
    """A sentence speaks for itself."""
    text = _text(value)
    return text if name in {"detail", "message", "error"} else f"{_text(name)}={text}"
