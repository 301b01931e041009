"""
The admin side over HTTP, three times: everything on the 0600 Unix socket and on the admin listener, health and metrics
alone on ``[metrics] listen``.

Rule: what changes anything needs the file permissions of the socket, or over TCP the admin token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from tokenproxy import audit
from tokenproxy.admin import answers
from tokenproxy.admin.acting import begin_acting, is_a_change, request_id, tell_call, with_token
from tokenproxy.admin.answers import (
    JSON,
    TEXT,
    Handler,
    Unusable,
    body_of,
    json_answer,
    members_of,
    problem_answer,
    refuse,
    typed,
)
from tokenproxy.admin.dashboard.pages import Dashboard
from tokenproxy.admin.exposition import Exposition
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.health import Health
from tokenproxy.admin.logins import LoginCalls, LoginPages
from tokenproxy.admin.operations import Operations
from tokenproxy.admin.problems import to_problem
from tokenproxy.admin.state import StateCalls
from tokenproxy.admin.token import AdminToken
from tokenproxy.core.interfaces import Accounts, Logins, States
from tokenproxy.errors import TokenproxyError
from tokenproxy.log import event

_log: Final = logging.getLogger(__name__)

LONGEST_BODY: Final = 1024 * 1024
"""Bytes of a token answer; the largest known ones are a few KiB."""

LONGEST_PAGE: Final = 1000
"""Accounts in one page of the list."""
LONGEST_WAIT: Final = 60
"""Seconds that a call may wait for lines of the log."""

PIECE: Final = 100
"""Accounts that are told at once: 5 ms of work."""
_ACCOUNT: Final = r"/api/accounts/{account:[^/]+(?:/(?!(?:refresh|tokens|rebind|state)$)[^/]+)?}"
"""What follows an account of the table is a call where it can be one; a login of that name is ``books%2Frefresh``."""
_OPEN: Final = frozenset({"/healthz", "/readyz", "/startupz"})
"""Asked by kubelets under the pod's address, and no secret to anybody: no Host check."""

