"""The third party of Deskpro's guide: renamed parameters, an answer in the fragment, an exchange by GET."""

from __future__ import annotations

import secrets
from ssl import SSLContext
from typing import Literal
from urllib.parse import urlencode

from aiohttp import web

from tests.simulators.provider import (
    Answer,
    Auth,
    Place,
    Provider,
    Refused,
    TokenCall,
    _Code,
    _headers,
)
from tokenproxy.core.interfaces import Clock

_ASKED = {
    "first": frozenset({"client_key", "redirect_uri"}),
    "strict": frozenset({"state", "redirect_uri", "client_id"}),
    "implicit": frozenset({"client_key", "redirect_uri"}),
}


class DeskproProvider(Provider):
    """
    ``first`` and ``implicit`` know no state and answer after the ``#``; ``strict`` takes one registered address.

    The exchange is ``GET /token?secret=...&access_code=...``, its answer ``{"token": ...}``.
    """

    name = "deskpro-example"
    authorize_path = "/authorize"
    token_path = "/token"
    place = Place.QUERY
    auth = Auth.BODY
    default_scope = None
    authorize_parameters = frozenset()
    exchange_parameters = frozenset({"secret", "access_code"})
    refresh_parameters = frozenset()

    client_id = "client-key-1"

    def __init__(
        self,
        flow: Literal["first", "strict", "implicit"] = "first",
        *,
        ssl: SSLContext | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(ssl=ssl, clock=clock)
        self.flow = flow

    def _authorize_endpoint(self, request: web.BaseRequest) -> web.Response:
        call = TokenCall(self._monotonic(), request.method, request.raw_path, _headers(request), b"")
        try:
            if call.method != "GET":
                raise self._complain(call, f"method {call.method}", status=405)
            pairs = self._pairs(call, call.query.encode("latin-1"))
            asked = dict(pairs)
            if len(asked) != len(pairs) or not all(asked.values()):
                raise self._complain(call, "a parameter that is doubled or empty")
            self._check_names(call, asked, _ASKED[self.flow])
            if asked.get("client_key", asked.get("client_id")) != self.client_id:
                raise self._complain(call, "another client than agreed")
            if self.redirect_uri is not None and asked["redirect_uri"] != self.redirect_uri:
                raise self._complain(call, "another redirect_uri than registered")
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return web.Response(status=302, headers={"Location": self._back(asked)})

    def _back(self, asked: dict[str, str]) -> str:
        if self.flow == "implicit":
            token = self._issue(self._open_grant(None))["access_token"]
            given = {"access_token": token, "expires_in": "3600", "token_type": "bearer"}
            return f"{asked['redirect_uri']}#{urlencode(given)}"
        code = self._new_code(asked)
        if self.flow == "strict":
            return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
        return f"{asked['redirect_uri']}#code={code}"

    def _new_code(self, asked: object) -> str:
        code = secrets.token_hex(10)
        self._codes[code] = _Code(grant=self._open_grant(None), redirect_uri=None, challenge=None)
        self._issued.append(code)
        return code

    def _grant_step(self, call: TokenCall) -> Answer:
        if call.method != "GET" or call.body or call.all("Authorization") or call.all("Content-Type"):
            raise self._complain(call, f"{call.method} where a bare GET is wanted", status=405)
        pairs = self._pairs(call, call.query.encode("latin-1"))
        parameters = dict(pairs)
        if len(parameters) != len(pairs):
            raise self._complain(call, "a doubled parameter")
        self._check_names(call, parameters, self.exchange_parameters)
        if parameters["secret"] != self.client_secret:
            raise Refused(401, "invalid_client")
        known = self._codes.pop(parameters["access_code"], None)
        if known is None:
            raise Refused(400, "invalid_grant")
        self.exchanges += 1
        answer = {"token": self._issue(known.grant)["access_token"]}
        self.changes.happened()
        return answer

    def _new_access_token(self, grant: object) -> str:
        return secrets.token_urlsafe(self.token_size * 3 // 4)
