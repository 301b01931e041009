"""Logging an account in from a page, as ``tokenproxy login`` does: by this browser, another one, or a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from aiohttp import web

from tokenproxy.admin.dashboard import views, words
from tokenproxy.admin.dashboard.attempts import Attempt, Attempts, is_web_address, qr_code
from tokenproxy.admin.dashboard.door import Door, go, notice_of
from tokenproxy.admin.dashboard.sessions import Session
from tokenproxy.admin.dashboard.sight import Sight
from tokenproxy.core.device import by_device
from tokenproxy.core.provider import LOGIN_GRANTS, table_of
from tokenproxy.errors import TokenproxyError, UnknownLoginError
from tokenproxy.log import redact

_LONGEST_NAME: Final = 200


class LoggingIn:
    def __init__(self, sight: Sight, door: Door) -> None:
        self._sight = sight
        self._door = door
        self._attempts = Attempts()

    def routes(self) -> list[web.RouteDef]:
        page, form = self._door.page, self._door.form
        return [
            web.get("/log-in", page(self._log_in_page)),
            web.post("/log-in", form(self._log_in)),
            web.get("/logins/{key}", page(self._attempt)),
            web.post("/logins/{key}", form(self._go_on)),
        ]

    async def stands(self, key: str) -> object:
        """Another value when the attempt of this key has changed; None where there is none."""
        attempt = self._attempts.get(key)
        if attempt is None:
            return None
        try:
            found = await self._sight.logins.status(attempt.id)
        except TokenproxyError:
            return "gone"
        return found["state"], found["question"]

    async def _log_in_page(self, request: web.Request, session: Session) -> web.StreamResponse:
        name = request.query.get("account", "")[:_LONGEST_NAME]
        return await self._door.html("log_in.html", request, session, **self._ways(name))

    def _ways(self, name: str) -> dict[str, Any]:
        """What a login of this account, or of one that is still to be named, can be done by."""
        tables = {
            table: account for table, account in self._sight.tables().items() if account.grant in LOGIN_GRANTS
        }
        spec = tables.get(table_of(name))
        provider = spec.provider if spec is not None else None
        return {
            "name": name,
            "known": spec is not None,
            "tables": sorted(tables),
            "provider": provider.title or provider.name if provider is not None else "",
            "browser": provider is None or bool(provider.authorize_url or provider.issuer),
            "device": provider is None or bool(provider.device_url or provider.issuer),
            "by_device": spec is not None and by_device(spec),
            "callback": self._callback(name) if spec is not None else "",
        }

    def _callback(self, name: str) -> str:
        return self._sight.logins.callback_address(name)

    async def _log_in(self, _: web.Request, session: Session, form: Mapping[str, str]) -> web.StreamResponse:
        name = form.get("account", "").strip()
        try:
            begun = await self._sight.logins.begin(name, device=form.get("way") == "device")
        except TokenproxyError as error:
            session.notices.append(notice_of(error))
            return go(f"/log-in?{urlencode({'account': name[:_LONGEST_NAME]})}")
        return go(f"/logins/{self._attempts.add(begun).key}")

    async def _attempt(self, request: web.Request, session: Session) -> web.StreamResponse:
        attempt = self._known_attempt(request)
        found, now = await self._sight.logins.status(attempt.id), self._sight.clock.now()
        begun = attempt.begun
        here = self._sight.public_url.partition("://")[2].lower() == request.host.lower()
        verification = str(begun.get("verification_uri") or "")
        complete = str(begun.get("verification_uri_complete") or verification)
        return await self._door.html(
            "login.html",
            request,
            session,
            attempt=attempt,
            found=found,
            waiting=found["state"] == "pending" and not found["question"],
            ends=views.time_of(words.moment(found["expires_at"]), now),
            start=str(begun.get("start_url" if here else "authorize_url") or ""),
            here=here,
            callback=self._callback(attempt.account) if not attempt.device else "",
            user_code=begun.get("user_code", ""),
            verification=verification,
            verification_link=complete if is_web_address(complete) else "",
            qr=qr_code(complete) if attempt.device and found["state"] == "pending" else "",
            detail=views.sentence(redact(str(found["detail"] or ""))),
            next_step=redact(str(found["next_step"] or "")),
            account=views.account_view(found["result"], now) if found["result"] else None,
            account_address=views.address_of(attempt.account),
            again=f"/log-in?account={quote(attempt.account, safe='')}",
        )

    async def _go_on(
        self, request: web.Request, session: Session, form: Mapping[str, str]
    ) -> web.StreamResponse:
        attempt, logins = self._known_attempt(request), self._sight.logins
        try:
            match form.get("do"):
                case "confirm":
                    await logins.confirm(attempt.id)
                case "cancel":
                    await logins.cancel(attempt.id)
                case "paste":
                    await logins.paste(attempt.id, form.get("address", "").strip())
                case _:
                    raise web.HTTPBadRequest
        except TokenproxyError as error:
            session.notices.append(notice_of(error))
        return go(f"/logins/{attempt.key}")

    def _known_attempt(self, request: web.Request) -> Attempt:
        attempt = self._attempts.get(request.match_info["key"])
        if attempt is None:
            raise UnknownLoginError(
                "there is no such login: it ended a while ago", next_step="begin it again"
            )
        return attempt
