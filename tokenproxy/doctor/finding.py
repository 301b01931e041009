"""What a check comes to, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from tokenproxy.config import Config
from tokenproxy.core.interfaces import Accounts

Level = Literal["good", "warn", "bad"]

CODES: Final = frozenset({
    # config, files, process
    "config_invalid", "config_warning", "config_writable", "tls_files", "key_files", "key_missing", "key_unusable",
    "key_readable", "admin_token_readable", "secret_in_environment", "version_differs", "descriptors_few", "core_dumps",
    # listeners
    "listener_taken", "listener_unusable", "public_url_mismatch", "public_url_plain", "certificate_ends",
    # the store
    "store_folder", "store_volatile", "store_network", "disk_full", "disk_nearly_full", "store_unusable", "store_damaged",
    "store_unsafe", "store_doubtful",
    # over the network
    "tls_untrusted", "unreachable", "answer_odd", "issuer_unusable", "clock_skew", "redirect_unregistered",
    "authorize_refused", "not_asked",
    # logins; these are states and reasons of accounts as well
    "login_required", "misconfigured", "in_doubt", "degraded", "not_logged_in", "store_failed", "refresh_ends",
    "scope_narrower",
    # checks themselves
    "check_timeout", "check_failed",
})  # fmt: skip
"""The closed list; ``core/explanations.toml`` says of each what it means."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    name: str
    """What was looked at: ``store``, ``provider login.example.com``."""
    sentence: str
    """May have several lines; without secrets."""
    remedy: str = ""
    """What a person does about it; a hint where all is well."""
    code: str = ""
    """One of ``CODES``; empty where all is well."""


def good(name: str, sentence: str, hint: str = "") -> Finding:
    return Finding("good", name, sentence, hint)


def warn(code: str, name: str, sentence: str, remedy: str) -> Finding:
    return Finding("warn", name, sentence, remedy, code)


def bad(code: str, name: str, sentence: str, remedy: str) -> Finding:
    return Finding("bad", name, sentence, remedy, code)


class House(Protocol):
    """What a running ``serve``, or the store where there is none, can be asked."""

    @property
    def accounts(self) -> Accounts: ...

    async def verify(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the checks look at."""

    config: Config
    environ: Mapping[str, str] = field(repr=False)
    visit: Callable[[], AbstractAsyncContextManager[House]]
    """Raises ``TokenproxyError`` where the store cannot be opened."""
    running: Mapping[str, Any] | None = None
    """What ``serve`` says of itself (``admin.operations.Operations.info``); None: none runs."""
    offline: bool = False
    """Nobody else is asked: no provider, upstream or database."""
    patience: float = 5.0
    """Seconds for each check, and for each place that is asked."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def listeners(self) -> Mapping[str, str]:
        """Of the running ``serve``: name -> address."""
        found: Mapping[str, str] = (self.running or {}).get("listeners", {})
        return found
