"""
The door before the pages: signing in and out, and what every page is wrapped in.

A handler sees a request with its session, a form's handler its fields as well, after the form's key was looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from tokenproxy import __version__, audit
from tokenproxy.admin.acting import with_session
from tokenproxy.admin.dashboard import gate, views
from tokenproxy.admin.dashboard.gate import Gate, form_of, our_page, peer_of
from tokenproxy.admin.dashboard.rendering import Rendering
from tokenproxy.admin.dashboard.sessions import Notice, Session, Sessions, Tries
from tokenproxy.admin.dashboard.sight import Sight
from tokenproxy.admin.problems import answer_to
from tokenproxy.errors import TokenproxyError
from tokenproxy.log import event, redact

_log: Final = logging.getLogger(__name__)

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
LIVE: Final = "Tokenproxy-Live"
"""A field by which our script says that it asks, and takes over only what changes: notices are for the eyes of a person."""

Handler = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]
FormHandler = Callable[[web.Request, Session, Mapping[str, str]], Awaitable[web.StreamResponse]]
Plain = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        monotonic = sight.clock.monotonic
        self._gate = Gate(
            Sessions(sight.token, monotonic), Tries(monotonic), sight.public_url, sight.insecure_http
        )
        self._rendering = Rendering()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/sign-in", self._sign_in_page),
            web.post("/sign-in", self._sign_in),
            web.post("/sign-out", self.form(self._sign_out)),
            web.get("/assets/{name}", self._asset),
        ]

    def session(self, request: web.Request) -> Session | None:
        return self._gate.session(request)

    def lives(self, session: Session) -> bool:
        return self._gate.sessions.lives(session)

    # -- before a handler ----------------------------------------------------------------------------------------------

    def page(self, handler: Handler) -> Plain:
        async def answered(request: web.Request) -> web.StreamResponse:
            if gate.from_elsewhere(request):
                return await self.html("continue.html", request, address=our_page(request.raw_path))
            session = self._gate.session(request)
            if session is None:
                asked = our_page(request.raw_path)
                return go("/sign-in" if asked == "/" else f"/sign-in?{urlencode({'next': asked})}")
            with_session()
            try:
                return await handler(request, session)
            except TokenproxyError as error:
                return await self._sorry(request, session, error)

        return answered

    def form(self, handler: FormHandler) -> Plain:
        async def handled(request: web.Request, session: Session) -> web.StreamResponse:
            form = await form_of(request)
            if not session.knows(form.get("form_key", "")):
                event(_log, "caller_refused", code="form_refused", listener="admin")
                return await self.html(
                    "sorry.html",
                    request,
                    session,
                    status=403,
                    title="This form is not of this session",
                    detail="Nothing was done. Go back, reload the page and try again.",
                )
            if why := audit.unavailable():
                return await self.html(
                    "sorry.html",
                    request,
                    session,
                    status=503,
                    title="Nothing is changed while the audit log fails",
                    detail=views.sentence(why),
                )
            return await handler(request, session, form)

        return self.page(handled)

    # -- signing in ----------------------------------------------------------------------------------------------------

    async def _sign_in_page(self, request: web.Request) -> web.StreamResponse:
        if self._gate.session(request) is not None:
            return go(our_page(request.query.get("next", "/")))
        return await self._ask(request, next_page=our_page(request.query.get("next", "/")))

    async def _ask(
        self, request: web.Request, *, next_page: str, status: int = 200, trouble: str = ""
    ) -> web.Response:
        return await self.html(
            "sign_in.html",
            request,
            status=status,
            next_page=next_page,
            place=self._sight.token().place,
            may=self._gate.may_sign_in(request),
            trouble=trouble,
        )

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        gate_, peer = self._gate, peer_of(request)
        form = await form_of(request)
        next_page = our_page(form.get("next", "/"))
        if not gate_.may_sign_in(request):
            return await self._ask(request, next_page=next_page, status=403)
        session = gate_.sessions.begin(form.get("token", "").strip())
        if session is None:
            return await self._refused(request, peer, next_page)
        gate_.tries.succeeded(peer)
        before = gate_.session(request)
        if before is not None:
            gate_.sessions.end(before)
        with_session()
        event(_log, "signed_in", peer=request.remote)
        answer = go(next_page)
        gate_.admit(request, answer, session)
        return answer

    async def _refused(self, request: web.Request, peer: str, next_page: str) -> web.StreamResponse:
        """A wrong token; one that comes too early is not counted, so that the wait has an end."""
        tries = self._gate.tries
        wait = tries.wait(peer)
        if wait:
            said = f"Too many wrong tokens: try again in {wait} s."
            answer = await self._ask(request, next_page=next_page, status=429, trouble=said)
            answer.headers["Retry-After"] = str(wait)
            return answer
        tries.failed(peer)
        event(_log, "sign_in_refused", peer=request.remote)
        return await self._ask(
            request, next_page=next_page, status=403, trouble="This is not the admin token."
        )

    async def _sign_out(self, _: web.Request, session: Session, __: Mapping[str, str]) -> web.StreamResponse:
        self._gate.sessions.end(session)
        event(_log, "signed_out")
        answer = go("/sign-in")
        self._gate.dismiss(answer)
        return answer

    # -- answers -------------------------------------------------------------------------------------------------------

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        asset = await self._rendering.asset(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "private, max-age=604800, immutable"} if request.query.get("v") else {}
        return web.Response(
            body=asset.body, content_type=asset.content_type, charset="utf-8", headers=headers
        )

    async def _sorry(
        self, request: web.Request, session: Session, error: TokenproxyError
    ) -> web.StreamResponse:
        return await self.html(
            "sorry.html",
            request,
            session,
            status=answer_to(error).status,
            title="This cannot be shown" if request.method == "GET" else "This could not be done",
            detail=views.sentence(redact(error.message)),
            next_step=redact(error.next_step or ""),
        )

    async def html(
        self,
        template: str,
        request: web.Request,
        session: Session | None = None,
        *,
        status: int = 200,
        **values: Any,
    ) -> web.Response:
        now = self._sight.clock.now()
        reasons = await self._sight.health.reasons() if session is not None else {}
        html = await self._rendering.html(
            template,
            form_key=session.form_key if session is not None else "",
            notices=session.told() if session is not None and LIVE not in request.headers else [],
            signed_in=session is not None,
            reasons=reasons,
            draining=self._sight.health.draining,
            path=request.path,
            now=views.time_of(now, now),
            version=__version__,
            **{"next_step": "", **values},
        )
        return web.Response(
            text=html,
            content_type="text/html",
            status=status,
            headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"},
        )


def go(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address})


def notice_of(error: TokenproxyError) -> Notice:
    return Notice("bad", views.sentence(redact(error.message)), redact(error.next_step or ""))
