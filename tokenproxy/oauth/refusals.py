"""What an account's standing says to whoever wants a token: one sentence, what happens by itself, the one command."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.provider import Account
from tokenproxy.errors import (
    AccountError,
    LoginRequiredError,
    MisconfiguredError,
    ProviderUnavailableError,
    StoreError,
    StoreUnavailableError,
    UnknownAccountError,
)

SENTENCES: Final[Mapping[Reason, str]] = {
    Reason.NONE: "account {account} is well",
    Reason.NOT_LOGGED_IN: "nobody has logged in to account {account} yet",
    Reason.REFUSED: "the provider ended the grant of account {account}",
    Reason.ROTATION_LOST: (
        "the provider refused the refresh token of account {account} after an answer was lost: the rotated one is gone"
    ),
    Reason.NO_REFRESH_TOKEN: "account {account} has no refresh token, and its access token is dead",
    Reason.REGISTRATION_CHANGED: (
        "the tokens of account {account} were obtained from another token endpoint or client than the config names now"
    ),
    Reason.GRANT_CHANGED: (
        "a person's login is stored for account {account}, which the config now lets obtain its tokens by itself"
    ),
    Reason.CLIENT_REFUSED: "the provider refuses the client registration of account {account}",
    Reason.REQUEST_REFUSED: "the provider refuses the way in which account {account} asks for tokens",
    Reason.PROVIDER_DOWN: "the provider of account {account} gives no tokens right now",
    Reason.RATE_LIMITED: "the provider of account {account} limits how often it is asked",
    Reason.TOO_EARLY: "the provider of account {account} renews only shortly before expiry",
    Reason.ANSWER_LOST: "the provider's answer to a renewal of account {account} was lost",
    Reason.CREDENTIALS_REFUSED: "the provider refuses what account {account} shows it to be given a token",
    Reason.TOKEN_REFUSED: "an upstream refused the token of account {account}",
    Reason.SOURCE_FAILED: "where account {account} reads its token from, there is none to be had",
    Reason.BAD_ANSWER: "the provider of account {account} answered with something that is no token answer",
    Reason.STORE_FAILED: "the store did not take the newest tokens of account {account}",
}
"""One for each reason; a test holds that none is missing."""


LOGIN_IN_THE_WAY: Final = Standing(State.MISCONFIGURED, Reason.GRANT_CHANGED)
"""Of an account whose grant needs no person, with a person's login in its row, which a mistake must not drop."""


def sentence(account: str, standing: Standing) -> str:
    """What happened, with what the provider said."""
    text = SENTENCES[standing.reason].format(account=account)
    return f"{text} ({standing.error})" if standing.error else text


def next_step(account: str, standing: Standing) -> str:
    """The one command for a person; "" where it mends by itself."""
    if standing.reason is Reason.REGISTRATION_CHANGED:
        return f"tokenproxy rebind {account}   (only if it is the same provider and client), else: tokenproxy login {account}"
    if standing.state in {State.LOGIN_REQUIRED, State.NEW}:
        return f"tokenproxy login {account}   (or: tokenproxy import {account} < answer.json)"
    if standing.reason is Reason.GRANT_CHANGED:
        table = account.partition("/")[0]
        return f"tokenproxy logout {account}   (to drop the login), or give [accounts.{table}] its grant back"
    if standing.reason is Reason.TOKEN_REFUSED and standing.state is State.MISCONFIGURED:
        table = account.partition("/")[0]
        return f"put another token where [accounts.{table}] takes it from, then: tokenproxy reload"
    if standing.state is State.MISCONFIGURED:
        return f"correct [accounts.{account.partition('/')[0]}], then: tokenproxy reload"
    return ""


def refusal_of(account: str, standing: Standing, now: datetime) -> AccountError | None:
    """Why no renewal may begin now; None where one may."""
    text, step = sentence(account, standing), next_step(account, standing)
    reason = standing.reason.value
    if standing.state in {State.LOGIN_REQUIRED, State.NEW}:
        return LoginRequiredError(text, account=account, reason=reason, next_step=step)
    if standing.retry_at is None or standing.retry_at <= now:
        return None
    wait = (standing.retry_at - now).total_seconds()
    if standing.state is State.MISCONFIGURED:
        return MisconfiguredError(text, account=account, reason=reason, next_step=step, retry_after=wait)
    return ProviderUnavailableError(text, account=account, reason=reason, next_step=step, retry_after=wait)


def not_logged_in(account: str) -> LoginRequiredError:
    standing = Standing()
    return LoginRequiredError(
        sentence(account, standing),
        account=account,
        reason=standing.reason.value,
        next_step=next_step(account, standing),
    )


def login_in_the_way(account: str) -> MisconfiguredError:
    return MisconfiguredError(
        sentence(account, LOGIN_IN_THE_WAY),
        account=account,
        reason=LOGIN_IN_THE_WAY.reason.value,
        next_step=next_step(account, LOGIN_IN_THE_WAY),
    )


def no_logins(spec: Account) -> UnknownAccountError:
    return UnknownAccountError(
        f"account {spec.name} obtains its tokens by itself (grant {spec.grant}) and has no logins below it",
        account=spec.name,
        next_step=f'account = "{spec.name}" in the route',
    )


def no_turn(account: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(
        f"account {account} waited too long for its turn: as many token calls as may be are under way to its provider",
        account=account,
        reason=Reason.PROVIDER_DOWN.value,
        retry_after=5.0,
    )


def store_unusable(account: str, error: StoreError) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store cannot be used: {error.message}",
        account=account,
        reason=Reason.STORE_FAILED.value,
        retry_after=5.0,
        next_step=error.next_step,
    )


def not_stored(account: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store has not taken the newest tokens of account {account} yet",
        account=account,
        reason=Reason.STORE_FAILED.value,
        retry_after=5.0,
        next_step="tokenproxy status",
    )
