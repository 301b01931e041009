"""Who asks on the admin side, for the audit log: set once for each request, for all that it begins."""

from __future__ import annotations

import secrets
import socket
import struct
from dataclasses import replace
from typing import Final

from aiohttp import web

from tokenproxy import audit
from tokenproxy.admin.answers import CODE
from tokenproxy.audit import ACTOR, Actor

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ID: Final = web.RequestKey("request_id", str)
NOBODY: Final = "nobody"
"""Who has shown nothing yet."""


def begin_acting(request: web.Request) -> None:
    """Until somebody shows more."""
    request[_ID] = secrets.token_hex(8)
    name, peer = _who(request)
    ACTOR.set(Actor(name, peer, request[_ID]))


def with_token() -> None:
    """The admin token was shown."""
    ACTOR.set(replace(ACTOR.get(), name="admin_token"))


def with_session() -> None:
    """Somebody has signed in to the dashboard."""
    ACTOR.set(replace(ACTOR.get(), name="dashboard"))


def request_id(request: web.Request) -> str:
    found: str = request.get(_ID, "")
    return found


def is_a_change(request: web.Request) -> bool:
    """A provider that posts its answer is told by the login that it ends."""
    return request.method not in _READS and not request.path.startswith("/callback")


def tell_call(request: web.Request, answer: web.StreamResponse) -> None:
    """Of who may call; who may not is told as refused."""
    if ACTOR.get().name == NOBODY:
        return
    resource = request.match_info.route.resource
    result = "ok" if answer.status < 400 else "refused" if answer.status in {401, 403} else "failed"
    audit.record(
        "admin_call",
        call=f"{request.method} {resource.canonical if resource is not None else ''}",
        account=request.match_info.get("account", ""),
        status=answer.status,
        result=result,
        reason=answer.get(CODE, ""),
    )


def _who(request: web.Request) -> tuple[str, str]:
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    if isinstance(peer, tuple):
        browser = request.path == "/callback" or request.path.startswith(("/callback/", "/login/"))
        return "browser" if browser else NOBODY, str(peer[0])
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        return NOBODY, ""
    pid, uid, _ = struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"socket:uid={uid}", f"pid={pid}"
