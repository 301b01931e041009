"""
How a person logs in: the address that the browser is sent to, what it brings back, and what that is worth.

An attempt is a value; who keeps it, for how long and for which browser is ``oauth.logins``' business.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from tokenproxy.core.account import Event, Reason, Standing, State
from tokenproxy.core.expressions import LONGEST_TEXT, caught
from tokenproxy.core.places import place_of
from tokenproxy.core.provider import (
    IMPLICIT,
    PKCE,
    Account,
    Callback,
    CallbackMode,
    CallbackPath,
)
from tokenproxy.core.pushed import pushed
from tokenproxy.core.replies import (
    Answer,
    Failure,
    Granted,
    Reply,
    captured_value,
    decode,
    error_of,
    first,
    jwt_claims,
    keepable,
    read_answer,
)
from tokenproxy.core.steps import Flow
from tokenproxy.core.token_request import asked, encode, proof_key
from tokenproxy.core.tokens import TokenSet

LONGEST_ADDRESS: Final = LONGEST_TEXT
MOST_PARAMETERS: Final = 100
"""Of a landing address; 16 KiB hold 8,000, which take as long to read as fifty requests take to pass on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one login asked for, and must find again in what comes back."""

    account: Account
    """The table as it was when the login began."""
    redirect_uri: str = field(repr=False)
    """Our own callback address; of the random kind it holds the key."""
    state: str = field(default="", repr=False)
    """128 bits at least; with a callback path of the random kind it is in the path, and not sent as a parameter."""
    verifier: str = field(default="", repr=False)
    """PKCE's (RFC 7636 section 4.1), 43 characters; unused where the profile says ``none``."""
    nonce: str = field(default="", repr=False)
    dpop_key: str | None = field(default=None, repr=False)
    """What a pushed request was proven with; the tokens are bound to the same (RFC 9449 section 10.1)."""


# -- the way there -----------------------------------------------------------------------------------------------------


def callback_address(public_url: str, account: Account, *, key: str = "*") -> str:
    """Where a browser comes back to; of the random kind it ends in the attempt's own key."""
    callback, base = account.provider.callback, public_url.rstrip("/")
    if callback.path is CallbackPath.SHARED:
        return f"{base}/callback"
    address = f"{base}/callback/{quote(account.name, safe='')}"
    return f"{address}/{key}" if callback.path is CallbackPath.RANDOM else address


def authorization_parameters(attempt: Attempt) -> dict[str, str]:
    """Of an authorization request (RFC 6749 section 4.1.1), by their standard names; none is empty (section 3.1)."""
    account = attempt.account
    provider = account.provider
    params = {
        "client_id": account.registration.client_id,
        "redirect_uri": attempt.redirect_uri if provider.redirect_uri else "",
        "scope": account.scope or "",
        "state": "" if provider.callback.path is CallbackPath.RANDOM else attempt.state,
        "response_type": "token" if account.grant == IMPLICIT else "code",
        **_challenge(attempt),
    }
    params |= {
        name: value.replace("{nonce}", attempt.nonce) for name, value in provider.authorize_params.items()
    }
    return {name: value for name, value in params.items() if value}


def _challenge(attempt: Attempt) -> dict[str, str]:
    """RFC 7636 section 4.3; an implicit login exchanges nothing that could be challenged."""
    pkce = attempt.account.provider.pkce
    if pkce is PKCE.NONE or attempt.account.grant == IMPLICIT:
        return {}
    challenge = attempt.verifier
    if pkce is PKCE.S256:
        challenge = urlsafe_b64encode(sha256(challenge.encode()).digest()).decode().rstrip("=")
    return {"code_challenge": challenge, "code_challenge_method": pkce.value}


def authorization_address(attempt: Attempt) -> str:
    """Where the browser goes, with a space as ``%20`` (Askara's guide)."""
    provider = attempt.account.provider
    names = {**provider.rename, **provider.authorize_rename}
    params = {names.get(name, name): value for name, value in authorization_parameters(attempt).items()}
    params.pop("", None)
    return _extended(provider.authorize_url, params)


def _extended(url: str, params: Mapping[str, str]) -> str:
    """
    An address with further parameters; what its query has already stays and is sent once (RFC 6749 section 3.1).

    Where a page routes by its fragment (``#/oauth/authorize`` at Apollo), the parameters follow in the fragment.
    """
    route = url.partition("#")[2] or url
    given = {name for name, _ in parse_qsl(route.partition("?")[2], keep_blank_values=True)}
    query = encode({name: value for name, value in params.items() if name not in given})
    if not query:
        return url
    return url + ("" if route.endswith(("?", "&")) else "&" if "?" in route else "?") + query


