"""Every end that a login can come to, in words: a page for the browser, a sentence for whoever waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenproxy.core.account import Event, Reason
from tokenproxy.core.interfaces import Landing
from tokenproxy.core.login import Why
from tokenproxy.core.provider import table_of
from tokenproxy.core.replies import Failure


@dataclass(frozen=True, slots=True)
class Ending:
    status: int
    title: str
    sentence: str
    """What happened and what to do; may hold ``{account}`` and ``{table}``, which strangers' landings leave out."""


_AGAIN: Final = "Nothing was stored; begin the login again."

ENDINGS: Final[Mapping[str, Ending]] = {
    "success": Ending(200, "Logged in", "Account {account} is logged in; this page can be closed."),
    "captured": Ending(
        200, "Done", "What the provider sent is kept for the app that asked; this page can be closed."
    ),
    "question": Ending(
        200, "One question", "Answer it where the login was begun; nothing is replaced before that."
    ),
    "fragment": Ending(200, "One moment", "This page hands over what the provider sent."),
    # before a login is found
    "address_too_long": Ending(
        413, "That address is too long", f"It has more than 16 KiB, or 100 parameters. {_AGAIN}"
    ),
    "state_missing": Ending(
        400, "The answer belongs to no login", f"The provider's answer does not say to which. {_AGAIN}"
    ),
    "state_unknown": Ending(
        400,
        "No such login",
        f"The provider's answer belongs to no login that was begun here in the last minutes. {_AGAIN}",
    ),
    "state_used": Ending(
        400,
        "This login has ended already",
        "An answer counts once. Look where the login was begun whether it succeeded, else begin it again.",
    ),
    "state_expired": Ending(400, "This login took too long", f"It was open for ten minutes. {_AGAIN}"),
    "state_foreign": Ending(
        400,
        "The answer belongs to another account",
        f"It came to the callback address of another account than the login's. {_AGAIN}",
    ),
    "other_browser": Ending(
        403,
        "This login was begun in another browser",
        "Nothing was stored; begin the login again, and end it in the browser that it was begun in.",
    ),
    # what the answer says
    Why.DOUBLED.value: Ending(400, "The answer is ambiguous", f"It says a thing twice. {_AGAIN}"),
    Why.ISS_MISSING.value: Ending(
        400, "The answer does not say whose it is", f"The provider should name itself (iss). {_AGAIN}"
    ),
    Why.ISS_WRONG.value: Ending(
        400, "The answer is another provider's", f"It names another issuer than the account's. {_AGAIN}"
    ),
    Why.REFUSED.value: Ending(
        400, "The provider said no", "Account {account} was not logged in; begin the login again to say yes."
    ),
    Why.NO_CODE.value: Ending(
        400, "The answer has no code", f"Nothing in it can be exchanged for a token. {_AGAIN}"
    ),
    Why.NO_MATCH.value: Ending(
        400,
        "The answer is not as expected",
        "The expression of the config does not match the address. Nothing was stored; correct callback.token, "
        "or begin the login again.",
    ),
    Why.CAPTURE.value: Ending(
        400, "The answer is incomplete", f"A value that the config captures is missing or unfit. {_AGAIN}"
    ),
    # what the provider makes of it
    "code_refused": Ending(
        502, "The provider refused the code", f"Account {{account}} was not logged in. {_AGAIN}"
    ),
    "misconfigured": Ending(
        502,
        "The provider refuses our registration",
        "Correct [accounts.{table}], then begin the login again; nothing was stored.",
    ),
    "provider_unavailable": Ending(
        502, "The provider gives no token now", f"Account {{account}} was not logged in. {_AGAIN}"
    ),
    "answer_lost": Ending(
        502,
        "The provider's answer was lost",
        "The code was sent, and it is not sent twice. Nothing was stored; begin the login again.",
    ),
    "store_failed": Ending(
        503,
        "The store did not take the tokens",
        "They are dropped. See that the store can be written, then begin the login again.",
    ),
    "state_full": Ending(
        503,
        "There is no room for what was caught",
        "Drop state of {account} that is not needed, then begin the login again.",
    ),
    "registration_changed": Ending(
        409, "The config has changed meanwhile", f"It names another client or provider. {_AGAIN}"
    ),
    # without an answer
    "access_denied": Ending(403, "Somebody said no", f"Account {{account}} was not logged in. {_AGAIN}"),
    "cancelled": Ending(400, "The login was given up", _AGAIN),
    "expired": Ending(400, "The login took too long", _AGAIN),
    "interrupted": Ending(
        503, "The login was cut off", "tokenproxy stopped or failed meanwhile. Begin it again."
    ),
}


def landing(code: str, *, account: str = "", said: str = "", why: str = "", return_to: str = "") -> Landing:
    """The page for an end; ``said`` is the provider's own word, cleaned, ``why`` a phrase of ours."""
    ending = ENDINGS[code]
    detail = ending.sentence.format(account=account, table=table_of(account))
    if said or why:
        detail += f" ({f'The provider said: {said}' if said else why})"
    return Landing(code, ending.title, detail, ending.status, return_to)


def step_after(code: str, account: str) -> str:
    """The one command for a person; where the same again would fail again, what to do before it."""
    if code != "misconfigured":
        return f"tokenproxy login {account}"
    return (
        f"correct [accounts.{table_of(account)}] (where serve runs, then: tokenproxy reload), "
        f"then: tokenproxy login {account}"
    )


def code_of(failure: Failure) -> str:
    """The end that a failed exchange is."""
    if failure.event is Event.REFUSED:
        return "code_refused"
    if failure.event is Event.REGISTRATION_REFUSED or failure.reason is Reason.CLIENT_REFUSED:
        return "misconfigured"
    return "provider_unavailable"