_SOCKET: Final = web.AppKey("socket", bool)
"""Whether this is what commands ask over the Unix socket."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "tokenproxy",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_OWN: Final = ("Cache-Control", "Content-Security-Policy", "Referrer-Policy")
"""What a page may say for itself."""

_HTTP_ERRORS: Final = {
    404: ("not_found", "There is nothing at this address; docs/admin-api.md lists what there is."),
    405: ("method_not_allowed", "This address does not take this method."),
    408: ("body_timeout", f"The request's body took longer than {answers.BODY_DEADLINE:g} s."),
    413: ("body_too_large", "The request's body is too long."),
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What the three apps answer from."""

    accounts: Accounts
    logins: Logins
    operations: Operations
    health: Health
    exposition: Exposition
    token: Callable[[], AdminToken]
    """The one in force: a reload may change it."""
    states: States

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

    async def list_accounts(self, request: web.Request) -> web.StreamResponse:
        """All, or those behind a name, a page at a time."""
        if "limit" not in request.query:
            return await self._all_accounts(request)
        limit = _count(request, "limit", default=LONGEST_PAGE, most=LONGEST_PAGE)
        after = request.query.get("after", "")
        return json_answer({"accounts": await self.accounts.page(after=after, limit=limit)})

    async def _all_accounts(self, request: web.Request) -> web.StreamResponse:
        """As they are read: 100,000 at once would be 200 MB, and half a second in which nothing else happens."""
        page = await self.accounts.page(limit=PIECE)  # what fails, fails before the answer begins
        answer = web.StreamResponse(headers={"Content-Type": JSON})
        await answer.prepare(request)
        begin = '{"accounts": ['
        while page:
            told = ", ".join(json.dumps(account) for account in page)
            await answer.write((begin + told).encode())
            begin = ", "
            page = await self.accounts.page(after=page[-1]["account"], limit=PIECE)
        await answer.write(("" if begin == ", " else begin).encode() + b"]}")
        await answer.write_eof()
        return answer

    async def overview(self, request: web.Request) -> web.Response:
        rows = _count(request, "rows", default=50, most=LONGEST_PAGE)
        return json_answer(await self.accounts.overview(rows=rows))

    async def account(self, request: web.Request) -> web.Response:
        return json_answer(await self.accounts.status(request.match_info["account"]))

    async def status(self, _: web.Request) -> web.Response:
        info = await self.operations.info()
        reasons = await self.health.reasons()
        return json_answer({**info, "ready": not reasons, "reasons": reasons})

    # changing

    async def refresh(self, request: web.Request) -> web.Response:
        return json_answer(await self.accounts.refresh(request.match_info["account"]))

    async def import_answer(self, request: web.Request) -> web.Response:
        answer = await body_of(request, longest=LONGEST_BODY)
        if request.content_type == JSON and not _is_object(answer):  # a number would be a good bare token
            return refuse(
                422, "bad_import", "The body is no JSON object; a bare refresh token is sent as text/plain."
            )
        return json_answer(await self.accounts.import_answer(request.match_info["account"], answer))

    async def rebind(self, request: web.Request) -> web.Response:
        return json_answer(await self.accounts.rebind(request.match_info["account"]))

    async def logout(self, request: web.Request) -> web.Response:
        return json_answer(await self.accounts.logout(request.match_info["account"]))

    async def reload(self, _: web.Request) -> web.Response:
        return json_answer(await self.operations.reload())

    async def rotate_keys(self, _: web.Request) -> web.Response:
        return json_answer(await self.operations.rotate_keys())

    async def backup(self, request: web.Request) -> web.Response:
        path = (await members_of(request, longest=LONGEST_BODY, path=str)).get("path", "")
        if not path.startswith("/"):
            raise Unusable("path must be absolute")
        return json_answer(await self.operations.backup(path))

    async def verify(self, _: web.Request) -> web.Response:
        return json_answer(await self.operations.verify())

    async def described(self, request: web.Request) -> web.Response:
        from tokenproxy.admin import openapi  # 100 kB that hardly any process needs

        return json_answer(openapi.document(socket=request.app[_SOCKET]))

    async def examine(self, _: web.Request) -> web.Response:
        return json_answer(await self.operations.examine())

    async def stop(self, _: web.Request) -> web.Response:
        return json_answer(await self.operations.stop())

    async def logs(self, request: web.Request) -> web.Response:
        after, wait = request.query.get("after", "0"), request.query.get("wait", "0")
        if not re.fullmatch(r"\d{1,15}", after, re.ASCII) or not re.fullmatch(r"\d{1,2}", wait, re.ASCII):
            raise Unusable("after must be a number, and wait one up to 60")
        return json_answer(await self.operations.logs(after=int(after), wait=min(int(wait), LONGEST_WAIT)))

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
            web.get("/api/overview", self.overview),
            web.get(_ACCOUNT, self.account),
        ]

    def description(self) -> list[web.RouteDef]:
        return [web.get("/api/openapi.json", self.described)]

    def changes(self) -> list[web.RouteDef]:
        return [
            *StateCalls(self.states).routes(),
            web.post(f"{_ACCOUNT}/refresh", typed(self.refresh)),
            web.post(f"{_ACCOUNT}/tokens", typed(self.import_answer, (JSON, TEXT))),
            web.post(f"{_ACCOUNT}/rebind", typed(self.rebind)),
            web.delete(_ACCOUNT, typed(self.logout)),
            web.post("/api/reload", typed(self.reload)),
            web.post("/api/key/rotate", typed(self.rotate_keys)),
            *LoginCalls(self.logins).routes(),
        ]

    def own(self) -> list[web.RouteDef]:
        """For whoever may open the socket, alone: they name files of this machine, tell its log, or end the process."""
        return [
            web.get("/api/logs", self.logs),
            web.post("/api/doctor", typed(self.examine)),
            web.post("/api/stop", typed(self.stop)),
            web.post("/api/store/backup", typed(self.backup)),
            web.post("/api/store/verify", typed(self.verify)),
        ]


def socket_app(desk: Desk) -> web.Application:
    """Every call, for commands that may open the Unix socket."""
    return _app(
        [*desk.probes(), *desk.changes(), *desk.own(), *desk.readings(), *desk.description()], socket=True
    )


def tcp_app(
    desk: Desk,
    guard: Guard,
    pages: LoginPages,
    dashboard: Dashboard | None = None,
    *,
    reads_freely: bool = True,
) -> web.Application:
    """
    Pages, health and metrics for everybody, changes for who has the token.

    ``reads_freely``: reading needs no token, where only this machine's users get here; who has which account at which
    provider is nobody else's business.
    """
    changes = [_guarded(each, desk) for each in desk.changes()]
    readings = [each if reads_freely else _guarded(each, desk) for each in desk.readings()]
    routes = [*pages.routes(), *desk.probes(), *changes, *readings, *desk.description()]
    if dashboard is None:
        return _app(routes, guard=guard, lets_in=pages.lets_in)
    app = _app(
        [*routes, *dashboard.routes()],
        guard=guard,
        lets_in=lambda request: pages.lets_in(request) or dashboard.lets_in(request),
    )
    app.on_shutdown.append(dashboard.live.close)
    return app


def _guarded(call: web.RouteDef, desk: Desk) -> web.RouteDef:
    return web.route(call.method, call.path, _with_token(call.handler, desk.token))


def pages_app(guard: Guard, pages: LoginPages) -> web.Application:
    """Where a browser comes back to, and nothing else: for a command that waits for a login without ``serve``."""
    return _app(pages.routes(), guard=guard, lets_in=pages.lets_in)


def metrics_app(desk: Desk) -> web.Application:
    """Health and metrics alone, for a listener that scrapers and probes of other machines reach under any name."""
    return _app(desk.probes())


def _nobody(_: web.Request) -> bool:
    return False