def pushed_address(attempt: Attempt, *, now: datetime) -> Flow[str | Failure]:
    """The address after the parameters went ahead of the browser (RFC 9126); use it at once, and once."""
    account = attempt.account
    provider = account.provider
    params = authorization_parameters(attempt)
    found = yield from pushed(account, params, now=now, dpop_key=attempt.dpop_key)
    if isinstance(found, Failure):
        return found
    names = {**provider.rename, **provider.authorize_rename}
    client = names.get("client_id") or "client_id"
    return _extended(provider.authorize_url, {client: account.registration.client_id, "request_uri": found})


# -- the way back ------------------------------------------------------------------------------------------------------


class Why(Enum):
    """Why a landing brings nothing; a closed list, told to people by ``oauth.landings``."""

    DOUBLED = "callback_doubled"
    ISS_MISSING = "iss_missing"
    ISS_WRONG = "iss_wrong"
    REFUSED = "provider_refused"
    """``error=`` instead of a code."""
    NO_CODE = "code_missing"
    NO_MATCH = "code_not_matched"
    """The profile's expression does not match the landing address."""
    CAPTURE = "callback_incomplete"
    """A value that the profile captures is not there, or is nothing that we would put into an address."""


@dataclass(frozen=True, slots=True)
class Unwelcome:
    """What a landing brings instead of a code."""

    why: Why
    said: str = ""
    """What the provider said, one line of printable text."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What a landing brings."""

    value: str = field(repr=False)
    """The code, or what the profile's expression caught; the access token of an implicit login."""
    parameters: Mapping[str, str] = field(repr=False)
    captured: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A landing address, read."""

    address: str = field(repr=False)
    parameters: Mapping[str, str] = field(repr=False)
    doubled: frozenset[str]
    """Names that came with two values."""

    @property
    def text(self) -> str:
        """The whole address, percent-decoded once: what expressions look at."""
        return unquote(self.address).encode(errors="replace").decode()  # no lone surrogates, which none takes


def mode_of(account: Account) -> CallbackMode:
    """How the answer comes: an implicit one in the fragment, unless it is posted (RFC 6749 section 4.2.2)."""
    mode = account.provider.callback.mode
    if account.grant == IMPLICIT and mode is CallbackMode.QUERY:
        return CallbackMode.FRAGMENT
    return mode


def too_long(address: str) -> bool:
    """Whether it is more than any provider sends: nobody else is to wait while it is read."""
    return len(address) > LONGEST_ADDRESS or address.count("&") >= MOST_PARAMETERS


def arrival(address: str, mode: CallbackMode) -> Arrival:
    """Read a landing address, undecoded and of whatever a stranger wrote; the fragment counts only in its mode."""
    whole, _, fragment = address.partition("#")
    pairs = parse_qsl(whole.partition("?")[2], keep_blank_values=True)
    if mode is CallbackMode.FRAGMENT:
        pairs += parse_qsl(fragment.lstrip("/?"), keep_blank_values=True)
    parameters: dict[str, str] = {}
    doubled = {name for name, value in pairs if parameters.setdefault(name, value) != value}
    return Arrival(address, parameters, frozenset(doubled))


def state_in(landed: Arrival, callback: Callback) -> str:
    """The state that a landing presents; "" where it has none."""
    if callback.key:
        return caught(callback.key, "key", landed.text) or ""
    return "" if callback.state in landed.doubled else landed.parameters.get(callback.state, "")


def read_landing(attempt: Attempt, landed: Arrival) -> Caught | Unwelcome:
    """What a landing brings whose state is the attempt's: ``iss`` is looked at first, then ``error``, then the code."""
    objection = _objection(attempt, landed)
    if objection is not None:
        return objection
    provider, given = attempt.account.provider, landed.parameters
    callback = provider.callback
    if callback.token:
        value = caught(callback.token, "token", landed.text)
    else:
        value = given.get("access_token" if attempt.account.grant == IMPLICIT else callback.code)
    value = keepable(value)
    if value is None:
        return Unwelcome(Why.NO_MATCH if callback.token else Why.NO_CODE)
    try:
        captured = {
            name: captured_value(name, given.get(parameter, ""), provider.captured_hosts)
            for name, parameter in callback.captured.items()
        }
    except ValueError:
        return Unwelcome(Why.CAPTURE)
    return Caught(value, given, captured)


