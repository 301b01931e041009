"""
What we raise on purpose, by who must act.

::

    TokenproxyError
    ├── ConfigError            the operator: the config file             exit 2
    ├── StoreError             the operator: the store or its key        exit 5
    │   ├── StoreLockedError   another process has the store open
    │   └── SealError          no key of ours opens a row
    ├── NotRunningError        the operator: no ``serve`` to talk to     exit 6
    └── AccountError           why an account has no token to give       503 to the caller
        ├── BadImportError             the operator handed in what is no token answer              exit 2
        ├── NoLoginError               the operator wants to log in what needs no login       exit 2
        ├── BadLoginError              what was asked for makes no login                           exit 2
        ├── UnknownAccountError        the operator named one that the config does not have   exit 2
        ├── LoginRequiredError         a person must log in
        ├── MisconfiguredError         the operator must change the config
        ├── ProviderUnavailableError   the provider, and it will be tried again
        └── StoreUnavailableError      the store, and it will be tried again

Every text is one sentence that names what happened; ``next_step`` is the one thing for a person to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self


class TokenproxyError(Exception):
    """The root; its text is one sentence without secrets that may be shown to anybody."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a config file."""

    path: str
    """The key, dotted: ``routes.crm.upstream``."""
    message: str
    line: int | None = None
    """Counted from 1, of the table where a key is missing; None where nothing of it stands in the file."""

    def __str__(self) -> str:
        where = f"   line {self.line}" if self.line is not None else ""
        return f"{self.path}: {self.message}{where}" if self.path else f"{self.message}{where}"


class ConfigError(TokenproxyError):
    """All mistakes of a config file at once."""

    exit_code = 2

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{source}: {count}{lines}")


class StoreError(TokenproxyError):
    exit_code = 5


class StoreLockedError(StoreError):
    pass


class SealError(StoreError):
    pass


class NotRunningError(TokenproxyError):
    exit_code = 6


class AccountError(TokenproxyError):
    """Why an account has no token to give; becomes a 503 with ``code`` in ``Tokenproxy-Error``."""

    code: ClassVar[str] = "provider_unavailable"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        account: str,
        reason: str = "",
        retry_after: float | None = None,
        next_step: str = "",
    ) -> None:
        """``retry_after`` in seconds, None where nobody knows; ``reason`` from ``core.account.Reason``."""
        super().__init__(message, next_step=next_step)
        self.account = account
        self.reason = reason
        self.retry_after = retry_after

    def again(self) -> Self:
        """A copy to raise: one renewal's failure is raised in every request that waited for it."""
        return type(self)(
            self.message,
            account=self.account,
            reason=self.reason,
            retry_after=self.retry_after,
            next_step=self.next_step,
        )


class BadImportError(AccountError):
    code = "bad_import"
    exit_code = 2


class NoStateError(AccountError):
    code = "no_state"
    exit_code = 2


class BadStateError(AccountError):
    code = "bad_state"
    exit_code = 2


class NoLoginError(AccountError):
    code = "needs_no_login"
    exit_code = 2


class BadLoginError(AccountError):
    """A login cannot begin as it was asked for."""

    code = "bad_login"
    exit_code = 2


class UnknownLoginError(TokenproxyError):
    """There is no login attempt of this id, or no longer."""

    exit_code = 2


class UnknownAccountError(AccountError):
    code = "unknown_account"
    exit_code = 2


class LoginRequiredError(AccountError):
    code = "login_required"
    exit_code = 3


class MisconfiguredError(AccountError):
    code = "misconfigured"
    exit_code = 2


class ProviderUnavailableError(AccountError):
    code = "provider_unavailable"


class StoreUnavailableError(AccountError):
    code = "store_unavailable"
    exit_code = 5