def _app(
    routes: list[web.RouteDef],
    *,
    guard: Guard | None = None,
    lets_in: Callable[[web.Request], bool] = _nobody,
    socket: bool = False,
) -> web.Application:
    """``lets_in``: which requests may come from a page of another site."""
    app = web.Application(middlewares=[_one_by_one(), _errors(guard, lets_in)], client_max_size=LONGEST_BODY)
    app[_SOCKET] = socket
    app.add_routes(routes)
    app.on_response_prepare.append(_harden)
    return app


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Request-Id"] = request_id(request)
    own = {name: response.headers[name] for name in _OWN if name in response.headers}
    response.headers.update({**_HEADERS, **own})


def _one_by_one() -> Any:
    """
    One request begins with each turn of the event loop, however many have come.

    Anybody may ask for a landing page, and whoever asks a thousand times at once must not hold up what is proxied.
    """
    turn = asyncio.Lock()

    @web.middleware
    async def begin(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with turn:
            await asyncio.sleep(0)
        return await handler(request)

    return begin


def _errors(guard: Guard | None, lets_in: Callable[[web.Request], bool]) -> Any:
    """The outermost layer of every request: who may ask, and what becomes of errors."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        begin_acting(request)
        if guard is not None and (refusal := _refusal(guard, request, lets_in)) is not None:
            return refusal
        if not is_a_change(request):
            return await answered(request, handler)
        if request.path.startswith("/api/") and (why := audit.unavailable()):
            return refuse(
                503,
                "audit_unavailable",
                f"Nothing is changed while the audit log fails: {why}.",
                next_step="Make room on the disk that audit.file lies on, or mend it; then do it again.",
            )
        found = await answered(request, handler)
        tell_call(request, found)
        return found

    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except TokenproxyError as error:
            body = to_problem(error)
            return problem_answer(body, retry_after=body.get("retry_after"))
        except web.HTTPException as error:
            return _http_error(error)
        except Exception as error:  # noqa: BLE001 - the top of a request: whatever it was, the caller gets an answer
            event(_log, "unexpected_error", error=error, listener="admin")
            return refuse(
                500, "unexpected_error", "Something went wrong inside tokenproxy; its log says what."
            )

    return answer


def _http_error(error: web.HTTPException) -> web.Response:
    code, sentence = _HTTP_ERRORS.get(error.status, ("bad_request", "The request makes no sense."))
    if isinstance(error, Unusable):
        sentence = f"{error.detail[:1].upper()}{error.detail[1:]}."
    answer = refuse(error.status, code, sentence)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def _refusal(
    guard: Guard, request: web.Request, lets_in: Callable[[web.Request], bool]
) -> web.Response | None:
    if not request.raw_path.startswith("/"):  # RFC 9112 section 3.2.2: an absolute form would overrule Host
        return refuse(400, "bad_request", "Only requests in origin form are taken here.")
    if request.path in _OPEN:
        return None
    foreign = lets_in(request)
    refused = guard.refusal(
        request.headers.getall("Host", ()),
        origin=None if foreign else _all(request, "Origin"),
        fetch_site=None if foreign else _all(request, "Sec-Fetch-Site"),
    )
    if refused is None:
        return None
    code, sentence = refused
    event(_log, "caller_refused", code=code, listener="admin")
    return refuse(400 if code == "bad_request" else 403, code, sentence)


def _all(request: web.Request, name: str) -> str | None:
    """Every line of a field: a second one must not hide behind a harmless first."""
    lines = request.headers.getall(name, ())
    return ", ".join(lines) if lines else None


def _with_token(handler: Handler, token: Callable[[], AdminToken]) -> Handler:
    """Over TCP nothing but the token tells the operator from anybody else on this machine."""

    async def checked(request: web.Request) -> web.StreamResponse:
        wanted = token()
        if wanted.is_shown_by(request.headers.getall("Authorization", ())):
            with_token()
            return await handler(request)
        event(_log, "caller_refused", code="admin_token_required", listener="admin")
        answer = refuse(
            401,
            "admin_token_required",
            "This call needs the admin token.",
            next_step=f"Send Authorization: Bearer with the token in {wanted.place}, or use the tokenproxy command.",
        )
        answer.headers["WWW-Authenticate"] = 'Bearer realm="tokenproxy admin"'
        return answer

    return checked


def _count(request: web.Request, name: str, *, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"[1-9]\d*", text, re.ASCII):
        raise Unusable(f"{name} must be a number from 1 to {most}")
    return most if len(text) > len(str(most)) else min(int(text), most)


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _verdict(request: web.Request, reasons: dict[str, str]) -> web.Response:
    status = 503 if reasons else 200
    if JSON in request.headers.get("Accept", ""):
        return json_answer({"status": "unavailable" if reasons else "ok", "reasons": reasons}, status=status)
    text = "".join(f"{name}: {reason}\n" for name, reason in reasons.items()) or "ok\n"
    return web.Response(text=text, status=status)
