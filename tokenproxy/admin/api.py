"""
The admin side over HTTP, three times: everything on the 0600 Unix socket, reading on the admin listener, health and
metrics alone on ``[metrics] listen``.

Rule: what changes anything needs the file permissions of the socket; a browser never reaches that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import ClientPayloadError, web

from tokenproxy import __version__
from tokenproxy.admin import page
from tokenproxy.admin.exposition import Exposition
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.health import Health
from tokenproxy.admin.operations import Operations
from tokenproxy.admin.problems import CONTENT_TYPE, to_problem
from tokenproxy.core.interfaces import Accounts
from tokenproxy.errors import TokenproxyError
from tokenproxy.log import event

_log: Final = logging.getLogger(__name__)

LONGEST_BODY: Final = 1024 * 1024
"""Bytes of a token answer; the largest known ones are a few KiB."""
BODY_DEADLINE: Final = 10.0
"""Seconds for all of a request's body."""

_ACCOUNT: Final = r"/api/accounts/{account:[^/]+(?:/[^/]+)?}"
_OPEN: Final = frozenset({"/healthz", "/readyz", "/startupz"})
"""Asked by kubelets under the pod's address, and no secret to anybody: no Host check."""
_JSON: Final = "application/json"
_TEXT: Final = "text/plain"

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {page.STYLE_HASH}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "tokenproxy",
    "X-Content-Type-Options": "nosniff",
}

_HTTP_ERRORS: Final = {
    404: ("not_found", "There is nothing at this address; docs/admin-api.md lists what there is."),
    405: ("method_not_allowed", "This address does not take this method."),
    408: ("body_timeout", f"The request's body took longer than {BODY_DEADLINE:g} s."),
    413: ("body_too_large", f"The request's body is longer than {LONGEST_BODY} bytes."),
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the three apps answer from."""

    accounts: Accounts
    operations: Operations
    health: Health
    exposition: Exposition
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    # health and metrics

    async def healthz(self, _: web.Request) -> web.Response:
        """That this runs at all is the answer: the event loop turned."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        return _verdict(request, await self.health.reasons())

    async def startupz(self, request: web.Request) -> web.Response:
        return _verdict(request, {} if self.health.started else {"starting": "still starting"})

    async def metrics(self, request: web.Request) -> web.Response:
        await self.health.reasons()
        body, content_type = self.exposition.render(", ".join(request.headers.getall("Accept", ())))
        return web.Response(body=body, headers={"Content-Type": content_type})

    # reading

    async def list_accounts(self, _: web.Request) -> web.Response:
        return _json({"accounts": await self.accounts.statuses()})

    async def account(self, request: web.Request) -> web.Response:
        return _json(await self.accounts.status(request.match_info["account"]))

    async def status(self, _: web.Request) -> web.Response:
        info = await self.operations.info()
        reasons = await self.health.reasons()
        return _json({**info, "ready": not reasons, "reasons": reasons})

    async def start_page(self, _: web.Request) -> web.Response:
        reasons = await self.health.reasons()
        accounts, trouble = [], ""
        try:
            accounts = await self.accounts.statuses()
        except TokenproxyError as error:
            trouble = f"{error.message} {error.next_step}".strip()
        html = page.render(accounts, reasons, now=self.now(), version=__version__, trouble=trouble)
        return web.Response(text=html, content_type="text/html", status=503 if trouble else 200)

    # changing

    async def refresh(self, request: web.Request) -> web.Response:
        return _json(await self.accounts.refresh(request.match_info["account"]))

    async def import_answer(self, request: web.Request) -> web.Response:
        answer = await _body(request)
        return _json(await self.accounts.import_answer(request.match_info["account"], answer))

    async def rebind(self, request: web.Request) -> web.Response:
        return _json(await self.accounts.rebind(request.match_info["account"]))

    async def logout(self, request: web.Request) -> web.Response:
        return _json(await self.accounts.logout(request.match_info["account"]))

    async def reload(self, _: web.Request) -> web.Response:
        return _json(await self.operations.reload())

    async def rotate_keys(self, _: web.Request) -> web.Response:
        return _json(await self.operations.rotate_keys())

    # what there is

    def probes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/startupz", self.startupz),
            web.get("/metrics", self.metrics),
        ]

    def readings(self) -> list[web.RouteDef]:
        return [
            web.get("/api/status", self.status),
            web.get("/api/accounts", self.list_accounts),
            web.get(_ACCOUNT, self.account),
        ]

    def changes(self) -> list[web.RouteDef]:
        return [
            web.post(f"{_ACCOUNT}/refresh", _as_json(self.refresh)),
            web.post(f"{_ACCOUNT}/tokens", _typed(self.import_answer, (_JSON, _TEXT))),
            web.post(f"{_ACCOUNT}/rebind", _as_json(self.rebind)),
            web.delete(_ACCOUNT, _as_json(self.logout)),
            web.post("/api/reload", _as_json(self.reload)),
            web.post("/api/key/rotate", _as_json(self.rotate_keys)),
        ]


