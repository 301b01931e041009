"""
How a token set is obtained: one generator per grant.

A grant yields steps and is sent ``Reply``s, so that it is tested by hand and without a network. ``oauth.endpoint``
performs the steps. What tells the grants apart elsewhere is in their ``Traits``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tokenproxy.core.account import Event, Reason
from tokenproxy.core.assertions import grant_assertion
from tokenproxy.core.places import place_of
from tokenproxy.core.provider import ACCESS_TOKEN, AUTHORIZATION_CODE, DEVICE_CODE, IMPLICIT, Account
from tokenproxy.core.replies import (
    Answer,
    Failure,
    Granted,
    read_answer,
    read_token,
    usable,
    without,
)
from tokenproxy.core.steps import Flow, KeyRequest, OriginRequest, SignRequest, Step, TokenRequest
from tokenproxy.core.token_request import asked, encode, for_refresh, proof_key, token_request
from tokenproxy.core.tokens import TokenSet

__all__ = [
    "GRANTS",
    "TRAITS",
    "Ask",
    "Flow",
    "KeyRequest",
    "OriginRequest",
    "SignRequest",
    "Step",
    "TokenRequest",
    "Traits",
    "asked",
    "can_renew",
    "encode",
    "grant",
    "proof_key",
    "renewal",
    "token_request",
    "traits_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a grant needs to know."""

    account: Account
    held: TokenSet | None
    now: datetime
    """UTC, taken before anything is sent (RFC 6749 section 5.1: lifetimes count from the answer)."""
    refused: bool = False
    """An upstream called the held access token dead."""
    outdated: bool = False
    """The config asks for other tokens than the held ones, which therefore cannot be refreshed into them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the rest of the program must know of a grant."""

    person: bool = True
    """Somebody logs in or imports, and a refresh token keeps it; False: tokens are asked for again, by itself."""
    endpoint: bool = True
    """Asks the provider's token endpoint; False: takes a token that somebody else made."""
    watched: bool = False
    """The token's origin is looked at every second, and read again when it was written anew."""


Grant = Callable[[Ask], Flow[Answer]]
GRANTS: Final[dict[str, Grant]] = {}
TRAITS: Final[dict[str, Traits]] = {
    AUTHORIZATION_CODE: Traits(),
    DEVICE_CODE: Traits(),
    IMPLICIT: Traits(endpoint=False),
}
"""Every grant that an account may name in this version."""


def grant(name: str, traits: Traits | None = None) -> Callable[[Grant], Grant]:
    """Register a grant under its name; with ``traits`` it is one that an account may name."""

    def register(flow: Grant) -> Grant:
        GRANTS[name] = flow
        if traits is not None:
            TRAITS[name] = traits
        return flow

    return register


def traits_of(account: Account) -> Traits:
    return TRAITS[account.grant]


def renewal(ask: Ask) -> Flow[Answer]:
    """The flow that replaces what is held: a refresh, or the account's own grant once more (RFC 6749 section 4.4.3)."""
    if traits_of(ask.account).person:
        return GRANTS["refresh_token"](ask)
    if ask.held is not None and ask.held.refresh_token and not ask.outdated:
        return _refreshed_or_asked_again(ask, ask.held)
    return GRANTS[ask.account.grant](ask)


def can_renew(account: Account, held: TokenSet) -> bool:
    """Whether there is anything to renew with, without a person."""
    if not traits_of(account).person:
        return True
    if account.provider.refresh_with == ACCESS_TOKEN:
        return bool(held.access_token)
    return held.refresh_token is not None


def _refreshed_or_asked_again(ask: Ask, held: TokenSet) -> Flow[Answer]:
    """Where the provider's profile lets machines refresh: a refresh token that is refused ends nothing."""
    answer = yield from GRANTS["refresh_token"](ask)
    if isinstance(answer, Granted):
        return Granted(held.succeeded_by(answer.tokens))
    if answer.event is Event.REFUSED:
        return (yield from GRANTS[ask.account.grant](ask))
    return replace(answer, rotated=None)


@grant("refresh_token")
def refresh_token(ask: Ask) -> Flow[Answer]:
    """RFC 6749 section 6."""
    held = ask.held
    if held is None or not can_renew(ask.account, held):
        raise ValueError("a refresh needs a refresh token")
    provider = ask.account.provider
    if provider.refresh_with == ACCESS_TOKEN:
        if held.expires_at is not None and held.expires_at <= ask.now:
            return Failure(Event.REFUSED, Reason.NO_REFRESH_TOKEN, "only a living access token renews itself")
        spent = {"access_token": held.access_token}
    else:
        spent = {"refresh_token": held.refresh_token or ""}
    params = {"grant_type": "refresh_token", **spent}
    if provider.refresh_scope and held.scope_asked:
        params["scope"] = held.scope_asked
    params |= provider.refresh_params
    try:
        url = place_of(provider.refresh_url or provider.token_url, provider, held.captured)
    except ValueError as wrong:
        return Failure(Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED, str(wrong))
    key = yield from proof_key(ask.account, held)
    reply = yield from asked(
        for_refresh(ask.account),
        params,
        url=url,
        now=ask.now,
        dpop_key=key,
    )
    return read_answer(reply, provider=provider, asked_at=ask.now, scope_asked=held.scope_asked, dpop_key=key)