def _objection(attempt: Attempt, landed: Arrival) -> Unwelcome | None:
    """Why a landing is not even asked for its code."""
    provider, given = attempt.account.provider, landed.parameters
    callback = provider.callback
    if landed.doubled & {"iss", "error", callback.code, *callback.captured.values()}:
        return Unwelcome(Why.DOUBLED)
    iss = given.get("iss")
    if iss is None and callback.iss:
        return Unwelcome(Why.ISS_MISSING)
    if iss is not None and iss != provider.issuer and (provider.issuer or callback.iss):
        return Unwelcome(Why.ISS_WRONG)  # as plain strings (RFC 9207 section 2.4)
    if given.get("error"):
        code, description = error_of(given)
        return Unwelcome(Why.REFUSED, f"{code}: {description}" if description else code)
    return None


# -- what it is worth --------------------------------------------------------------------------------------------------


def exchange(attempt: Attempt, brought: Caught, *, now: datetime) -> Flow[Answer]:
    """A code for tokens (RFC 6749 section 4.1.3); whoever performs it sends the code once and never again."""
    account = attempt.account
    provider = account.provider
    params = {
        "grant_type": "authorization_code",
        "code": brought.value,
        "redirect_uri": attempt.redirect_uri if provider.redirect_uri else "",
        "scope": (account.scope or "") if provider.exchange_scope else "",
        "code_verifier": "" if provider.pkce is PKCE.NONE else attempt.verifier,
        **provider.exchange_params,
    }
    try:
        url = place_of(provider.token_url, provider, brought.captured)
    except ValueError as wrong:
        return Failure(Event.REGISTRATION_REFUSED, Reason.REQUEST_REFUSED, str(wrong))
    key = attempt.dpop_key or (yield from proof_key(account))
    reply = yield from asked(account, params, url=url, now=now, dpop_key=key)
    answer = read_answer(reply, provider=provider, asked_at=now, scope_asked=account.scope, dpop_key=key)
    return _completed(attempt, reply, answer, brought.captured)


def _fits(attempt: Attempt, reply: Reply) -> bool:
    """Whether an id token, where one came and names a nonce, is for this login (OpenID Connect Core 3.1.3.7)."""
    sent = any("{nonce}" in value for value in attempt.account.provider.authorize_params.values())
    fields = attempt.account.provider.answer
    nonce = jwt_claims(str(first(decode(reply, fields) or {}, fields.id_token))).get("nonce")
    return not sent or nonce is None or nonce == attempt.nonce


def implicit(attempt: Attempt, brought: Caught, *, now: datetime) -> Answer:
    """The token that came in the browser's address itself (RFC 6749 section 4.2.2), read as a token answer is."""
    account = attempt.account
    fields = account.provider.answer
    data = {
        name: value
        for name, value in brought.parameters.items()
        if name not in {*fields.refresh_token, "error"}
    }
    data["access_token"] = brought.value
    reply = Reply(200, {}, json.dumps(data).encode())
    provider = replace(account.provider, answer=replace(fields, access_token=("access_token",)))
    answer = read_answer(reply, provider=provider, asked_at=now, scope_asked=account.scope)
    return _completed(attempt, reply, answer, brought.captured)


def _completed(attempt: Attempt, reply: Reply, answer: Answer, captured: Mapping[str, str]) -> Answer:
    """The answer with what its landing brought beside it, if it is this login's."""
    if isinstance(answer, Granted) and not _fits(attempt, reply):
        return Failure(Event.REFUSED, Reason.BAD_ANSWER, "the id token belongs to another login (its nonce)")
    if isinstance(answer, Failure) or not captured:
        return answer
    return Granted(replace(answer.tokens, captured={**captured, **answer.tokens.captured}))


# -- whose it is -------------------------------------------------------------------------------------------------------


def question_about(account: str, held: TokenSet | None, standing: Standing, new: TokenSet) -> str:
    """
    What a person must say yes to before a login takes the place of what is held; "" where nothing is in question.

    Another identity's login is replaced only on purpose, and so is one that works and of which nobody knows whose it is.
    """
    if held is None or (held.identity is not None and held.identity == new.identity):
        return ""
    if held.identity is not None and new.identity is not None:
        return f"Account {account} is logged in as {held.identity}, and this login is {new.identity}'s: replace it?"
    if standing.state is State.LOGIN_REQUIRED:
        return ""
    return f"Account {account} is logged in already, and the provider does not say whether as the same: replace it?"


def secrets_of(attempt: Attempt, more: Iterable[str] = ()) -> list[str]:
    """What of an attempt must show up in no text."""
    own = (attempt.state, attempt.verifier, attempt.nonce, *attempt.account.secrets, *more)
    return [secret for secret in own if secret]
