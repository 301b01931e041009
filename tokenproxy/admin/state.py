"""State of logins over the admin API: what an application keeps, so that its requests can name it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from tokenproxy.admin.answers import body_of, json_answer, refuse, typed
from tokenproxy.core.interfaces import States, StateValue
from tokenproxy.core.placeholders import LONGEST_VALUE

_LONGEST_BODY: Final = 6 * LONGEST_VALUE + 4096
"""JSON may spell every byte of a value as ``\\u0000``."""
# The shortest account: what follows the first ``state`` is the path. A login whose SUB is ``state`` is NAME%2Fstate.
_STATE: Final = r"/api/accounts/{account:[^/]+(?:/[^/]+)??}/state"
_MEMBERS: Final = {"value", "expires_at", "backend"}


class _BodyError(ValueError):
    """What is wrong with a body, as a sentence without anything of it."""


@dataclass(frozen=True, slots=True)
class StateCalls:
    states: States

    def routes(self) -> list[web.RouteDef]:
        """All of them for who may change things: reading gives values back."""
        return [
            web.get(_STATE, self.listing),
            web.get(_STATE + "/{path:.+}", self.get),
            web.put(_STATE + "/{path:.+}", typed(self.put)),
            web.delete(_STATE + "/{path:.+}", typed(self.drop)),
        ]

    async def listing(self, request: web.Request) -> web.Response:
        return json_answer({"state": await self.states.listing(request.match_info["account"])})

    async def get(self, request: web.Request) -> web.Response:
        return json_answer(await self.states.get(*_named(request)))

    async def put(self, request: web.Request) -> web.StreamResponse:
        try:
            value = _value(await body_of(request, longest=_LONGEST_BODY))
        except _BodyError as wrong:
            return refuse(422, "bad_state", str(wrong))
        return json_answer(await self.states.put(*_named(request), value))

    async def drop(self, request: web.Request) -> web.Response:
        return json_answer(await self.states.drop(*_named(request)))


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["account"], request.match_info["path"]


def _value(body: bytes) -> StateValue:
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise _BodyError("The body is not JSON.") from None  # the cause holds the body
    if not isinstance(said, dict) or not said.keys() <= _MEMBERS or not isinstance(said.get("value"), str):
        raise _BodyError(
            'The body is not {"value": text, "expires_at": time or null, "backend": true or false}.'
        )
    backend = said.get("backend", False)
    if not isinstance(backend, bool):
        raise _BodyError("backend is neither true nor false.")
    return StateValue(said["value"], _time(said.get("expires_at")), backend)


def _time(said: object) -> datetime | None:
    if said is None:
        return None
    try:
        at = datetime.fromisoformat(said) if isinstance(said, str) else None
        at = at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise _BodyError("expires_at is no time such as 2026-03-01T12:00:00Z.")
    return at
