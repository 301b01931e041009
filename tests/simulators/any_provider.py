"""
One authorization server and API for every row of a table of facts, as strict as the row.

It knows nothing of presets: a request must have exactly the parameters that the row implies, at the row's address, in
the row's place, with one of the row's ways to authenticate. What deviates is refused and written down in
``complaints``. All of the row's hosts are here: ``https://github.com/x`` is ``URL/github.com/x``.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

from aiohttp import web

from tests.simulators.server import Server

ANY: Final = "*"
"""A value that only must be there."""


@dataclass(frozen=True, slots=True)
class Facts:
    """
    A row. Every ``{placeholder}`` of an address is ``acme``; lists are parted by blanks, alternatives by ``|``.

    ``CLIENT``, ``SECRET``, ``SCOPE``, ``TOKEN``, ``ACCESS``, ``REFRESH`` and ``CODE`` stand for what they name.
    """

    name: str
    authorize: str
    par: str
    """Where the authorization request is pushed; then metadata are served, too."""
    token: str
    refresh: str
    """Method and address, where it is not ``token``'s."""
    revoke: str
    """Method and address; empty: logout tells nobody."""
    asks: str
    """``INTROSPECT`` or a method, and the address that tells whether a token lives."""
    auth: str
    """Ways to authenticate; after a ``;`` those of a refresh. ``signed`` is a JWT of ours (RFC 7523)."""
    body: str
    sep: str
    """``space``, ``comma`` or ``none``: no scope is sent."""
    pkce: str
    authorize_params: str
    names: str
    """``WHERE.standard=name``, where ``*`` is everywhere and an empty name nowhere."""
    exchange_params: str
    refresh_params: str
    claims: str
    """Of an assertion that is signed, beside ``sub``."""
    answer: str
    """``dotted.path=value``; without ``ACCESS`` among the values it is beside the usual answer."""
    landing: str
    """What the browser brings back beside the usual, or in its place if ``CODE`` is named; ``#``: in the fragment."""
    placement: str
    headers: str
    renews: str
    """``yes``; ``no``: there is no refresh token; ``token``: a living access token is; ``machine``: asked for again."""
    dead: str
    """Status and JSON of an answer to a dead token."""

    def pairs(self, column: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in getattr(self, column).split())

    @property
    def scope(self) -> str | None:
        return {"space": "one two", "comma": "one,two", "none": None}[self.sep]

    def ways(self, where: str) -> list[str]:
        exchange, _, refresh = self.auth.partition(";")
        return (refresh if where == "refresh" and refresh else exchange).split("|")

    def named(self, where: str, params: Mapping[str, str | None]) -> dict[str, str]:
        """Under this provider's names; what is None, or renamed to nothing, is left out."""
        names = self.pairs("names")
        found = {}
        for standard, value in params.items():
            name = names.get(f"{where}.{standard}", names.get(f"*.{standard}", standard))
            if name and value is not None:
                found[name] = value
        return found


def read_facts(path: Path) -> dict[str, Facts]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        assert rows.fieldnames == [each.name for each in fields(Facts)]
        return {row["name"]: Facts(**row) for row in rows}


class Wrong(Exception):  # noqa: N818 - not a mistake of ours: what the simulator answers
    """A request that the row does not allow."""


@dataclass(slots=True)
class Login:
    """What an authorization request asked for, and must be repeated by the exchange."""

    redirect_uri: str
    challenge: str
    used: bool = False