def socket_app(desk: Desk) -> web.Application:
    """Every call, for commands that may open the Unix socket."""
    return _app([*desk.probes(), *desk.readings(), *desk.changes()])


def tcp_app(desk: Desk, guard: Guard) -> web.Application:
    """The start page, health, metrics and reading; what changes anything is refused by a sentence."""
    refused = [web.route(change.method, change.path, _needs_socket) for change in desk.changes()]
    routes = [web.get("/", desk.start_page), *desk.probes(), *desk.readings(), *refused]
    return _app(routes, guard=guard)


def metrics_app(desk: Desk) -> web.Application:
    """Health and metrics alone, for a listener that scrapers and probes of other machines reach under any name."""
    return _app(desk.probes())


def _app(routes: list[web.RouteDef], *, guard: Guard | None = None) -> web.Application:
    app = web.Application(middlewares=[_errors(guard)], client_max_size=LONGEST_BODY)
    app.add_routes(routes)
    app.on_response_prepare.append(_harden)
    return app


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _errors(guard: Guard | None) -> Any:
    """The outermost layer of every request: who may ask, and what becomes of errors."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if guard is not None and (refusal := _refusal(guard, request)) is not None:
            return refusal
        try:
            return await handler(request)
        except TokenproxyError as error:
            body = to_problem(error)
            return _problem(body, retry_after=body.get("retry_after"))
        except web.HTTPException as error:
            return _http_error(error)
        except Exception as error:  # noqa: BLE001 - the top of a request: whatever it was, the caller gets an answer
            event(_log, "unexpected_error", error=error, listener="admin")
            return _refuse(
                500, "unexpected_error", "Something went wrong inside tokenproxy; its log says what."
            )

    return answer


def _http_error(error: web.HTTPException) -> web.Response:
    code, sentence = _HTTP_ERRORS.get(error.status, ("bad_request", "The request makes no sense."))
    answer = _refuse(error.status, code, sentence)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


async def _body(request: web.Request) -> bytes:
    """All of the body; raises ``web.HTTPException`` for one that is too long, too slow or broken off."""
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (ConnectionError, ClientPayloadError, web.RequestPayloadError):
        raise web.HTTPBadRequest from None


def _refusal(guard: Guard, request: web.Request) -> web.Response | None:
    if not request.raw_path.startswith("/"):  # RFC 9112 section 3.2.2: an absolute form would overrule Host
        return _refuse(400, "bad_request", "Only requests in origin form are taken here.")
    if request.path in _OPEN:
        return None
    refused = guard.refusal(
        request.headers.getall("Host", ()),
        origin=_all(request, "Origin"),
        fetch_site=_all(request, "Sec-Fetch-Site"),
    )
    if refused is None:
        return None
    code, sentence = refused
    event(_log, "caller_refused", code=code, listener="admin")
    return _refuse(400 if code == "bad_request" else 403, code, sentence)


def _all(request: web.Request, name: str) -> str | None:
    """Every line of a field: a second one must not hide behind a harmless first."""
    lines = request.headers.getall(name, ())
    return ", ".join(lines) if lines else None


def _as_json(handler: Handler) -> Handler:
    return _typed(handler, (_JSON,))


def _typed(handler: Handler, types: Collection[str]) -> Handler:
    """A form of another site can send no JSON without asking first, so a change must say that it is JSON."""

    async def checked(request: web.Request) -> web.StreamResponse:
        if request.content_type not in types:
            wanted = " or ".join(types)
            return _refuse(415, "content_type_refused", f"A call that changes something is sent as {wanted}.")
        return await handler(request)

    return checked


async def _needs_socket(_: web.Request) -> web.StreamResponse:
    return _refuse(
        403,
        "not_allowed",
        "In this version, calls that change something are taken on the Unix socket only.",
        next_step="Use the tokenproxy command on the machine that runs serve.",
    )


def _verdict(request: web.Request, reasons: dict[str, str]) -> web.Response:
    status = 503 if reasons else 200
    if _JSON in request.headers.get("Accept", ""):
        return _json({"status": "unavailable" if reasons else "ok", "reasons": reasons}, status=status)
    text = "".join(f"{name}: {reason}\n" for name, reason in reasons.items()) or "ok\n"
    return web.Response(text=text, status=status)


def _json(body: object, *, status: int = 200, content_type: str = _JSON) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), status=status, content_type=content_type)


def _refuse(status: int, code: str, detail: str, *, next_step: str = "") -> web.Response:
    body = {"code": code, "title": code.replace("_", " "), "status": status, "detail": detail, "exit_code": 1}
    return _problem(body | ({"next_step": next_step} if next_step else {}))


def _problem(body: dict[str, Any], *, retry_after: float | None = None) -> web.Response:
    answer = _json(body, status=body["status"], content_type=CONTENT_TYPE)
    if retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return answer
