"""A provider where a person types a code in elsewhere (RFC 8628), strict about who polls how fast."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, ClassVar

from aiohttp import web

from tests.simulators.provider import ABSENT, Answer, Grant, PlainProvider, Refused, TokenCall, _headers
from tokenproxy.core.interfaces import Clock

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_CLIENT = frozenset({"client_id", "client_secret"})


@dataclass(slots=True)
class Code:
    """One login under way."""

    user_code: str
    grant: Grant
    expires_at: float
    interval: float
    polled_at: float | None = None
    """On the provider's monotonic clock."""
    said: str = ""
    """``yes`` or ``no``, once somebody has said it."""
    spent: bool = field(default=False)


class DeviceProvider(PlainProvider):
    """The knobs are plain attributes and may be changed while requests are under way."""

    name = "device"
    device_path: ClassVar[str] = "/device_authorization"
    machine_parameters: ClassVar = {DEVICE_GRANT: _CLIENT | {"grant_type", "device_code"}}

    def __init__(self, *, ssl: SSLContext | None = None, clock: Clock | None = None) -> None:
        super().__init__(ssl=ssl, clock=clock)
        self.interval: Any = ABSENT
        """Any JSON value, or ABSENT: then five seconds are meant (RFC 8628 section 3.2)."""
        self.device_life: Any = 900
        """``expires_in`` of the device code."""
        self.complete = True
        """Whether there is a ``verification_uri_complete``."""
        self.slow_downs = 0
        """So many polls get ``slow_down``, and each makes the interval five seconds longer for good."""
        self.device_answer: Answer = {}
        """Put over the answer that begins a login; a value of ABSENT takes the field away."""
        self.device_calls = 0
        self.codes: dict[str, Code] = {}
        self.polls: list[float] = []
        """When each came, on the provider's monotonic clock."""

    # For stories

    def say(self, word: str) -> None:
        """A person says ``yes`` or ``no`` to the newest login."""
        list(self.codes.values())[-1].said = word

    async def polled(self, count: int) -> None:
        """Wait until at least ``count`` polls in all have come."""
        await self.changes.until(lambda: len(self.polls) >= count, what=f"{count} poll(s)")

    @property
    def secrets(self) -> list[str]:
        return [*super().secrets, *self.codes, *(code.user_code for code in self.codes.values())]

    # The server

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.partition("?")[0] != self.device_path:
            return await super().handle(request)
        self.device_calls += 1
        body = await request.read()
        call = TokenCall(self._monotonic(), request.method, request.raw_path, _headers(request), body)
        try:
            parameters = self._parameters(call)
            self._check_names(call, parameters, _CLIENT)
            self._authenticate(call, parameters)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        return web.json_response(self._begin(parameters.get("scope")))

    def _begin(self, scope: str | None) -> Answer:
        device_code, user_code = secrets.token_urlsafe(24), "-".join(secrets.token_hex(2) for _ in range(2))
        self.codes[device_code] = Code(
            user_code=user_code,
            grant=self._open_grant(scope or self.default_scope),
            expires_at=self._monotonic() + float(self.device_life),
            interval=self.interval if isinstance(self.interval, int | float) and self.interval > 0 else 5.0,
        )
        answer: Answer = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": f"{self.url}/activate",
            "expires_in": self.device_life,
            "interval": self.interval,
        }
        if self.complete:
            answer["verification_uri_complete"] = f"{self.url}/activate?user_code={user_code}"
        answer |= self.device_answer
        return {name: value for name, value in answer.items() if value is not ABSENT}

    def _machine(self, call: TokenCall, parameters: dict[str, str]) -> Answer:
        if parameters["grant_type"] != DEVICE_GRANT:
            return super()._machine(call, parameters)
        now = self._monotonic()
        self.polls.append(now)
        self.changes.happened()
        code = self.codes.get(parameters["device_code"])
        if code is None or code.spent:
            raise Refused(400, "invalid_grant")
        if code.polled_at is not None and now < code.polled_at + code.interval:
            raise self._complain(call, f"a poll after {now - code.polled_at:g} s", error="slow_down")
        code.polled_at = now
        if now >= code.expires_at:
            raise Refused(400, "expired_token")
        if code.said == "no":
            raise Refused(400, "access_denied")
        if self.slow_downs > 0:
            self.slow_downs -= 1
            code.interval += 5
            raise Refused(400, "slow_down")
        if code.said != "yes":
            raise Refused(400, "authorization_pending")
        code.spent = True
        self.obtained += 1
        return self._issue(code.grant)
