"""
How a token set is obtained: one generator per grant, and the exact wire form of a token request.

A grant yields steps and is sent ``Reply``s, so that it is tested by hand and without a network (the shape is httpx's
``auth_flow``). ``oauth.endpoint`` performs the steps. What tells the grants apart elsewhere is in their ``Traits``.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from urllib.parse import quote, quote_plus

from tokenproxy import __version__
from tokenproxy.core.account import Event, Reason
from tokenproxy.core.provider import AUTHORIZATION_CODE, Account, ClientAuth, Provider, TokenBody
from tokenproxy.core.replies import (
    Answer,
    Failure,
    Granted,
    Reply,
    read_answer,
    read_token,
    usable,
    without,
)
from tokenproxy.core.tokens import TokenSet


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One HTTP request to a provider, whole; nothing of it may be logged."""

    method: str
    url: str = field(repr=False)
    """Already percent-encoded, once."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class OriginRequest:
    """What lies at an origin (``file:...``, ``cmd:...``) now; comes back as the body of a ``Reply``."""

    origin: str = field(repr=False)
    """A command line may hold a secret of its own."""


Step = TokenRequest | OriginRequest


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


Flow = Generator[Step, Reply, Answer]
GRANTS: Final[dict[str, Callable[[Ask], Flow]]] = {}
TRAITS: Final[dict[str, Traits]] = {AUTHORIZATION_CODE: Traits()}
"""Every grant that an account may name in this version."""


def grant(
    name: str, traits: Traits | None = None
) -> Callable[[Callable[[Ask], Flow]], Callable[[Ask], Flow]]:
    """Register a grant under its name; with ``traits`` it is one that an account may name."""

    def register(flow: Callable[[Ask], Flow]) -> Callable[[Ask], Flow]:
        GRANTS[name] = flow
        if traits is not None:
            TRAITS[name] = traits
        return flow

    return register


def traits_of(account: Account) -> Traits:
    return TRAITS[account.grant]


def renewal(ask: Ask) -> Flow:
    """The flow that replaces what is held: a refresh, or the account's own grant once more (RFC 6749 section 4.4.3)."""
    if traits_of(ask.account).person:
        return GRANTS["refresh_token"](ask)
    if ask.held is not None and ask.held.refresh_token and not ask.outdated:
        return _refreshed_or_asked_again(ask, ask.held)
    return GRANTS[ask.account.grant](ask)


def _refreshed_or_asked_again(ask: Ask, held: TokenSet) -> Flow:
    """Where the provider's profile lets machines refresh: a refresh token that is refused ends nothing."""
    answer = yield from GRANTS["refresh_token"](ask)
    if isinstance(answer, Granted):
        return Granted(held.succeeded_by(answer.tokens))
    if answer.event is Event.REFUSED:
        return (yield from GRANTS[ask.account.grant](ask))
    return replace(answer, rotated=None)


@grant("refresh_token")
def refresh_token(ask: Ask) -> Flow:
    """RFC 6749 section 6."""
    if ask.held is None or ask.held.refresh_token is None:
        raise ValueError("a refresh needs a refresh token")
    provider = ask.account.provider
    scope = ask.held.scope_asked
    params = {"grant_type": "refresh_token", "refresh_token": ask.held.refresh_token}
    if provider.refresh_scope and scope:
        params["scope"] = scope
    params |= provider.refresh_params
    reply = yield from asked(
        ask.account,
        params,
        url=provider.refresh_url or provider.token_url,
        now=ask.now,
        dpop_key=ask.held.dpop_key,
    )
    return read_answer(reply, provider=provider, asked_at=ask.now, scope_asked=scope)


def _asked_again(ask: Ask, grant_type: str) -> Flow:
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
    reply = yield from asked(account, params, url=account.provider.token_url, now=ask.now)
    answer = read_answer(reply, provider=account.provider, asked_at=ask.now, scope_asked=account.scope)
    if isinstance(answer, Failure):
        return replace(answer, text=without(answer.text, shown), rotated=None)
    if account.provider.machine_refresh:
        return answer
    return Granted(replace(answer.tokens, refresh_token=None, refresh_expires_at=None))


@grant("client_credentials", Traits(person=False))
def client_credentials(ask: Ask) -> Flow:
    """RFC 6749 section 4.4."""
    return _asked_again(ask, "client_credentials")


@grant("password", Traits(person=False))
def password(ask: Ask) -> Flow:
    """RFC 6749 section 4.3, which RFC 9700 section 2.4 forbids: only where the account says ``allow_password``."""
    return _asked_again(ask, "password")


