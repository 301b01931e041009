"""
Logins without a browser here (RFC 8628): what a person types in elsewhere, and how often we ask meanwhile.

Who waits between two polls, and for how long at most, is ``oauth.logins``' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final
from urllib.parse import urlsplit

from tokenproxy.core.account import Event, Reason
from tokenproxy.core.provider import DEVICE_CODE, Account
from tokenproxy.core.replies import Answer, Failure, decode, error_of, keepable, read_answer, refusal
from tokenproxy.core.steps import Flow
from tokenproxy.core.token_request import as_form, asked, proof_key

INTERVAL: Final = 5.0
"""Seconds between two polls where the provider names none (RFC 8628 section 3.2)."""
SHORTEST_INTERVAL: Final = 1.0
"""A provider cannot make us ask it as fast as we can."""
LONGEST_INTERVAL: Final = 60.0
LONGEST_DEVICE_LOGIN: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLogin:
    """What a person types in elsewhere, and what we ask with meanwhile."""

    device_code: str = field(repr=False)
    user_code: str = field(repr=False)
    verification_uri: str
    verification_uri_complete: str = field(repr=False)
    """Holds the user code; "" where the provider gives none."""
    interval: float
    """Seconds."""
    expires_in: float
    """Seconds."""
    dpop_key: str | None = field(default=None, repr=False)
    """What the tokens will be bound to where the provider binds them (RFC 9449)."""


class Poll(Enum):
    """What a poll brought that was no tokens yet."""

    PENDING = "authorization_pending"
    SLOW_DOWN = "slow_down"
    DENIED = "access_denied"
    EXPIRED = "expired_token"
    UNANSWERED = "unanswered"
    """The provider could not be reached, or did not answer in time, or says that it has trouble."""


_PACES: Final[Mapping[Poll, tuple[float, float]]] = {
    Poll.PENDING: (1.0, 0.0),
    Poll.SLOW_DOWN: (1.0, 5.0),  # "for this and all subsequent requests", RFC 8628 section 3.5
    Poll.UNANSWERED: (2.0, 0.0),  # "exponential backoff", the same section
}


def next_interval(interval: float, poll: Poll) -> float:
    """Seconds until the next poll, and after it."""
    times, more = _PACES[poll]
    longest = max(LONGEST_INTERVAL, interval)
    return min(interval * times, longest) + more


def device_authorization(account: Account, *, now: datetime) -> Flow[DeviceLogin | Failure]:
    """Begin a login by device (RFC 8628 section 3.1)."""
    provider = account.provider
    params = {"client_id": account.registration.client_id, "scope": account.scope or ""}
    key = yield from proof_key(account)
    reply = yield from asked(as_form(account), params, url=provider.device_url, now=now)
    refused = refusal(reply, provider=provider)
    if refused is not None:
        return refused
    data = decode(reply, provider.answer) or {}
    device_code, user_code = keepable(data.get("device_code")), _shown(data.get("user_code"))
    # verification_url is Google's, from before the RFC
    verification_uri = _web_address(data.get("verification_uri") or data.get("verification_url"))
    if not (device_code and user_code and verification_uri):
        text = f"status {reply.status} without what a login by device needs"
        return Failure(Event.PROVIDER_DOWN, Reason.BAD_ANSWER, text)
    return DeviceLogin(
        device_code=device_code,
        user_code=user_code,
        verification_uri=verification_uri,
        verification_uri_complete=_web_address(data.get("verification_uri_complete")),
        interval=min(
            max(_positive(data.get("interval"), default=INTERVAL), SHORTEST_INTERVAL), LONGEST_DEVICE_LOGIN
        ),
        dpop_key=key,
        expires_in=min(_positive(data.get("expires_in"), default=600.0), LONGEST_DEVICE_LOGIN),
    )


def device_poll(
    account: Account, device_code: str, *, now: datetime, dpop_key: str | None = None
) -> Flow[Answer | Poll]:
    """Ask once whether the person has said yes (RFC 8628 section 3.4)."""
    provider = account.provider
    params = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": device_code,
        "client_id": account.registration.client_id,
    }
    reply = yield from asked(account, params, url=provider.token_url, now=now, dpop_key=dpop_key)
    code, _ = error_of(decode(reply, provider.answer) or {})  # with any status: GitHub says it with 200
    said = next((poll for poll in Poll if poll.value == code.lower()), None)
    if said is not None:
        return said
    answer = read_answer(reply, provider=provider, asked_at=now, scope_asked=account.scope, dpop_key=dpop_key)
    if isinstance(answer, Failure) and answer.event is Event.PROVIDER_DOWN:
        return Poll.UNANSWERED
    return answer


def by_device(account: Account) -> bool:
    """Whether the account's logins are always by device."""
    return account.grant == DEVICE_CODE


def _shown(value: Any) -> str:
    """A code that a person reads off: printable ASCII, and not longer than anybody would type."""
    text = keepable(value) or ""
    return text if len(text) <= 64 else ""


def _web_address(value: Any) -> str:
    """An address that may be shown, opened and made a QR code of; "" for anything that a browser would run."""
    text = keepable(value) or ""
    if len(text) > 2048 or " " in text:
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    sound = parts.scheme in {"https", "http"} and parts.hostname and "@" not in parts.netloc
    return text if sound else ""


def _positive(value: Any, *, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return number if 0 < number < 1e9 else default