@dataclass(slots=True)
class AnyProvider(Server):
    """For ``async with``; plain attributes may be looked at and changed."""

    facts: Facts
    redirect_uri: str = ""
    """What is registered."""
    client_id: str = "client-1"
    client_secret: str = "secret-1"
    complaints: list[str] = field(default_factory=list)
    access: str = ""
    """The access token that is live; none else is."""
    refresh: str = ""
    """The refresh token that is good; each refresh replaces it."""
    logins: dict[str, Login] = field(default_factory=dict)
    """By code."""
    pushed: dict[str, dict[str, str]] = field(default_factory=dict)
    proven_with: dict[str, str] | None = None
    """The public key of the first DPoP proof."""
    exchanges: int = 0
    refreshes: int = 0
    asked: int = 0
    issued: list[str] = field(default_factory=list)
    """Every token of both kinds."""
    revoked: list[str] = field(default_factory=list)
    served: int = 0
    """API requests that had a live token."""

    def __post_init__(self) -> None:
        Server.__init__(self)

    def at(self, address: str) -> str:
        """Where an address of the row is on loopback."""
        return address.replace("https://", f"{self.url}/", 1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        path, _, query = target.partition("?")
        try:
            return await self._handle(request, f"https:/{path}", query)
        except Wrong as wrong:
            self.complaints.append(f"{request.method} {path}: {wrong}")
            return web.json_response(
                {"error": "invalid_request", "error_description": str(wrong)}, status=400
            )

    async def _handle(self, request: web.BaseRequest, address: str, query: str) -> web.StreamResponse:
        facts, method = self.facts, request.method
        if address.startswith("https://upstream/"):
            return self._api(request, query)
        if "/.well-known/" in address:
            return self._metadata()
        if address == facts.authorize.partition("?")[0] and method == "GET":
            return self._authorize(query)
        if facts.par and address == facts.par:
            return self._push(await self._parameters(request, query, facts.par), request)
        if facts.asks and address == facts.asks.split(" ")[1]:
            return await self._asked(request, query)
        if self._is_revocation(method, address):
            return await self._revoke(request, address, query)
        token, refresh = facts.token.partition("?")[0], facts.refresh
        refresh_at = refresh.partition(" ")[2].partition("?")[0] or token
        if address not in {token, refresh_at}:
            raise Wrong("nothing is here")
        return await self._token(request, address, query)

    # -- the login page ------------------------------------------------------------------------------------------------

    def _authorize(self, query: str) -> web.Response:
        if "+" in query:
            raise Wrong("a blank is +, and not %20")
        own = self.facts.authorize.partition("?")[2]
        given = _once(parse_qsl(query.removeprefix(own), keep_blank_values=True, strict_parsing=True))
        if self.facts.par:
            if set(given) != {"client_id", "request_uri"}:
                raise Wrong(f"{sorted(given)} after a pushed request")
            given = self.pushed.pop(given["request_uri"])
        else:
            self._compare(given, self._authorization(), "the login page")
        standard = {name: standard for standard, name in self._names("authorize").items()}
        known = {standard.get(name, name): value for name, value in given.items()}
        return self._landed(known)

    def _authorization(self) -> dict[str, str]:
        facts, challenged = self.facts, self.facts.pkce == "S256"
        params = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": ANY if "/*" in self.redirect_uri else self.redirect_uri,
            "state": ANY,
            "scope": facts.scope,
            "code_challenge": ANY if challenged else None,
            "code_challenge_method": "S256" if challenged else None,
        }
        return facts.named("authorize", params) | self._filled("authorize_params")

    def _landed(self, known: Mapping[str, str]) -> web.Response:
        code = secrets.token_hex(10)
        redirect_uri = known.get("redirect_uri", "")
        back = redirect_uri if redirect_uri.startswith("http://") else self.redirect_uri
        self.logins[code] = Login(redirect_uri, known.get("code_challenge", ""))
        brought = self.facts.landing.removeprefix("#").replace("CODE", code)
        usual = [] if "CODE" in self.facts.landing else [f"code={code}"]
        usual += [f"state={quote(known['state'], safe='')}"] if "state" in known else []
        separator = "#" if self.facts.landing.startswith("#") else "?"
        pieces = "&".join([*usual, *brought.split()])
        return web.Response(status=302, headers={"Location": f"{back}{separator}{pieces}"})

    def _push(self, given: dict[str, str], request: web.BaseRequest) -> web.Response:
        self._proof(request)
        self._compare(given, self._authorization(), "the pushed request")
        uri = f"urn:ietf:params:oauth:request_uri:{secrets.token_hex(8)}"
        self.pushed[uri] = given
        return web.json_response({"request_uri": uri, "expires_in": 60}, status=201)

    def _metadata(self) -> web.Response:
        facts = self.facts
        found = {
            "issuer": self.url,
            "authorization_endpoint": self.at(facts.authorize),
            "token_endpoint": self.at(facts.token),
            "response_types_supported": ["code"],
        }
        if facts.par:
            found["pushed_authorization_request_endpoint"] = self.at(facts.par)
            found["require_pushed_authorization_requests"] = True  # type: ignore[assignment]
        return web.json_response(found)

    # -- the token endpoint ----------------------------------------------------------------------------------------------

    async def _token(self, request: web.BaseRequest, address: str, query: str) -> web.Response:
        self._proof(request)
        facts = self.facts
        refresh_method, _, refresh_url = facts.refresh.partition(" ")
        code = self._names("exchange").get("code", "")
        own = facts.token
        given = await self._parameters(request, query, own, methods="GET" if facts.body == "query" else "")
        if facts.renews == "machine":
            self._authenticated(request, given, "exchange", self._filled("exchange_params"))
            self.exchanges += 1
            return self._answer()
        if code in given:
            if address != facts.token.partition("?")[0]:
                raise Wrong("a code, at the address of refreshes")
            return self._exchange(request, given, code)
        if refresh_url:
            if address != refresh_url.partition("?")[0] or request.method != refresh_method:
                raise Wrong("a refresh, elsewhere")
            if query.partition("&")[0] != refresh_url.partition("?")[2] and request.method == "POST":
                raise Wrong(f"its query is {query!r}")
        return self._refresh(request, given)

    def _exchange(self, request: web.BaseRequest, given: dict[str, str], code_name: str) -> web.Response:
        login = self.logins.get(given[code_name])
        if login is None or login.used:
            raise Wrong("a code that is not good")
        login.used = True
        challenged = self.facts.pkce == "S256"
        params = {
            "grant_type": "authorization_code",
            "code": given[code_name],
            "redirect_uri": login.redirect_uri,
            "code_verifier": ANY if challenged else None,
        }
        wanted = self.facts.named("exchange", params) | self._filled("exchange_params")
        self._authenticated(request, given, "exchange", wanted)
        if challenged and _challenge(given["code_verifier"]) != login.challenge:
            raise Wrong("a verifier that is not the challenge's")
        self.exchanges += 1
        return self._answer()

    def _refresh(self, request: web.BaseRequest, given: dict[str, str]) -> web.Response:
        renews = self.facts.renews
        if renews == "no":
            raise Wrong("a refresh, where there are none")
        spent = {"access_token": self.access} if renews == "token" else {"refresh_token": self.refresh}
        extra = self._filled("refresh_params")
        params: dict[str, str | None] = {"grant_type": "refresh_token", **spent}
        wanted = self.facts.named("refresh", params) | extra
        self._authenticated(request, given, "refresh", wanted)
        self.refreshes += 1
        return self._answer()

    def _authenticated(
        self, request: web.BaseRequest, given: dict[str, str], where: str, wanted: dict[str, str]
    ) -> None:
        """One of the row's ways, and one alone; then exactly the parameters that it leaves."""
        allowed = self.facts.ways(where)
        basic = request.headers.getall("Authorization", [])
        if basic:
            pair = f"{self.client_id}:{self.client_secret}".encode()
            if "basic" not in allowed or basic != ["Basic " + base64.b64encode(pair).decode()]:
                raise Wrong("its Authorization is not the row's")
            own: dict[str, str | None] = {}
        elif set(allowed) == {"basic"}:
            raise Wrong("no Authorization")
        elif allowed == ["signed"]:
            own = self._signed(given.get("client_assertion", ""))
        else:
            secret = None if allowed == ["none"] else self.client_secret
            own = {"client_id": self.client_id, "client_secret": secret}
        self._compare(given, wanted | self.facts.named(where, own), where)

    def _signed(self, assertion: str) -> dict[str, str | None]:
        """Whether it says what the row does; whether the signature is good is another simulator's matter."""
        claims = json.loads(_unpadded(assertion.split(".")[1])) if assertion.count(".") == 2 else {}
        wanted = self.facts.pairs("claims")
        if {name: claims.get(name) for name in wanted} != wanted or claims.get("sub") != self.client_id:
            raise Wrong("its assertion is not the row's")
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return {"client_assertion": assertion, "client_assertion_type": kind, "client_id": self.client_id}

    async def _parameters(
        self, request: web.BaseRequest, query: str, address: str, *, methods: str = ""
    ) -> dict[str, str]:
        """From the one place where the row has them."""
        places = self.facts.body.split("|")
        body = await request.read()
        own = address.partition("?")[2]
        kind = request.headers.get("Content-Type", "").partition(";")[0]
        if request.method == "GET" or (places == ["query"] and not body):
            if body:
                raise Wrong("a body with a GET")
            return _once(parse_qsl(query, keep_blank_values=True, strict_parsing=True)[len(parse_qsl(own)) :])
        if request.method != "POST":
            raise Wrong("its method")
        if kind == "application/json" and "json" in places:
            found = json.loads(body)
            if not all(isinstance(value, str) for value in found.values()):
                raise Wrong("JSON of something other than texts")
            return dict(found)
        if kind == "application/x-www-form-urlencoded" and "form" in places:
            return _once(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        raise Wrong(f"parameters as {kind or 'nothing'}, not as {self.facts.body}")

    def _answer(self) -> web.Response:
        self.access, self.refresh = f"at-{secrets.token_hex(12)}", f"rt-{secrets.token_hex(12)}"
        self.issued += [self.access, self.refresh]
        shape = "access_token=ACCESS token_type=Bearer expires_in=3600"
        if self.facts.renews == "yes":
            shape += " refresh_token=REFRESH"
        if "ACCESS" in self.facts.answer:
            shape = ""
        whole: dict[str, Any] = {}
        for pair in f"{shape} {self.facts.answer}".split():
            path, _, text = pair.partition("=")
            *above, last = path.split(".")
            inner = whole
            for name in above:
                inner = inner.setdefault(name, {})
            inner[last] = self._value(text)
        return web.json_response(whole)

    def _value(self, text: str) -> Any:
        known = {"ACCESS": self.access, "REFRESH": self.refresh}
        if text in known:
            return known[text]
        try:
            return json.loads(text)
        except ValueError:
            return unquote(text)

    # -- tokens in use ---------------------------------------------------------------------------------------------------

    def _api(self, request: web.BaseRequest, query: str) -> web.Response:
        if self._presented(request, query) == self.access:
            self.served += 1
            return web.json_response({"fine": True})
        status, _, said = self.facts.dead.partition(" ")
        return web.Response(status=int(status), text=said, content_type="application/json")

    def _presented(self, request: web.BaseRequest, query: str) -> str:
        """The token, from the row's place and no other."""
        kind, _, name = self.facts.placement.partition(":")
        header = name if kind == "header" else "Authorization"
        values = request.headers.getall(header, [])
        if kind == "query":
            if values:
                raise Wrong("an Authorization beside the query")
            found = [value for key, value in parse_qsl(query) if key == name]
            if len(found) != 1:
                raise Wrong(f"{len(found)} tokens in the query")
            return found[0]
        scheme = {"bearer": "Bearer ", "dpop": "DPoP "}.get(kind, "")
        if len(values) != 1 or not values[0].startswith(scheme):
            raise Wrong(f"{len(values)} values of {header}")
        if kind == "header" and "Authorization" in request.headers and header != "Authorization":
            raise Wrong(f"an Authorization beside {header}")
        for extra, value in self._filled("headers").items():
            if request.headers.getall(extra, []) != [value]:
                raise Wrong(f"no {extra}")
        if kind == "dpop":
            self._proof(request)
        return values[0].removeprefix(scheme)

    async def _asked(self, request: web.BaseRequest, query: str) -> web.Response:
        """Whether a token lives."""
        how = self.facts.asks.split(" ")[0]
        self.asked += 1
        if how != "INTROSPECT":
            if request.method != how:
                raise Wrong("its method")
            live = self._presented(request, query) == self.access
            return web.json_response({}, status=200 if live else 401)
        given = _once(parse_qsl((await request.read()).decode(), strict_parsing=True))
        token = given.pop("token", "")
        given.pop("token_type_hint", None)
        self._authenticated(request, given, "introspect", {})
        return web.json_response({"active": token == self.access})

    def _is_revocation(self, method: str, address: str) -> bool:
        wanted, _, pattern = self.facts.revoke.partition(" ")
        if not pattern or method != wanted:
            return False
        expression = re.escape(pattern).replace("CLIENT", self.client_id).replace("TOKEN", "[^/]+")
        return re.fullmatch(expression, address) is not None

    async def _revoke(self, request: web.BaseRequest, address: str, query: str) -> web.Response:
        """One of our own tokens is named, wherever this provider wants it."""
        told = " ".join([address, query, (await request.read()).decode(), *request.headers.values()])
        named = [token for token in self.issued if token in told]
        if not named:
            raise Wrong("a revocation of nothing that was issued")
        self.revoked += named
        return web.json_response({})

    # -- the same for all ------------------------------------------------------------------------------------------------

    def _names(self, where: str) -> dict[str, str]:
        """Standard name -> the row's."""
        every = ("response_type", "client_id", "redirect_uri", "state", "scope", "code", "client_secret")
        found = {name: next(iter(self.facts.named(where, {name: "x"})), "") for name in every}
        return {standard: name for standard, name in found.items() if name}

    def _filled(self, column: str) -> dict[str, str]:
        known = {"CLIENT": self.client_id, "SCOPE": self.facts.scope or ""}
        return {name: known.get(value, value) for name, value in self.facts.pairs(column).items()}

    def _compare(self, given: Mapping[str, str], wanted: Mapping[str, str], where: str) -> None:
        if given.keys() != wanted.keys():
            more, less = sorted(given.keys() - wanted.keys()), sorted(wanted.keys() - given.keys())
            raise Wrong(f"{where}: {more} too many, {less} missing")
        wrong = [
            name
            for name, value in wanted.items()
            if given[name] != value and (value != ANY or not given[name])
        ]
        if wrong:
            raise Wrong(
                f"{where}: {', '.join(f'{name}={given[name]}, not {wanted[name]}' for name in wrong)}"
            )

    def _proof(self, request: web.BaseRequest) -> None:
        """Whether one is there is the row's, and always with one key; whether it is good is another simulator's matter."""
        proofs = request.headers.getall("DPoP", [])
        if len(proofs) != (1 if self.facts.placement == "dpop" else 0):
            raise Wrong("its DPoP proof")
        for proof in proofs:
            key = json.loads(_unpadded(proof.partition(".")[0]))["jwk"]
            if key != (self.proven_with or key):
                raise Wrong("a DPoP proof with another key")
            self.proven_with = key


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """No name twice and none empty (RFC 6749 section 3.2)."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found or not value:
            raise Wrong(f"{name} twice or empty")
        found[name] = value
    return found


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
