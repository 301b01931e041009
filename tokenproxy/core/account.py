"""
The life of an account, as a table.

Rule: a state changes here or nowhere. Shells report what happened; this module says what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final


class State(Enum):
    NEW = "new"
    """Configured, and nobody has logged in or imported a token yet."""
    OK = "ok"
    DEGRADED = "degraded"
    """The last renewal failed for now; a token that still lives goes on being used."""
    LOGIN_REQUIRED = "login_required"
    """The provider ended the grant, or we may not use it any more; a person must log in."""
    MISCONFIGURED = "misconfigured"
    """The provider refuses our client registration; the operator must change the config."""
    IN_DOUBT = "in_doubt"
    """A renewal was sent and its answer never came; the stored refresh token may be spent."""


class Event(Enum):
    ADOPTED = "adopted"
    """A login or an import brought a token set."""
    RENEWED = "renewed"
    PROVIDER_DOWN = "provider_down"
    """No usable answer, and certainly nothing was spent; or a rate limit."""
    ANSWER_LOST = "answer_lost"
    """Sent, and no answer came."""
    REFUSED = "refused"
    """The provider says that the grant is over."""
    REGISTRATION_REFUSED = "registration_refused"
    """The provider says that client id, secret, scope or grant type are wrong."""
    REGISTRATION_CHANGED = "registration_changed"
    """The config now names another token endpoint or client than the one that obtained the tokens."""
    CONFIG_CHANGED = "config_changed"
    """A reload brought another registration's settings, so that it is worth trying again."""
    REBOUND = "rebound"
    """The operator said that the stored tokens belong to the registration of the config."""
    FORGOTTEN = "forgotten"


class Reason(Enum):
    """Why an account is in its state; a closed list, shown by ``status`` and in ``Tokenproxy-Error`` details."""

    NONE = ""
    NOT_LOGGED_IN = "not_logged_in"
    REFUSED = "refused"
    """``invalid_grant`` or what the provider calls it: revoked, expired or spent."""
    ROTATION_LOST = "rotation_lost"
    """Refused right after a renewal whose answer was lost: the rotated token is gone."""
    NO_REFRESH_TOKEN = "no_refresh_token"  # noqa: S105 - a reason, not a secret
    REGISTRATION_CHANGED = "registration_changed"
    GRANT_CHANGED = "grant_changed"
    """The config now lets the account obtain its tokens by itself, and a person's login is in its place."""
    CLIENT_REFUSED = "client_refused"
    """``invalid_client``, ``unauthorized_client``."""
    REQUEST_REFUSED = "request_refused"
    """``invalid_scope``, ``invalid_request``, ``unsupported_grant_type``, a redirect: our request is wrong for them."""
    PROVIDER_DOWN = "provider_down"
    RATE_LIMITED = "rate_limited"
    TOO_EARLY = "too_early"
    """The provider renews only shortly before expiry (Exact Online)."""
    ANSWER_LOST = "answer_lost"
    CREDENTIALS_REFUSED = "credentials_refused"
    """``invalid_grant`` to an account that needs no person: its password, assertion or subject token is not taken."""
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a reason, not a secret
    """An upstream refused a token that is not ours to renew, and its source still gives the same one."""
    SOURCE_FAILED = "source_failed"
    """The file, command or variable that a token comes from gives none."""
    BAD_ANSWER = "bad_answer"
    """HTML, an empty answer, no usable token in it."""
    STORE_FAILED = "store_failed"
    """Issued by the provider, not yet taken by the store."""


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.NEW: {
        Event.ADOPTED: State.OK,
        Event.FORGOTTEN: State.NEW,
    },
    State.OK: {
        Event.ADOPTED: State.OK,
        Event.RENEWED: State.OK,
        Event.PROVIDER_DOWN: State.DEGRADED,
        Event.ANSWER_LOST: State.IN_DOUBT,
        Event.REFUSED: State.LOGIN_REQUIRED,
        Event.REGISTRATION_REFUSED: State.MISCONFIGURED,
        Event.REGISTRATION_CHANGED: State.LOGIN_REQUIRED,
        Event.CONFIG_CHANGED: State.OK,
        Event.REBOUND: State.OK,
        Event.FORGOTTEN: State.NEW,
    },
    State.DEGRADED: {
        Event.ADOPTED: State.OK,
        Event.RENEWED: State.OK,
        Event.PROVIDER_DOWN: State.DEGRADED,
        Event.ANSWER_LOST: State.IN_DOUBT,
        Event.REFUSED: State.LOGIN_REQUIRED,
        Event.REGISTRATION_REFUSED: State.MISCONFIGURED,
        Event.REGISTRATION_CHANGED: State.LOGIN_REQUIRED,
        Event.CONFIG_CHANGED: State.DEGRADED,
        Event.REBOUND: State.OK,
        Event.FORGOTTEN: State.NEW,
    },
    State.LOGIN_REQUIRED: {
        Event.ADOPTED: State.OK,
        Event.RENEWED: State.OK,  # another replica was luckier, or the operator asked again
        Event.PROVIDER_DOWN: State.LOGIN_REQUIRED,
        Event.ANSWER_LOST: State.LOGIN_REQUIRED,
        Event.REFUSED: State.LOGIN_REQUIRED,
        Event.REGISTRATION_REFUSED: State.LOGIN_REQUIRED,
        Event.REGISTRATION_CHANGED: State.LOGIN_REQUIRED,
        Event.CONFIG_CHANGED: State.LOGIN_REQUIRED,
        Event.REBOUND: State.OK,
        Event.FORGOTTEN: State.NEW,
    },
    State.MISCONFIGURED: {
        Event.ADOPTED: State.OK,
        Event.RENEWED: State.OK,
        Event.PROVIDER_DOWN: State.DEGRADED,
        Event.ANSWER_LOST: State.IN_DOUBT,
        Event.REFUSED: State.LOGIN_REQUIRED,
        Event.REGISTRATION_REFUSED: State.MISCONFIGURED,
        Event.REGISTRATION_CHANGED: State.LOGIN_REQUIRED,
        Event.CONFIG_CHANGED: State.DEGRADED,
        Event.REBOUND: State.OK,
        Event.FORGOTTEN: State.NEW,
    },
    State.IN_DOUBT: {
        Event.ADOPTED: State.OK,
        Event.RENEWED: State.OK,
        Event.PROVIDER_DOWN: State.IN_DOUBT,
        Event.ANSWER_LOST: State.IN_DOUBT,
        Event.REFUSED: State.LOGIN_REQUIRED,
        Event.REGISTRATION_REFUSED: State.MISCONFIGURED,
        Event.REGISTRATION_CHANGED: State.LOGIN_REQUIRED,
        Event.CONFIG_CHANGED: State.IN_DOUBT,
        Event.REBOUND: State.IN_DOUBT,
        Event.FORGOTTEN: State.NEW,
    },
}


