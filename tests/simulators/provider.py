"""
Authorization servers, each as strict about its guide's wire form as the real one might be.

A request that deviates (method, path, place of the parameters, client authentication, an unknown, doubled, missing
or empty parameter) is refused with 400 and written down in ``complaints``; a story ends with
``assert not provider.complaints``. A spent refresh token that comes back outside of ``grace`` kills its grant.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from ssl import SSLContext
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, quote, quote_plus, urlencode

from aiohttp import web

from tests.planted import Planting, plant
from tests.simulators.server import Server, cut
from tokenproxy.core.interfaces import Clock

Answer = dict[str, Any]
"""A token answer, as RFC 6749 section 5.1 has it."""
RawAnswer = tuple[int, Mapping[str, str], str | bytes]
"""Status, headers, body."""


class Field(Enum):
    """What may stand in a knob where no JSON value would say it."""

    ABSENT = "absent"
    """The field is left out of the answer."""
    SAME = "same"
    """The refresh token that was sent is given again."""


ABSENT = Field.ABSENT
SAME = Field.SAME


class Place(Enum):
    """Where the parameters of a token request travel."""

    QUERY = "query"
    FORM = "form"
    JSON = "json"


class Auth(Enum):
    """How a client proves itself."""

    BASIC_RAW = "basic_raw"
    BODY = "body"


class Refused(Exception):  # noqa: N818 - not a mistake of ours: what the simulator answers
    """The answer to a request that the provider doesn't accept."""

    def __init__(self, status: int, error: str, description: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error} | ({"error_description": description} if description else {})


@dataclass(frozen=True, slots=True)
class TokenCall:
    """A request to the token endpoint, as it came."""

    at: float
    """On the provider's monotonic clock."""
    method: str
    target: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def parameters(self) -> dict[str, str]:
        """From wherever they are, undoing nothing twice; for asserts, not strict."""
        if self.body.lstrip().startswith(b"{"):
            return {name: str(value) for name, value in json.loads(self.body).items()}
        return dict(parse_qsl(self.query, keep_blank_values=True)) | dict(
            parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)
        )

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(slots=True)
class Grant:
    """One user's consent: a chain of refresh tokens, of which only the newest is good."""

    number: int
    scope: str | None
    answers: list[Answer] = field(default_factory=list, repr=False)
    """What was issued, oldest first."""
    refresh_token: str = field(default="", repr=False)
    """The one that is good."""
    spent: dict[str, tuple[float, Answer]] = field(default_factory=dict, repr=False)
    """Refresh token -> when it was spent, and for which answer."""
    access: dict[str, float] = field(default_factory=dict, repr=False)
    """Live access token -> when it was issued."""
    used: set[str] = field(default_factory=set, repr=False)
    """Access tokens that an API has seen."""
    dead: bool = False


@dataclass(frozen=True, slots=True)
class _Code:
    grant: Grant
    redirect_uri: str | None
    challenge: str | None