def _asked_again(ask: Ask, grant_type: str, *, own_assertion: bool = False) -> Flow[Answer]:
    """
    A token request that needs nothing but what the config says, so that it is made anew whenever a token is needed.

    A refresh token in the answer is kept only where the profile says so (RFC 6749 section 4.4.3: it should not be
    there): asking again is as good, and cannot be lost to a rotation.
    """
    account = ask.account
    params = {"grant_type": grant_type, "scope": account.scope or "", **account.params}
    shown = []
    for name, origin in account.presented.items():
        found = yield OriginRequest(origin)
        value = usable(found.body.decode())
        if value is None:
            return Failure(
                Event.PROVIDER_DOWN, Reason.SOURCE_FAILED, f"what the {name} is read from holds no token"
            )
        params[name] = value
        shown.append(value)
    if own_assertion:
        signed = yield grant_assertion(account, now=ask.now)
        params["assertion"] = signed.body.decode()
        shown.append(params["assertion"])
    provider = account.provider
    key = yield from proof_key(account, ask.held)
    reply = yield from asked(account, params, url=provider.token_url, now=ask.now, dpop_key=key)
    answer = read_answer(reply, provider=provider, asked_at=ask.now, scope_asked=account.scope, dpop_key=key)
    if isinstance(answer, Failure):
        return replace(answer, text=without(answer.text, shown), rotated=None)
    if provider.machine_refresh:
        return answer
    return Granted(replace(answer.tokens, refresh_token=None, refresh_expires_at=None))


@grant("client_credentials", Traits(person=False))
def client_credentials(ask: Ask) -> Flow[Answer]:
    """RFC 6749 section 4.4."""
    return _asked_again(ask, "client_credentials")


@grant("password", Traits(person=False))
def password(ask: Ask) -> Flow[Answer]:
    """RFC 6749 section 4.3, which RFC 9700 section 2.4 forbids: only where the account says ``allow_password``."""
    return _asked_again(ask, "password")


@grant("token_exchange", Traits(person=False))
def token_exchange(ask: Ask) -> Flow[Answer]:
    """RFC 8693; the subject token is read anew each time, since it lives no longer than ours."""
    return _asked_again(ask, "urn:ietf:params:oauth:grant-type:token-exchange")


@grant("jwt_bearer", Traits(person=False))
def jwt_bearer(ask: Ask) -> Flow[Answer]:
    """RFC 7523 section 2.1: we sign the assertion where the account has a key, else somebody else does, and we read it."""
    own = bool(ask.account.registration.private_key) and "assertion" not in ask.account.presented
    return _asked_again(ask, "urn:ietf:params:oauth:grant-type:jwt-bearer", own_assertion=own)


@grant("static", Traits(person=False, endpoint=False))
def static(ask: Ask) -> Flow[Answer]:
    """A token from the config. Refused once, only the operator has another."""
    yield from ()
    token = ask.account.token
    if _same_again(ask, token):
        return Failure(
            Event.REGISTRATION_REFUSED,
            Reason.TOKEN_REFUSED,
            "the config still has the token that was refused",
        )
    return Granted(TokenSet(access_token=token, issued_at=ask.now))


@grant("file", Traits(person=False, endpoint=False, watched=True))
def file(ask: Ask) -> Flow[Answer]:
    """A token in a file that another program keeps fresh."""
    return _found(ask)


@grant("command", Traits(person=False, endpoint=False))
def command(ask: Ask) -> Flow[Answer]:
    """A token that a command prints."""
    return _found(ask)


def _found(ask: Ask) -> Flow[Answer]:
    """Whoever makes the token may be late, so each failure is one for now."""
    reply = yield OriginRequest(ask.account.token_from)
    tokens = read_token(reply.body.decode(), provider=ask.account.provider, now=ask.now)
    trouble = ""
    if tokens is None:
        trouble = "what is there is neither a token nor a token answer"
    elif tokens.expires_at is not None and tokens.expires_at <= ask.now:
        trouble = "the token there has expired"
    if tokens is None or trouble:
        return Failure(Event.PROVIDER_DOWN, Reason.SOURCE_FAILED, trouble)
    if _same_again(ask, tokens.access_token):
        return Failure(
            Event.PROVIDER_DOWN, Reason.TOKEN_REFUSED, "what is there is still the token that was refused"
        )
    return Granted(tokens)


def _same_again(ask: Ask, token: str) -> bool:
    return ask.refused and ask.held is not None and ask.held.access_token == token