_BRING_NONE: Final = frozenset({Event.CONFIG_CHANGED})
_TELL_AS_BEFORE: Final[Mapping[State, frozenset[Event]]] = {
    # What an operator's refresh runs into does not change why a person must log in.
    State.LOGIN_REQUIRED: _BRING_NONE | {Event.PROVIDER_DOWN, Event.ANSWER_LOST, Event.REGISTRATION_REFUSED},
    State.IN_DOUBT: _BRING_NONE | {Event.REBOUND},
}
"""State that an event leads to -> events that bring no reason of their own there."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An account's state with what led to it; stored beside the tokens."""

    state: State = State.NEW
    reason: Reason = Reason.NOT_LOGGED_IN
    since: datetime | None = None
    """UTC, when this state began."""
    fails: int = 0
    """Renewals that failed in a row."""
    error: str = ""
    """What the provider said, cut and without secrets."""
    retry_at: datetime | None = None
    """UTC, before which no renewal is tried; None: at once."""


AT_EASE: Final = Standing(State.OK, Reason.NONE)
"""Where an account begins that needs no person: nobody need do anything, and the first use obtains a token."""


def advance(
    standing: Standing,
    event: Event,
    *,
    now: datetime,
    reason: Reason = Reason.NONE,
    error: str = "",
    retry_at: datetime | None = None,
) -> Standing:
    """What an event makes of a standing; an event that the table does not know for this state changes nothing."""
    state = TRANSITIONS[standing.state].get(event)
    if state is None:
        return standing
    good = event in {Event.ADOPTED, Event.RENEWED, Event.REBOUND, Event.FORGOTTEN}
    if event is Event.FORGOTTEN:
        reason = Reason.NOT_LOGGED_IN
    if event in _TELL_AS_BEFORE.get(state, _BRING_NONE):
        reason, error = standing.reason, standing.error
    return Standing(
        state=state,
        reason=reason,
        since=standing.since if state is standing.state and standing.since else now,
        fails=0 if good or event is Event.CONFIG_CHANGED else standing.fails + 1,
        error="" if good else error,
        retry_at=retry_at,
    )