class Provider(Server):
    """
    What the providers share; see the subclasses for what each guide asks.

    The knobs are plain attributes and may be changed while requests are under way.
    """

    name: ClassVar[str]
    """Of the preset."""
    authorize_path: ClassVar[str]
    token_path: ClassVar[str]
    validate_path: ClassVar[str | None] = None
    place: ClassVar[Place]
    auth: ClassVar[Auth]
    header: ClassVar[str] = "Authorization"
    """Where its APIs want the token..."""
    scheme: ClassVar[str] = "Bearer "
    """...and what stands before it."""
    token_type: ClassVar[str] = "Bearer"
    default_scope: ClassVar[str | None]
    authorize_parameters: ClassVar[frozenset[str]]
    authorize_optional: ClassVar[frozenset[str]] = frozenset()
    """Taken by the authorization page, and not needed."""
    exchange_parameters: ClassVar[frozenset[str]]
    refresh_parameters: ClassVar[frozenset[str]]
    machine_parameters: ClassVar[Mapping[str, frozenset[str]]] = {}
    """``grant_type`` of a client that comes by itself -> what it must send."""
    optional_parameters: ClassVar[frozenset[str]] = frozenset()
    """Taken at any step, beside those that must be there."""

    client_id: str = "client-1"
    client_secret: str = "a secret: 100%+/="
    """Its form-encoding differs from it, so that ``basic`` and ``basic_raw`` cannot be mixed up unseen."""

    def __init__(self, *, ssl: SSLContext | None = None, clock: Clock | None = None) -> None:
        super().__init__(ssl=ssl)
        self._clock = clock

        # Clients that come by themselves
        self.agreed: dict[str, str] = {}
        """Parameter -> the one value that is taken (``password``, ``subject_token``)."""
        self.machine_scopes = {self.default_scope}
        self.machine_refresh_token = False
        """Whether they get a refresh token, against RFC 6749 section 4.4.3."""

        # Rotation
        self.rotate = True
        self.unrotated: Any = ABSENT
        """``refresh_token`` in the answer to a refresh while ``rotate`` is off: ABSENT, SAME, None, ""."""
        self.kill_on_reuse = True
        self.grace = 0.0
        """Seconds in which the newest spent refresh token still works."""
        self.grace_answer: Literal["same", "new"] = "same"
        """What a repeat inside ``grace`` gets: the same pair again, or a further one that ends it."""
        self.spend_on_first_use = False
        """The spent token works until the new access token is used at an API (Doorkeeper, Shopify)."""
        self.refresh_ends_access = False
        """A refresh ends the grant's older access tokens at once."""

        # Answers
        self.expires_in: Any = 3600
        """Any JSON value, or ABSENT."""
        self.access_life: float | None = None
        """Seconds that an access token really lives, whatever the answer says; None: until it is revoked."""
        self.jwt_life: float | None = None
        """``exp - iat`` of tokens that are JWTs; None: no such claims."""
        self.token_size = 800
        """About how many bytes an access token has."""
        self.extra: Answer = {}
        """Merged into every token answer; for other fields than the tokens (those: ``unrotated``, ``answer_override``)."""

        # Faults at the token endpoint
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        """Token calls wait until it is set."""
        self.hold: Literal["before", "after", "middle"] = "before"
        """Where ``delay`` and ``gate`` hold a call: before the commit, after it, or after half of the answer."""
        self.outage: int | None = None
        """A status that every token call gets, before anything is looked at."""
        self.retry_after: str | int | None = None
        """Sent with ``outage`` and ``error``."""
        self.error: Mapping[str, Any] | None = None
        """Refuse every token call with this JSON; nothing is committed."""
        self.error_status: int | None = None
        """None: 401 for ``invalid_client``, else 400 (RFC 6749 section 5.2)."""
        self.lose_answers = 0
        """So many good answers are committed, and then the connection is cut instead."""
        self.answer_override: RawAnswer | Callable[[Answer], RawAnswer] | None = None
        """A tuple stands for the whole call, uncommitted; a callable spoils the answer of a commit."""
        self.validate_override: int | None = None
        """A status for every validate call."""
        self.validate_gate: asyncio.Event | None = None
        self.deny: str | None = None
        """An error code for the authorization page to send back."""
        self.redirect_uri: str | None = None
        """The registered one; None: any is taken (and Deskera, which is sent none, needs one)."""

        # What happened
        self.complaints: list[str] = []
        """Deviations from the guide, without secrets."""
        self.grants: list[Grant] = []
        self.requests: list[TokenCall] = []
        self.token_calls = 0
        self.max_concurrent_token_calls = 0
        self.refreshes = 0
        """Committed."""
        self.exchanges = 0
        self.obtained = 0
        """Tokens given to clients that came by themselves."""
        self.replays = 0
        """Spent refresh tokens that were let pass."""
        self.reuses = 0
        """Spent refresh tokens that were not."""
        self.validate_calls = 0
        self._inside = 0
        self._codes: dict[str, _Code] = {}
        self._spent_codes: dict[str, Grant] = {}
        self._by_access: dict[str, Grant] = {}
        self._by_refresh: dict[str, Grant] = {}
        self._issued: list[str] = Planting()
        plant(self.client_secret)

    # For stories

    def new_grant(self, scope: str | None = None) -> Answer:
        """What a login would have brought: a token answer. ``scope`` is what was asked for; None: the guide's."""
        grant = self._open_grant(scope if scope is not None else self.default_scope)
        return dict(self._issue(grant))

    def grant_of(self, of: Grant | Mapping[str, Any] | str | None = None) -> Grant:
        """The grant of a token answer or a token; None: the newest grant."""
        if of is None:
            return self.grants[-1]
        if isinstance(of, Grant):
            return of
        token = of if isinstance(of, str) else of["access_token"]
        return self._by_refresh[token] if token in self._by_refresh else self._by_access[token]

    def latest(self, of: Grant | Mapping[str, Any] | str | None = None) -> Answer:
        """The newest token answer of a grant."""
        return self.grant_of(of).answers[-1]

    def live(self, token: str) -> bool:
        """Whether an access token works now."""
        grant = self._by_access.get(token)
        if grant is None or grant.dead or token not in grant.access:
            return False
        return self.access_life is None or self._monotonic() < grant.access[token] + self.access_life

    def issued(self, token: str) -> bool:
        """Whether this access token was ever ours, alive or not."""
        return token in self._by_access

    def number(self, token: str) -> int | None:
        """Which of its grant's token answers an access token is from, counted from 1; None: none of ours."""
        grant = self._by_access.get(token)
        if grant is None:
            return None
        return 1 + [answer["access_token"] for answer in grant.answers].index(token)

    def used(self, token: str) -> None:
        """An API has taken this token."""
        if (grant := self._by_access.get(token)) is not None:
            grant.used.add(token)

    def revoke_access(self, token: str) -> None:
        self._by_access[token].access.pop(token, None)

    def revoke_all_access(self) -> None:
        """Every access token is dead; refresh tokens work on."""
        for grant in self.grants:
            grant.access.clear()

    def revoke_grant(self, of: Grant | Mapping[str, Any] | str | None = None) -> None:
        """As a user does who takes the consent back."""
        grant = self.grant_of(of)
        grant.dead = True
        grant.access.clear()

    async def token_call_arrived(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until at least ``count`` token calls are inside, read and not yet answered (see ``gate``)."""
        await self.changes.until(
            lambda: self._inside >= count, what=f"{count} token call(s) inside", timeout=timeout
        )

    async def token_calls_made(self, count: int) -> None:
        """Wait until at least ``count`` token calls in all have come."""
        await self.changes.until(lambda: self.token_calls >= count, what=f"{count} token call(s)")

    async def refreshed(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until at least ``count`` refreshes in all are committed."""
        await self.changes.until(
            lambda: self.refreshes >= count, what=f"{count} committed refresh(es)", timeout=timeout
        )

    async def validate_call_arrived(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until at least ``count`` validate calls in all have come."""
        await self.changes.until(
            lambda: self.validate_calls >= count, what=f"{count} validate call(s)", timeout=timeout
        )

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header with our raw id and secret."""
        return "Basic " + base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()

    @property
    def secrets(self) -> list[str]:
        """Every value that must show up in no log: all tokens and codes ever issued, and the client's secret."""
        return [*self._issued, self.client_secret, self.basic.removeprefix("Basic ")]

    def leaks(self, text: str) -> list[str]:
        """
        Which secrets stand in ``text``, whole or in a piece of 31 characters or more, raw or percent-encoded.

        Each is named by its place in ``secrets``, so that a failing test prints none.
        """
        found = []
        for place, secret in enumerate(self.secrets):
            start = (
                secret.find(".") + 13 if secret.startswith("eyJ") else 0
            )  # what all our JWTs begin with is no secret
            pieces = [secret[at : at + 16] for at in range(start, len(secret) - 15, 16)] or [secret]
            if any(piece in text or quote(piece, safe="") in text for piece in pieces):
                found.append(f"secret {place} of {len(self.secrets)}")
        return found

    # The server

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path == self.token_path:
            return await self._token_endpoint(request)
        if path == self.validate_path:
            return await self._validate_endpoint(request)
        if path == self.authorize_path:
            return self._authorize_endpoint(request)
        self.complaints.append(f"{request.method} {path}: there is nothing")
        return web.json_response({"error": "not_found"}, status=404)

    async def _token_endpoint(self, request: web.BaseRequest) -> web.StreamResponse:
        self.token_calls += 1
        call = TokenCall(
            at=self._monotonic(),
            method=request.method,
            target=request.raw_path,
            headers=_headers(request),
            body=await request.read(),
        )
        self.requests.append(call)
        with self._counted():
            if self.hold == "before":
                await self._wait()
            try:
                answer = self._answer(call)
            except Refused as refused:
                answer = _json(refused.status, refused.body)
            if self.hold == "after":
                await self._wait()
            if self.lose_answers > 0 and answer[0] == 200:
                self.lose_answers -= 1
                return cut(request)
            return await self._send(request, *answer)

    def _answer(self, call: TokenCall) -> RawAnswer:
        """Outages first, then the guide's rules, then the grant."""
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.outage is not None:
            return self.outage, {"Content-Type": "text/html"} | retry, "<h1>Temporarily unavailable</h1>"
        if isinstance(self.answer_override, tuple):
            return self.answer_override
        if self.error is not None:
            status = self.error_status or (401 if self.error.get("error") == "invalid_client" else 400)
            status, headers, body = _json(status, self.error)
            return status, {**headers, **retry}, body
        good = self._grant_step(call)
        if self.answer_override is not None:
            return self.answer_override(good)
        return _json(200, good)

    def _grant_step(self, call: TokenCall) -> Answer:
        steps = {
            "refresh_token": (self.refresh_parameters, self._refresh),
            "authorization_code": (self.exchange_parameters, self._exchange),
            **{name: (wanted, self._machine) for name, wanted in self.machine_parameters.items()},
        }
        parameters = self._parameters(call)
        kind = parameters.get("grant_type", "")
        if kind not in steps:
            raise self._complain(call, f"grant_type {kind!r}", error="unsupported_grant_type")
        names, step = steps[kind]
        self._check_names(call, parameters, names)
        self._authenticate(call, parameters)
        answer = step(call, parameters)
        self.changes.happened()
        return answer

    # The wire form

    def _parameters(self, call: TokenCall) -> dict[str, str]:
        if call.method != "POST":
            raise self._complain(call, f"method {call.method}", status=405)
        if self.place is Place.QUERY:
            pairs = self._query_parameters(call)
        elif call.query or "?" in call.target:
            raise self._complain(call, "a query where the guide has none")
        elif self.place is Place.FORM:
            self._check_type(call, "application/x-www-form-urlencoded")
            pairs = self._pairs(call, call.body)
        else:
            self._check_type(call, "application/json")
            pairs = self._json_parameters(call)
        doubled = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if doubled:
            raise self._complain(call, f"doubled: {', '.join(sorted(doubled))}")
        empty = [name for name, value in pairs if not value]
        if empty:
            raise self._complain(call, f"empty: {', '.join(sorted(empty))}")
        return dict(pairs)

    def _query_parameters(self, call: TokenCall) -> list[tuple[str, str]]:
        if call.body or call.all("Transfer-Encoding"):
            raise self._complain(call, "a body where the guide has none")
        # The guide's curl sends no type, Deskera's own SDK says JSON; anything else describes a body that isn't there.
        if types := [kind for kind in call.all("Content-Type") if not kind.startswith("application/json")]:
            raise self._complain(call, f"Content-Type {types[0]} without a body")
        return self._pairs(call, call.query.encode("latin-1"))

    def _pairs(self, call: TokenCall, raw: bytes) -> list[tuple[str, str]]:
        if not re.fullmatch(rb"(?:[A-Za-z0-9\-._~!$'()*,;:@/?&=+]|%[0-9A-Fa-f]{2})+", raw):
            raise self._complain(call, "parameters that are empty or not percent-encoded")
        try:
            return parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict"
            )
        except ValueError:
            raise self._complain(call, "parameters that nobody can read") from None

    def _json_parameters(self, call: TokenCall) -> list[tuple[str, str]]:
        try:
            pairs = json.loads(call.body, object_pairs_hook=list)
        except ValueError:
            raise self._complain(call, "a body that is not JSON") from None
        if not isinstance(pairs, list) or not all(
            isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs
        ):
            raise self._complain(call, "a body that is not a JSON object of strings")
        return pairs

    def _check_type(self, call: TokenCall, wanted: str) -> None:
        types = call.all("Content-Type")
        if len(types) != 1 or not re.fullmatch(
            rf"{re.escape(wanted)}(; ?charset=utf-8)?", types[0], re.IGNORECASE
        ):
            raise self._complain(call, f"Content-Type {types} instead of {wanted}")

    def _check_names(self, call: TokenCall, parameters: dict[str, str], wanted: frozenset[str]) -> None:
        if missing := wanted - parameters.keys():
            raise self._complain(call, f"missing: {', '.join(sorted(missing))}")
        if unknown := parameters.keys() - wanted - self.optional_parameters:
            raise self._complain(call, f"unknown: {', '.join(sorted(unknown))}")

    def _authenticate(self, call: TokenCall, parameters: dict[str, str]) -> None:
        given = call.all("Authorization")
        if self.auth is Auth.BODY:
            if given:
                raise self._complain(call, "an Authorization header where the guide has none")
            if (parameters["client_id"], parameters["client_secret"]) != (self.client_id, self.client_secret):
                raise Refused(401, "invalid_client")
            return
        if len(given) != 1 or not given[0].startswith("Basic "):
            raise self._complain(call, "not one Authorization: Basic", error="invalid_client", status=401)
        if given[0] == self.basic:
            return
        encoded = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}".encode()
        if given[0] == "Basic " + base64.b64encode(encoded).decode():
            raise self._complain(call, "form-encoded credentials where the guide has raw ones", status=401)
        raise Refused(401, "invalid_client")

    def _complain(
        self, call: TokenCall, what: str, *, status: int = 400, error: str = "invalid_request"
    ) -> Refused:
        self.complaints.append(f"{call.method} {call.path}: {what}")
        return Refused(status, error, what)

    # Grants

    def _refresh(self, call: TokenCall, parameters: dict[str, str]) -> Answer:
        token = parameters["refresh_token"]
        grant = self._by_refresh.get(token)
        if grant is None:
            if {
                token.replace(" ", "+"),
                token.replace("%2B", "+").replace("%2F", "/"),
            } & self._by_refresh.keys():
                raise self._complain(call, "a refresh token that is not percent-encoded exactly once")
            raise Refused(400, "invalid_grant")
        if grant.dead:
            raise Refused(400, "invalid_grant")
        if "scope" in parameters and parameters["scope"] != grant.scope:
            raise self._complain(call, "another scope than the one asked for", error="invalid_scope")
        if token != grant.refresh_token:
            return self._come_back(grant, token)
        self.refreshes += 1
        return self._issue(grant, spends=token)

    def _come_back(self, grant: Grant, token: str) -> Answer:
        """A spent refresh token is here again: a lost answer, or a thief."""
        spent_at, successor = grant.spent[token]
        newest = successor["refresh_token"] == grant.refresh_token
        in_time = self.spend_on_first_use and successor["access_token"] not in grant.used
        in_time = in_time or self._monotonic() < spent_at + self.grace
        if newest and in_time:
            self.replays += 1
            if self.grace_answer == "same":
                return successor
            self.refreshes += 1
            return self._issue(grant, spends=token)
        self.reuses += 1
        if self.kill_on_reuse:
            self.revoke_grant(grant)
        raise Refused(400, "invalid_grant")

    def _exchange(self, call: TokenCall, parameters: dict[str, str]) -> Answer:
        code = parameters["code"]
        if code in self._spent_codes:  # RFC 6749 section 4.1.2: what the first use brought should be revoked
            self.revoke_grant(self._spent_codes[code])
            raise Refused(400, "invalid_grant")
        known = self._codes.get(code)
        if known is None:
            raise Refused(400, "invalid_grant")
        if "redirect_uri" in self.exchange_parameters and parameters["redirect_uri"] != known.redirect_uri:
            raise self._complain(call, "another redirect_uri than at the start", error="invalid_grant")
        if "scope" in parameters and parameters["scope"] != known.grant.scope:
            raise self._complain(call, "another scope than at the start", error="invalid_scope")
        if known.challenge != _challenge(parameters.get("code_verifier")):
            raise self._complain(call, "a code_verifier that doesn't fit", error="invalid_grant")
        self._spent_codes[code] = known.grant
        del self._codes[code]
        self.exchanges += 1
        return self._issue(known.grant)

    def _machine(self, call: TokenCall, parameters: dict[str, str]) -> Answer:
        """A client that comes by itself; what it shows must be what was agreed (RFC 6749 section 4.4, 8693, 7523)."""
        for name, agreed in self.agreed.items():
            if name in parameters and parameters[name] != agreed:
                raise Refused(400, "invalid_grant", f"not the {name} that is known: {parameters[name]}")
        if "scope" in parameters and parameters["scope"] not in self.machine_scopes:
            raise Refused(400, "invalid_scope")
        self.obtained += 1
        answer = self._issue(self._open_grant(parameters.get("scope", self.default_scope)))
        return answer if self.machine_refresh_token else _without_refresh_token(answer)

    def _open_grant(self, scope: str | None) -> Grant:
        grant = Grant(number=len(self.grants) + 1, scope=scope)
        self.grants.append(grant)
        return grant

    def _issue(self, grant: Grant, *, spends: str | None = None) -> Answer:
        """The commit: the new pair is good, and what it replaces is not, from this line on."""
        now = self._monotonic()
        access = self._new_access_token(grant)
        answer: Answer = {"token_type": self.token_type, "access_token": access}
        if spends is None or self.rotate:
            answer["refresh_token"] = grant.refresh_token = self._new_refresh_token(grant)
            self._by_refresh[grant.refresh_token] = grant
            self._issued.append(grant.refresh_token)
        elif self.unrotated is SAME:
            answer["refresh_token"] = spends
        elif self.unrotated is not ABSENT:
            answer["refresh_token"] = self.unrotated
        if self.expires_in is not ABSENT:
            answer["expires_in"] = self.expires_in
        answer |= self.extra
        if self.refresh_ends_access and spends is not None:
            grant.access.clear()
        if self.rotate and spends is not None:
            grant.spent[spends] = (now, answer)
        grant.access[access] = now
        grant.answers.append(answer)
        self._by_access[access] = grant
        self._issued.append(access)
        return answer

    def _new_access_token(self, grant: Grant) -> str:
        return self._jwt(grant, "access")

    def _new_refresh_token(self, grant: Grant) -> str:
        return secrets.token_hex(self.token_size // 2)

    def _jwt(self, grant: Grant, kind: str) -> str:
        claims: Answer = {
            "jti": secrets.token_hex(16),
            "sub": f"user-{grant.number}",
            "typ": kind,
            "iss": self.name,
        }
        if self.jwt_life is not None:
            issued_at = int(self._wall())
            claims |= {"iat": issued_at, "exp": issued_at + int(self.jwt_life)}
        claims["pad"] = secrets.token_hex(max(self.token_size * 3 // 8 - 200, 8))
        parts = ({"typ": "JWT", "alg": "RS256"}, claims)
        signed = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join([*signed, secrets.token_urlsafe(256)])

    # The other endpoints

    async def _validate_endpoint(self, request: web.BaseRequest) -> web.Response:
        self.validate_calls += 1
        self.changes.happened()
        if self.validate_gate is not None:
            await self.validate_gate.wait()
        if self.validate_override is not None:
            return web.json_response({"validated": False}, status=self.validate_override)
        if request.method != "GET" or "?" in request.raw_path or await request.read():
            self.complaints.append(f"{request.method} {self.validate_path}: not a plain GET")
            return web.json_response({"error": "invalid_request"}, status=400)
        tokens = request.headers.getall(self.header, [])
        if len(tokens) != 1 or not tokens[0].startswith(self.scheme):
            self.complaints.append(f"GET {self.validate_path}: not one token in {self.header}")
            return web.json_response({"error": "invalid_request"}, status=400)
        live = self.live(tokens[0].removeprefix(self.scheme))
        return web.json_response({"valid": live}, status=200 if live else 401)

    def _authorize_endpoint(self, request: web.BaseRequest) -> web.Response:
        """The page where a user says yes; ours says it at once."""
        call = TokenCall(self._monotonic(), request.method, request.raw_path, _headers(request), b"")
        try:
            if call.method != "GET":
                raise self._complain(call, f"method {call.method}", status=405)
            pairs = self._pairs(call, call.query.encode("latin-1"))
            if len(dict(pairs)) != len(pairs) or not all(value for _, value in pairs):
                raise self._complain(call, "a parameter that is doubled or empty")
            asked = dict(pairs)
            needed = {name: value for name, value in asked.items() if name not in self.authorize_optional}
            self._check_names(call, needed, self.authorize_parameters)
            if "+" in call.query:
                raise self._complain(call, "a space that is not %20")
            if asked["response_type"] != "code" or asked["client_id"] != self.client_id:
                raise self._complain(call, "another response_type or client_id than agreed")
            back = asked.get("redirect_uri", self.redirect_uri)
            if back is None or (self.redirect_uri or back) != back:
                raise self._complain(call, "another redirect_uri than registered, or none")
        except Refused as refused:  # RFC 6749 section 4.1.2.1: never redirect to an address that may be wrong
            return web.json_response(refused.body, status=refused.status)
        given = {"state": asked["state"]} if "state" in asked else {}
        if self.deny is not None:
            given = {"error": self.deny} | given
        else:
            given = {"code": self._new_code(asked)} | given
        return web.Response(
            status=302, headers={"Location": f"{back}{'&' if '?' in back else '?'}{urlencode(given)}"}
        )

    def _new_code(self, asked: Mapping[str, str]) -> str:
        code = secrets.token_urlsafe(24) + "+/="
        self._codes[code] = _Code(
            grant=self._open_grant(asked.get("scope", self.default_scope)),
            redirect_uri=asked.get("redirect_uri"),
            challenge=asked.get("code_challenge"),
        )
        self._issued.append(code)
        return code

    # Small things

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._inside += 1
        self.max_concurrent_token_calls = max(self.max_concurrent_token_calls, self._inside)
        self.changes.happened()
        try:
            yield
        finally:
            self._inside -= 1
            self.changes.happened()

    async def _wait(self) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.gate is not None:
            await self.gate.wait()

    async def _send(
        self, request: web.BaseRequest, status: int, headers: Mapping[str, str], body: str | bytes
    ) -> web.StreamResponse:
        raw = body.encode() if isinstance(body, str) else body
        response = web.StreamResponse(status=status, headers={"Cache-Control": "no-store", **headers})
        response.content_length = len(raw)
        await response.prepare(request)
        half = len(raw) // 2
        await response.write(raw[:half])
        if self.hold == "middle":
            await self._wait()
        await response.write(raw[half:])
        await response.write_eof()
        return response

    def _monotonic(self) -> float:
        return self._clock.monotonic() if self._clock else time.monotonic()

    def _wall(self) -> float:
        return self._clock.now().timestamp() if self._clock else time.time()


_CLIENT = frozenset({"client_id", "client_secret"})
_EXCHANGE = frozenset({"grant_type", "code"})
_REFRESH = frozenset({"grant_type", "refresh_token"})
_AUTHORIZE = frozenset({"response_type", "client_id", "state"})


class DeskeraProvider(Provider):
    """Parameters in the query of a POST without a body, raw Basic, kilobytes of JWT, and ``expires_in`` of 0."""

    name = "deskera"
    authorize_path = "/"
    token_path = "/v2/oauth/token"
    validate_path = "/v1/iam/token/app/validate"
    place = Place.QUERY
    auth = Auth.BASIC_RAW
    header = "x-access-token"
    scheme = ""
    token_type = "bearer"
    default_scope = "write"
    authorize_parameters = _AUTHORIZE | {"scope"}
    exchange_parameters = _EXCHANGE | {"scope"}
    refresh_parameters = _REFRESH

    client_id = "cl_pub_1234"
    client_secret = "cl_priv_7723%2B+/=:x"

    def __init__(self, *, ssl: SSLContext | None = None, clock: Clock | None = None) -> None:
        super().__init__(ssl=ssl, clock=clock)
        self.expires_in = 0
        self.token_size = 3000

    def _new_refresh_token(self, grant: Grant) -> str:
        """A JWT whose signature is in plain base64, so that every copy needs its percent-encoding."""
        return self._jwt(grant, "refresh") + "+/8A+/c=="


class PerscomProvider(Provider):
    """Laravel Passport: a form with the client in it, the scope again on refresh, and the old pair ends at once."""

    name = "perscom"
    authorize_path = "/oauth/authorize"
    token_path = "/oauth/token"
    place = Place.FORM
    auth = Auth.BODY
    default_scope = "view:user update:user"
    authorize_parameters = _AUTHORIZE | {"scope", "redirect_uri"}
    authorize_optional = frozenset({"nonce"})
    exchange_parameters = _EXCHANGE | _CLIENT | {"redirect_uri"}
    refresh_parameters = _REFRESH | _CLIENT | {"scope"}

    client_id = "9a1"

    def __init__(self, *, ssl: SSLContext | None = None, clock: Clock | None = None) -> None:
        super().__init__(ssl=ssl, clock=clock)
        self.expires_in = 31536000
        self.jwt_life = 31536000
        self.refresh_ends_access = True


class AskaraProvider(Provider):
    """JSON bodies with the client in them, a day of life, and the old refresh token ends."""

    name = "askara"
    authorize_path = "/authorize"
    token_path = "/oauth2/token"
    place = Place.JSON
    auth = Auth.BODY
    default_scope = "profile organization"
    authorize_parameters = _AUTHORIZE | {"scope", "redirect_uri"}
    exchange_parameters = _EXCHANGE | _CLIENT | {"redirect_uri"}
    refresh_parameters = _REFRESH | _CLIENT

    def __init__(self, *, ssl: SSLContext | None = None, clock: Clock | None = None) -> None:
        super().__init__(ssl=ssl, clock=clock)
        self.expires_in = 86400
        self.jwt_life = 86400


class PlainProvider(Provider):
    """RFC 6749 as most providers mean it: a form, the client in it, PKCE welcome, opaque tokens, a validate call."""

    name = "plain"
    authorize_path = "/authorize"
    token_path = "/token"
    validate_path = "/validate"
    place = Place.FORM
    auth = Auth.BODY
    default_scope = "read"
    authorize_parameters = _AUTHORIZE | {"redirect_uri"}
    exchange_parameters = _EXCHANGE | _CLIENT | {"redirect_uri"}
    refresh_parameters = _REFRESH | _CLIENT
    machine_parameters: ClassVar = {
        "client_credentials": _CLIENT | {"grant_type", "scope"},
        "password": _CLIENT | {"grant_type", "scope", "username", "password"},
        "urn:ietf:params:oauth:grant-type:token-exchange": _CLIENT
        | {"grant_type", "scope", "subject_token", "subject_token_type", "audience"},
        "urn:ietf:params:oauth:grant-type:jwt-bearer": _CLIENT | {"grant_type", "scope", "assertion"},
    }
    optional_parameters = frozenset({"scope", "code_challenge", "code_challenge_method", "code_verifier"})

    def _new_access_token(self, grant: Grant) -> str:
        return secrets.token_urlsafe(self.token_size * 3 // 4)


def _without_refresh_token(answer: Answer) -> Answer:
    return {name: value for name, value in answer.items() if name != "refresh_token"}


def _json(status: int, body: Mapping[str, Any]) -> RawAnswer:
    return status, {"Content-Type": "application/json;charset=UTF-8"}, json.dumps(body)


def _headers(request: web.BaseRequest) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)


def _challenge(verifier: str | None) -> str | None:
    """RFC 7636 section 4.2, method S256."""
    if verifier is None:
        return None
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
