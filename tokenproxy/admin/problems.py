"""Our errors as ``application/problem+json`` (RFC 9457), and back again: one table for the server and the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from tokenproxy.errors import (
    AccountError,
    BadImportError,
    BadLoginError,
    BadStateError,
    ConfigError,
    LoginRequiredError,
    MisconfiguredError,
    NoLoginError,
    NoStateError,
    NotRunningError,
    Problem,
    ProviderUnavailableError,
    SealError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
    TokenproxyError,
    UnknownAccountError,
    UnknownLoginError,
)

CONTENT_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Answer:
    """How one class of errors is told over HTTP."""

    status: int
    code: str
    title: str


ANSWERS: Final[Mapping[type[TokenproxyError], Answer]] = {
    BadImportError: Answer(422, "bad_import", "not a token answer"),
    NoStateError: Answer(404, "no_state", "no such state"),
    BadStateError: Answer(422, "bad_state", "not a value that may be kept"),
    BadLoginError: Answer(422, "bad_login", "the login cannot begin"),
    NoLoginError: Answer(409, "needs_no_login", "the account needs no login"),
    UnknownAccountError: Answer(404, "unknown_account", "unknown account"),
    UnknownLoginError: Answer(404, "unknown_login", "unknown login"),
    LoginRequiredError: Answer(409, "login_required", "login required"),
    MisconfiguredError: Answer(409, "misconfigured", "misconfigured"),
    ProviderUnavailableError: Answer(502, "provider_unavailable", "provider unavailable"),
    StoreUnavailableError: Answer(503, "store_unavailable", "store unavailable"),
    AccountError: Answer(404, "account_refused", "the account cannot be used"),
    ConfigError: Answer(422, "config_invalid", "the config has mistakes"),
    StoreLockedError: Answer(503, "store_locked", "the store is locked"),
    SealError: Answer(503, "store_sealed", "no key opens the store"),
    StoreError: Answer(503, "store_failed", "the store failed"),
    NotRunningError: Answer(503, "not_running", "not running"),
    TokenproxyError: Answer(422, "refused", "it could not be done"),
}
_CLASSES: Final[Mapping[str, type[TokenproxyError]]] = {answer.code: cls for cls, answer in ANSWERS.items()}


def answer_to(error: TokenproxyError) -> Answer:
    return next(ANSWERS[cls] for cls in type(error).__mro__ if cls in ANSWERS)


def to_problem(error: TokenproxyError) -> dict[str, Any]:
    """The members of the answer's body; what is not known is left out."""
    answer = answer_to(error)
    body: dict[str, Any] = {
        "code": answer.code,
        "title": answer.title,
        "status": answer.status,
        "detail": error.message,
        "next_step": error.next_step,
        "exit_code": error.exit_code,
    }
    if isinstance(error, AccountError):
        body |= {"account": error.account, "reason": error.reason, "retry_after": error.retry_after}
    if isinstance(error, ConfigError):
        body |= {"source": error.source, "problems": [asdict(problem) for problem in error.problems]}
    return {name: value for name, value in body.items() if value not in (None, "")}


def from_problem(body: Mapping[str, Any]) -> TokenproxyError:
    """The error that ``to_problem`` was given; a code that this version does not know is a plain ``TokenproxyError``."""
    cls = _CLASSES.get(str(body.get("code")), TokenproxyError)
    detail = str(body.get("detail") or body.get("title") or "tokenproxy refused without a reason")
    next_step = str(body.get("next_step", ""))
    if issubclass(cls, ConfigError):
        return cls(str(body.get("source", "")), [Problem(**each) for each in body.get("problems", [])])
    if issubclass(cls, AccountError):
        return cls(
            detail,
            account=str(body.get("account", "")),
            reason=str(body.get("reason", "")),
            retry_after=body.get("retry_after"),
            next_step=next_step,
        )
    return cls(detail, next_step=next_step)