@grant("token_exchange", Traits(person=False))
def token_exchange(ask: Ask) -> Flow:
    """RFC 8693; the subject token is read anew each time, since it lives no longer than ours."""
    return _asked_again(ask, "urn:ietf:params:oauth:grant-type:token-exchange")


@grant("jwt_bearer", Traits(person=False))
def jwt_bearer(ask: Ask) -> Flow:
    """RFC 7523 section 2.1, with an assertion that somebody else signs and that is read anew each time."""
    return _asked_again(ask, "urn:ietf:params:oauth:grant-type:jwt-bearer")


@grant("static", Traits(person=False, endpoint=False))
def static(ask: Ask) -> Flow:
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
def file(ask: Ask) -> Flow:
    """A token in a file that another program keeps fresh."""
    return _found(ask)


@grant("command", Traits(person=False, endpoint=False))
def command(ask: Ask) -> Flow:
    """A token that a command prints."""
    return _found(ask)


def _found(ask: Ask) -> Flow:
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


def validate_request(account: Account, tokens: TokenSet) -> TokenRequest:
    """The call that tells whether an access token lives (Deskera: GET with ``x-access-token``)."""
    provider = account.provider
    if provider.validate is None:
        raise ValueError(f"{provider.name} has no validate call")
    value = provider.inject.value.replace("{access_token}", tokens.access_token)
    headers = {provider.inject.header: value, "Accept": "application/json", "User-Agent": USER_AGENT}
    return TokenRequest(provider.validate.method, provider.validate.url, headers, None)


USER_AGENT: Final = f"tokenproxy/{__version__}"


def asked(
    account: Account,
    params: Mapping[str, str],
    *,
    url: str,
    now: datetime,  # noqa: ARG001 - what is signed carries it
    dpop_key: str | None = None,  # noqa: ARG001 - likewise
) -> Generator[Step, Reply, Reply]:
    """One call of the token endpoint's kind, with our client authentication; the answer as it came."""
    return (yield token_request(account, params, url=url))


def token_request(account: Account, params: Mapping[str, str], *, url: str) -> TokenRequest:
    """
    Put a grant's parameters where the provider wants them, with our client authentication.

    Empty parameters are left out and none is sent twice (RFC 6749 section 3.2); a query that the URL already has
    stays (section 3.2 again; Dropbox Sign's refresh URL is the token URL with ``?refresh``).
    """
    provider = account.provider
    merged = {**params, **provider.token_params}
    query: dict[str, str] = {}
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT, **provider.token_headers}
    _authenticate(account, merged, query, headers)
    named, query = _named(provider, merged), _named(provider, query)
    body: bytes | None = None
    if provider.token_method == "GET" or provider.token_body is TokenBody.QUERY:  # noqa: S105 - a method
        query = {**named, **query}
    elif provider.token_body is TokenBody.JSON:
        headers["Content-Type"] = "application/json"
        body = json.dumps(named, separators=(",", ":")).encode()
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = encode(named).encode()
    if query:
        url += ("&" if "?" in url else "?") + encode(query)
    return TokenRequest(provider.token_method, url, headers, body)


def _named(provider: Provider, params: Mapping[str, str]) -> dict[str, str]:
    """Under the provider's own names; what is empty or renamed to nothing is left out."""
    named = {provider.rename.get(name, name): value for name, value in params.items() if value}
    named.pop("", None)
    return named


def encode(params: Mapping[str, str]) -> str:
    """Form-encode with ``%20`` for a space: right in bodies and in URLs alike (Askara's guide, X)."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in params.items())


def _authenticate(
    account: Account, params: dict[str, str], query: dict[str, str], headers: dict[str, str]
) -> None:
    """Exactly one client authentication method per request (RFC 6749 section 2.3)."""
    registration, method = account.registration, account.provider.client_auth
    if method is ClientAuth.BASIC:  # form-encoded before base64, RFC 6749 section 2.3.1
        headers["Authorization"] = _basic(
            quote_plus(registration.client_id), quote_plus(registration.client_secret)
        )
    elif method is ClientAuth.BASIC_RAW:
        headers["Authorization"] = _basic(registration.client_id, registration.client_secret)
    elif method is ClientAuth.POST:
        params["client_id"] = registration.client_id
        params["client_secret"] = registration.client_secret
    elif method is ClientAuth.QUERY:
        query["client_id"] = registration.client_id
        query["client_secret"] = registration.client_secret
    elif method is ClientAuth.NONE:
        params["client_id"] = registration.client_id  # RFC 6749 section 3.2.1
    else:
        raise ValueError(f"client_auth {method.value} is not in this version")


def _basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")
