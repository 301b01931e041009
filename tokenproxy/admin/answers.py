"""What every part of the admin side answers with, and how it takes a request's body."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from aiohttp import ClientPayloadError, web

from tokenproxy.admin.problems import CONTENT_TYPE

JSON: Final = "application/json"
TEXT: Final = "text/plain"
CODE: Final = web.ResponseKey("code", str)
"""Of a problem; for the audit log."""
BODY_DEADLINE: Final = 10.0
"""Seconds for all of a request's body."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Unusable(web.HTTPBadRequest):
    """A call that we cannot make sense of, with a sentence for who wrote it."""

    def __init__(self, detail: str) -> None:
        super().__init__()
        self.detail = detail


def json_answer(body: object, *, status: int = 200, content_type: str = JSON) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, content_type=content_type)


def refuse(status: int, code: str, detail: str, *, next_step: str = "") -> web.Response:
    body = {"code": code, "title": code.replace("_", " "), "status": status, "detail": detail, "exit_code": 1}
    return problem_answer(body | ({"next_step": next_step} if next_step else {}))


def problem_answer(body: dict[str, Any], *, retry_after: float | None = None) -> web.Response:
    answer = json_answer(body, status=body["status"], content_type=CONTENT_TYPE)
    answer[CODE] = body["code"]
    if retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return answer


async def body_of(request: web.Request, *, longest: int) -> bytes:
    """All of the body; raises ``web.HTTPException`` for one that is too long, too slow or broken off."""
    if (request.content_length or 0) > longest:
        raise web.HTTPRequestEntityTooLarge(longest, request.content_length or 0)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > longest:
                    raise web.HTTPRequestEntityTooLarge(longest, len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (ConnectionError, ClientPayloadError, web.RequestPayloadError):
        raise web.HTTPBadRequest from None
    return bytes(body)


async def members_of(request: web.Request, *, longest: int, **known: Any) -> Mapping[str, Any]:
    """The JSON object of a call, which may have the ``known`` members, each of its type; a tuple: or null."""
    try:
        found = json.loads(await body_of(request, longest=longest))
    except (ValueError, RecursionError):
        raise Unusable("the body is not JSON") from None
    if not isinstance(found, dict):
        raise Unusable("the body must be a JSON object")
    for name, value in found.items():
        kinds = known.get(name)
        if kinds is None:
            raise Unusable(f"nobody knows the member {name[:40]!r}; there are: {', '.join(known)}")
        kind, optional = (kinds[0], True) if isinstance(kinds, tuple) else (kinds, False)
        if not (type(value) is kind or (optional and value is None)):
            raise Unusable(f"{name} must be {'text' if kind is str else 'true or false'}")
    return found


def typed(handler: Handler, types: Collection[str] = (JSON,)) -> Handler:
    """A form of another site can send no JSON without asking first, so a change must say that it is JSON."""

    async def checked(request: web.Request) -> web.StreamResponse:
        if request.content_type not in types:
            wanted = " or ".join(types)
            return refuse(415, "content_type_refused", f"A call that changes something is sent as {wanted}.")
        return await handler(request)

    return checked
