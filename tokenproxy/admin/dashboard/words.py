"""How the dashboard says things: states, events, times and durations, in a person's words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tokenproxy.admin.dashboard.history import Happening

STATES: Final[Mapping[str, tuple[str, str]]] = {
    "new": ("none", "not logged in"),
    "ok": ("good", "ok"),
    "degraded": ("warn", "renewal failing"),
    "login_required": ("bad", "login required"),
    "misconfigured": ("bad", "refused by the provider"),
    "in_doubt": ("warn", "renewal in doubt"),
}
"""A state's kind, which is its colour and its sign, and its words."""

ORDER: Final = ("login_required", "misconfigured", "in_doubt", "degraded", "new", "ok")
"""States, those first that need somebody most."""

_TRIGGERS: Final[Mapping[str, str]] = {
    "due": "ahead of its expiry",
    "on_401": "after an upstream refused the token",
    "on_demand": "because a request needed it",
    "keep_alive": "to keep an idle login alive",
    "recovery": "after a renewal whose answer was lost",
    "manual": "because somebody asked for it",
}

_EVENTS: Final[Mapping[str, tuple[str, str]]] = {
    "token_renewed": ("good", "Renewed"),
    "config_reloaded": ("none", "Config reloaded"),
    "config_reload_failed": ("bad", "Config reload failed; the one before stays in force"),
    "renewal_failed": ("warn", "Renewal failed"),
    "renewal_in_doubt": ("warn", "Renewal sent, and no answer came"),
    "renewal_recovered": ("good", "Renewal in doubt made up for"),
    "renewals_held": ("warn", "New token refused too; renewals are held"),
    "validate_live": ("none", "Upstream refused a token that the provider calls live"),
    "validate_failed": ("warn", "Provider's validate call gave no usable answer"),
    "discovery_failed": ("warn", "Issuer's metadata could not be read"),
    "provider_rate_limited": ("warn", "Provider asks to slow down"),
    "login_required": ("bad", "Login required"),
    "misconfigured": ("bad", "Provider refuses the registration"),
    "registration_changed": ("bad", "Config names another provider or client than the tokens'"),
    "token_imported": ("good", "Tokens stored by a login or an import"),
    "account_forgotten": ("none", "Logged out"),
    "revocation_failed": ("warn", "Provider did not take the revocation"),
    "account_rebound": ("none", "Bound to the registration of the config"),
    "login_begun": ("none", "Login begun"),
    "login_succeeded": ("good", "Login succeeded"),
    "login_failed": ("warn", "Login failed"),
    "store_failed": ("bad", "Store could not be read or written"),
    "spool_failed": ("bad", "Spool failed too"),
    "store_rolled_back": ("bad", "Store had an older token set; ours was put back"),
    "store_recovered": ("good", "Store works again"),
    "key_rotated": ("none", "Store sealed under a new key"),
}
"""An event's kind and its words; one for each of ``history.HEARD``."""

UNKNOWN: Final = ("none", "unknown")


def state(name: str) -> tuple[str, str]:
    return STATES.get(name, ("none", name or "unknown"))


def event(happening: Happening) -> tuple[str, str, str]:
    """Kind, headline, and what there is to add."""
    kind, headline = _EVENTS.get(happening.name, ("none", happening.name.replace("_", " ")))
    return kind, headline, _added(happening.name, happening.fields)


def _added(name: str, fields: Mapping[str, Any]) -> str:
    if name == "token_renewed":
        parts = [
            _TRIGGERS.get(str(fields.get("trigger")), ""),
            f"in {seconds(fields['seconds'])}" if _is_number(fields.get("seconds")) else "",
            f"generation {fields['generation']}" if "generation" in fields else "",
            _waited(fields.get("waiters")),
        ]
        return ", ".join(part for part in parts if part)
    parts = [
        str(fields.get("detail") or fields.get("error") or ""),
        f"generation {fields['generation']}" if "generation" in fields else "",
        f"route {fields['route']}" if "route" in fields else "",
        f"for {span(timedelta(seconds=fields['seconds']))}" if _is_number(fields.get("seconds")) else "",
        str(fields.get("reason") or "").replace("_", " ") if "detail" not in fields else "",
        f"restart needed for {fields['restart_needed']}"
        if fields.get("restart_needed") not in (None, "[]")
        else "",
    ]
    return ", ".join(part for part in parts if part)


def _waited(waiters: object) -> str:
    if not isinstance(waiters, int) or not waiters:
        return ""
    return f"{waiters:,} {'request' if waiters == 1 else 'requests'} waited"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


# -- times -------------------------------------------------------------------------------------------------------------


def moment(iso: object) -> datetime | None:
    """What ``Accounts.status`` says as ISO 8601, in UTC; None where there is nothing or nonsense."""
    if not iso:
        return None
    try:
        found = datetime.fromisoformat(str(iso))
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def span(delta: timedelta) -> str:
    """``38 min``, ``2 h``, ``3 d``."""
    length = abs(delta.total_seconds())
    sizes = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next(((size, unit) for size, unit in sizes if length >= 2 * size), (1, "s"))
    return f"{length / size:.0f} {unit}"


def distance(at: datetime, now: datetime) -> str:
    """``in 38 min``, ``2 h ago``, ``now``."""
    if abs((at - now).total_seconds()) < 0.5:
        return "now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def seconds(length: float) -> str:
    """``0.4 ms``, ``83 ms``, ``1.2 s``."""
    if length < 0.00005:
        return "<0.1 ms"
    if length < 0.0095:
        return f"{length * 1000:.1f} ms"
    return f"{length * 1000:.0f} ms" if length < 1 else f"{length:.1f} s"
