"""What a template is given: an account, a route or a request as it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from tokenproxy.admin.dashboard import words
from tokenproxy.admin.dashboard.drawing import Sparkline, left, sparkline
from tokenproxy.admin.dashboard.history import Happening, Hour, Seen
from tokenproxy.core.interfaces import Replica
from tokenproxy.core.problems import BODY_NOT_REPLAYABLE, PROBLEMS
from tokenproxy.core.provider import LOGIN_GRANTS
from tokenproxy.core.routes import Route
from tokenproxy.log import redact
from tokenproxy.metrics import Histogram

_LOGIN_HELPS: Final = frozenset({"new", "login_required"})
_LOW: Final = 15
"""Per cent of a token's life from which on its bar says so."""


@dataclass(frozen=True, slots=True)
class Time:
    iso: str
    clock: str
    """``2026-11-22 15:04 UTC``."""
    distance: str
    """``in 38 min``, ``2 h ago``."""
    span: str
    """``38 min``."""


def time_of(at: datetime | None, now: datetime) -> Time | None:
    if at is None:
        return None
    return Time(
        at.isoformat(timespec="seconds"),
        f"{at:%Y-%m-%d %H:%M:%S} UTC",
        words.distance(at, now),
        words.span(at - now),
    )


@dataclass(frozen=True, slots=True)
class AccountView:
    name: str
    address: str
    identity: str
    provider: str
    grant: str
    state: str
    kind: str
    """Of its state: ``good``, ``warn``, ``bad`` or ``none``."""
    state_words: str
    detail: str
    """What is wrong; empty where it is well."""
    next_step: str
    log_in: str
    """Address of the page that logs it in, where that is what helps."""
    expires: Time | None
    left: int | None
    """Per cent of the access token's life."""
    low: bool
    live: bool
    last: bool
    """Nothing renews it: it is used up while it lasts and its upstreams take it."""
    renewed: Time | None
    since: Time | None
    retry: Time | None
    login_ends: Time | None
    generation: int
    scope: str
    in_flight: bool
    unstored: bool
    renewable: bool | None
    person: bool
    """Somebody logs it in."""

    @property
    def mends(self) -> bool:
        """Whether it is not well, and nobody needs to do anything."""
        return self.kind == "warn"


def account_view(status: Mapping[str, Any], now: datetime) -> AccountView:
    name, state = str(status["account"]), str(status.get("state", ""))
    kind, said = words.state(state)
    grant = str(status.get("grant") or "")
    expires, renewed = words.moment(status.get("expires_at")), words.moment(status.get("renewed_at"))
    last = state == "login_required"
    share = left(expires, renewed, now) if not last else None
    person = grant in LOGIN_GRANTS or not grant
    return AccountView(
        name=name,
        address=address_of(name),
        identity=str(status.get("identity") or ""),
        provider=str(status.get("provider") or ""),
        grant=grant,
        state=state,
        kind=kind,
        state_words=said,
        detail="" if state == "ok" else sentence(redact(str(status.get("detail") or ""))),
        next_step=redact(str(status.get("next_step") or "")),
        log_in=f"/log-in?account={quote(name, safe='')}" if person and state in _LOGIN_HELPS else "",
        expires=time_of(expires, now),
        left=share,
        low=share is not None and share < _LOW,
        live=bool(status.get("live")),
        last=last,
        renewed=time_of(renewed, now),
        since=time_of(words.moment(status.get("since")), now),
        retry=time_of(words.moment(status.get("retry_at")), now),
        login_ends=time_of(words.moment(status.get("refresh_expires_at")), now),
        generation=int(status.get("generation") or 0),
        scope=str(status.get("scope") or ""),
        in_flight=bool(status.get("in_flight")),
        unstored=bool(status.get("unstored")),
        renewable=status.get("renewable"),
        person=person,
    )


def address_of(account: str) -> str:
    return f"/accounts/{quote(account, safe='/@')}"


def sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", "!", "?")) else ".")


@dataclass(frozen=True, slots=True)
class EventView:
    at: Time
    kind: str
    headline: str
    detail: str


def event_view(happening: Happening, now: datetime) -> EventView:
    kind, headline, detail = words.event(happening)
    at = time_of(happening.at, now)
    assert at is not None  # noqa: S101 - it was given
    return EventView(at, kind, headline, detail)


@dataclass(frozen=True, slots=True)
class RequestView:
    at: Time
    route: str
    account: str
    account_address: str
    caller: str
    method: str
    path: str
    status: str
    kind: str
    code: str
    why: str
    """Of a code of ours: what it means."""
    seconds: str
    upstream: str
    attempts: int


def request_view(seen: Seen, at: datetime, now: datetime) -> RequestView:
    shown = time_of(at, now)
    assert shown is not None  # noqa: S101 - it was given
    return RequestView(
        at=shown,
        route=seen.route,
        account=seen.account,
        account_address=address_of(seen.account) if seen.account else "",
        caller=seen.caller,
        method=seen.method,
        path=redact(seen.path),
        status=str(seen.status) if seen.status else "left",
        kind=_kind(seen),
        code=seen.code,
        why=_why(seen),
        seconds=words.seconds(seen.seconds),
        upstream=words.seconds(seen.upstream_seconds) if seen.attempts else "",
        attempts=seen.attempts,
    )


def _kind(seen: Seen) -> str:
    if seen.code or seen.status >= 500:
        return "bad"
    return "warn" if seen.status >= 400 or not seen.status else "good"


def _why(seen: Seen) -> str:
    if seen.code == BODY_NOT_REPLAYABLE:
        return "The token was renewed; the request's body could not be sent again"
    if seen.code in PROBLEMS:
        return PROBLEMS[seen.code].title
    return "" if seen.status else "The caller left before any answer"


@dataclass(frozen=True, slots=True)
class RouteView:
    name: str
    where: str
    upstream: str
    account: str
    spark: Sparkline


def route_view(route: Route, hour: Hour) -> RouteView:
    upstream = route.upstream
    return RouteView(
        name=route.name,
        where=f"{route.host}{route.prefix}",
        upstream=upstream.template or f"{upstream.scheme}://{upstream.authority}{upstream.path}",
        account=route.account,
        spark=sparkline(hour),
    )


@dataclass(frozen=True, slots=True)
class OperationView:
    """One of the store's operations since the start."""

    name: str
    count: int
    mean: str


def operation_view(name: str, seconds: Histogram) -> OperationView:
    count = sum(seconds.counts)
    return OperationView(name, count, words.seconds(seconds.total / count) if count else "")


@dataclass(frozen=True, slots=True)
class ReplicaView:
    name: str
    version: str
    started: Time | None
    seen: Time | None


def replica_view(replica: Replica, now: datetime) -> ReplicaView:
    return ReplicaView(
        replica.name, replica.version, time_of(replica.started_at, now), time_of(replica.seen_at, now)
    )


@dataclass(frozen=True, slots=True)
class Count:
    """How many logins are in a state; a filter."""

    state: str
    kind: str
    words: str
    count: int


def counts(states: Mapping[str, int]) -> Sequence[Count]:
    """Those first that need somebody most."""
    known = [*words.ORDER, *sorted(set(states) - set(words.ORDER))]
    return [Count(name, *words.state(name), count=states[name]) for name in known if states.get(name)]
