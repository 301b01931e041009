"""What the pages are made of; ``app`` hands the real parts in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tokenproxy.admin.dashboard.history import History
from tokenproxy.admin.health import Health
from tokenproxy.admin.operations import Operations
from tokenproxy.admin.token import AdminToken
from tokenproxy.core.interfaces import Accounts, Clock, Logins, Store
from tokenproxy.core.provider import Account
from tokenproxy.core.routes import Route
from tokenproxy.metrics import Metrics


class Finding(Protocol):
    """As ``doctor`` gives it."""

    @property
    def level(self) -> str:
        """``good``, ``warn`` or ``bad``."""

    @property
    def name(self) -> str: ...

    @property
    def sentence(self) -> str: ...

    @property
    def remedy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Examination:
    at: datetime
    offline: bool
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Sight:
    """What the pages are made of."""

    accounts: Accounts
    logins: Logins
    operations: Operations
    health: Health
    history: History
    token: Callable[[], AdminToken]
    clock: Clock
    routes: Callable[[], Sequence[Route]]
    tables: Callable[[], Mapping[str, Account]]
    """The config's accounts."""
    metrics: Metrics
    store: Store
    store_name: str
    unstored: Callable[[], int]
    """Token sets that the store has not taken."""
    in_flight: Callable[[], int]
    examine: Callable[[bool], Awaitable[Sequence[Finding]]]
    """What ``doctor`` finds; True: asking nobody else."""
    public_url: str
    insecure_http: bool = False
