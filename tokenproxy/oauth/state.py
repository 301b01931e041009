"""State and settings of logins: what operators and applications put there, and what requests may name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from tokenproxy import log
from tokenproxy.core.interfaces import MOST_STATE, Clock, StateValue, Store
from tokenproxy.core.placeholders import LONGEST_PATH, LONGEST_VALUE, Values, valid_path
from tokenproxy.core.provider import EMPTY_SETTINGS, Account, table_of
from tokenproxy.errors import BadStateError, NoStateError
from tokenproxy.oauth.accounts import configured

_log: Final = logging.getLogger("tokenproxy.oauth")

_STEP: Final = "correct the call; docs/admin-api.md says what a value is"


class LoginState:
    """Satisfies ``core.interfaces.States`` and ``core.placeholders.ValueSource``."""

    def __init__(self, store: Store, *, clock: Clock, accounts: Callable[[], Mapping[str, Account]]) -> None:
        """``accounts`` gives the config's tables as they are now: a reload changes them."""
        self._store = store
        self._clock = clock
        self._accounts = accounts

    # what operators and applications ask

    async def listing(self, account: str) -> list[dict[str, Any]]:
        configured(self._accounts(), account)
        now = self._clock.now()
        found = await self._store.state(account)
        return [_told(path, value) for path, value in found.items() if not _over(value, now)]

    async def get(self, account: str, path: str) -> dict[str, Any]:
        configured(self._accounts(), account)
        _check_path(account, path)
        value = (await self._store.state(account)).get(path)
        if value is None or _over(value, self._clock.now()):
            raise _none(account, path)
        return _told(path, value)

    async def put(self, account: str, path: str, value: StateValue) -> dict[str, Any]:
        configured(self._accounts(), account)
        _check_path(account, path)
        _check_value(account, value)
        if not await self._store.put_state(account, path, value):
            await self._make_room(account)
            if not await self._store.put_state(account, path, value):
                raise BadStateError(
                    f"{account} has {MOST_STATE} values already, and no more may be put there",
                    account=account,
                    next_step=f"drop some: DELETE /api/accounts/{account}/state/PATH",
                )
        log.event(_log, "state_written", account=account, path=path)
        return _without_value(path, value)

    async def drop(self, account: str, path: str) -> dict[str, Any]:
        configured(self._accounts(), account)
        _check_path(account, path)
        if not await self._store.put_state(account, path, None):
            raise _none(account, path)
        log.event(_log, "state_dropped", account=account, path=path)
        return {"path": path}

    # what requests ask

    async def values(self, account: str) -> Values:
        table = table_of(account)
        spec = self._accounts().get(table)
        user = await self._store.state(account)
        return Values(
            settings=spec.settings if spec is not None else EMPTY_SETTINGS,
            user=user,
            shared=user if table == account else await self._store.state(table),
            now=self._clock.now(),
        )

    async def _make_room(self, account: str) -> None:
        """What has expired stands for nothing any more."""
        now = self._clock.now()
        for path, value in (await self._store.state(account)).items():
            if _over(value, now):
                await self._store.put_state(account, path, None)


def _over(value: StateValue, now: datetime) -> bool:
    return value.expires_at is not None and value.expires_at <= now


def _told(path: str, value: StateValue) -> dict[str, Any]:
    """A backend value is used by naming it in a request, and never given back."""
    told = _without_value(path, value)
    return told if value.backend else told | {"value": value.value}


def _without_value(path: str, value: StateValue) -> dict[str, Any]:
    ends = value.expires_at
    return {
        "path": path,
        "backend": value.backend,
        "expires_at": ends.isoformat(timespec="milliseconds").replace("+00:00", "Z") if ends else None,
    }


def _check_path(account: str, path: str) -> None:
    if not valid_path(path):
        raise BadStateError(
            f"that is no path of state: it has letters, digits and any of ._- between slashes, {LONGEST_PATH} at most",
            account=account,
            next_step=_STEP,
        )


def _check_value(account: str, value: StateValue) -> None:
    try:
        size = len(value.value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON lets through
        size = -1
    if not 0 <= size <= LONGEST_VALUE:
        why = "is no text" if size < 0 else f"has {size} bytes where {LONGEST_VALUE} are the most"
        raise BadStateError(f"the value {why}", account=account, next_step=_STEP)


def _none(account: str, path: str) -> NoStateError:
    return NoStateError(
        f"there is nothing at {path} of {account}, or it has expired",
        account=account,
        next_step=f"look what there is: GET /api/accounts/{account}/state",
    )
