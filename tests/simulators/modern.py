"""
An authorization server as the newer RFCs have it, strict about every word of theirs.

It checks signatures, certificates and proofs (RFC 7523, 8705, 9449), and offers metadata, pushed requests,
introspection and revocation (RFC 8414, 9126, 7662, 7009). A request that deviates is refused and written down in
``complaints``; a story ends with ``assert not server.complaints``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import warnings
from collections import Counter
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus, urlencode

from aiohttp import web
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey

from tests.simulators.server import Server, cut
from tokenproxy.core.interfaces import Clock

JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
GRANT_JWT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_PARAMETERS: Final = {
    "refresh_token": {"grant_type", "refresh_token"},
    "client_credentials": {"grant_type"},
    GRANT_JWT: {"grant_type", "assertion"},
    "authorization_code": {"grant_type", "code", "redirect_uri"},
}
_OPTIONAL: Final = {"scope", "resource", "code_verifier"}
_AUTHENTICATION: Final = {"client_id", "client_secret", "client_assertion", "client_assertion_type"}


class Refused(Exception):  # noqa: N818 - not a mistake of ours: what the simulator answers
    """The answer to a request that is not accepted."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers or {}


@dataclass(slots=True)
class Issued:
    """One pair of tokens."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    bound_to: str | None
    """The thumbprint of the key that it was asked for with."""
    live: bool = True


class ModernServer(Server):
    """The knobs are plain attributes and may be changed while requests are under way."""

    def __init__(
        self, *, auth: str, key: Key | None = None, ssl: SSLContext | None = None, clock: Clock | None = None
    ) -> None:
        """``auth`` is RFC 7591's name of the one method that is taken; ``key`` the public half of the client's."""
        super().__init__(ssl=ssl)
        self.auth = auth
        self.key = key
        self.key_id = "key-1"
        self.alg = "RS256"
        self.client_id = "client-1"
        self.client_secret = "a secret of 32 characters or more!"
        self.audience: str | None = None
        """Of assertions; None: the token endpoint's address."""
        self.path = ""
        """Of the issuer."""
        self.metadata: dict[str, Any] = {}
        """Put over the document; None takes a name away."""
        self.metadata_at: set[str] = {"oauth-authorization-server"}
        self.metadata_status = 200
        self.dpop = False
        self.token_type: str | None = None
        """None: what fits."""
        self.nonce: str | None = None
        """A proof must carry it; None: any will do."""
        self.revocation_status = 200
        self.lose_answers = 0
        """So many good token answers are committed, and then the connection is cut instead; a repeat gets them again."""
        self.quotes = False
        """Refuse every token call with an error that quotes the request."""
        self.extra: dict[str, Any] = {}
        """Merged into every token answer."""
        self._clock = clock

        self.complaints: list[str] = []
        self.calls: Counter[str] = Counter()
        """Requests by the last part of their path."""
        self.refused_nonces = 0
        self.issued: list[Issued] = []
        self.pushed: dict[str, dict[str, str]] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self.assertions: list[dict[str, Any]] = []
        """Claims of those that were taken."""
        self.proofs: list[dict[str, Any]] = []
        self.seen: list[str] = []
        """Assertions and proofs, which must show up in no log."""
        self._jtis: set[str] = set()

    # For stories

    @property
    def issuer(self) -> str:
        return self.url + self.path

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/token"

    def new_grant(self, *, bound_to: str | None = None) -> dict[str, Any]:
        """What a login would have brought."""
        return self._issue(bound_to)

    @property
    def secrets(self) -> list[str]:
        tokens = [token for each in self.issued for token in (each.access_token, each.refresh_token)]
        return [*tokens, *self.seen, self.client_secret]

    # The server

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        self.calls[path.rpartition("/")[2]] += 1
        if "/.well-known/" in path:
            return self._metadata(path)
        if path == f"{self.path}/authorize":
            return self._authorize(request)
        answers = {
            "/token": self._token,
            "/par": self._par,
            "/introspect": self._introspect,
            "/revoke": self._revoke,
        }
        answer = answers.get(path.removeprefix(self.path))
        if answer is None:
            self.complaints.append(f"{request.method} {path}: there is nothing")
            return web.json_response({"error": "not_found"}, status=404)
        try:
            params = await self._form(request)
            self._authenticated(request, params)
            status, body = answer(request, params)
            if status == 200 and answer == self._token and self.lose_answers > 0:
                self.lose_answers -= 1
                self.issued[-2].live = True  # as if within a grace
                return cut(request)
            headers = {"DPoP-Nonce": self.nonce} if self.nonce and self.dpop else {}
            return web.json_response(body, status=status, headers=headers | {"Cache-Control": "no-store"})
        except Refused as refused:
            return web.json_response({"error": refused.error}, status=refused.status, headers=refused.headers)

    def _refuse(self, why: str, error: str = "invalid_request", status: int = 400) -> Refused:
        self.complaints.append(why)
        return Refused(status, error)

    def _metadata(self, path: str) -> web.Response:
        inserted = f"/.well-known/oauth-authorization-server{self.path}"
        appended = f"{self.path}/.well-known/openid-configuration"
        kind = {inserted: "oauth-authorization-server", appended: "openid-configuration"}.get(path)
        if kind is None:
            self.complaints.append(f"{path} is no address of our metadata")
        if kind not in self.metadata_at:
            return web.Response(status=404)
        if self.metadata_status != 200:
            return web.Response(status=self.metadata_status, headers={"Location": f"{self.url}/elsewhere"})
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": self.token_url,
            "pushed_authorization_request_endpoint": f"{self.issuer}/par",
            "introspection_endpoint": f"{self.issuer}/introspect",
            "revocation_endpoint": f"{self.issuer}/revoke",
            **self.metadata,
        }
        return web.json_response({name: value for name, value in document.items() if value is not None})

    def _authorize(self, request: web.BaseRequest) -> web.Response:
        """A person who says yes; takes pushed requests alone, each once (RFC 9126 section 4)."""
        asked = dict(parse_qsl(request.query_string, keep_blank_values=True, strict_parsing=True))
        params = self.pushed.pop(asked.get("request_uri", ""), None)
        if asked.keys() != {"client_id", "request_uri"} or params is None:
            self.complaints.append(f"an authorization request with {sorted(asked)}, or one that was used")
            return web.Response(status=400)
        code = secrets.token_urlsafe(16)
        self._codes[code] = params
        brought = urlencode({"code": code, "state": params["state"], "iss": self.issuer})
        return web.Response(status=302, headers={"Location": f"{params['redirect_uri']}?{brought}"})

    async def _form(self, request: web.BaseRequest) -> dict[str, str]:
        if request.method != "POST" or request.content_type != "application/x-www-form-urlencoded":
            raise self._refuse(f"{request.method} with {request.content_type}, where a form is posted")
        if request.query_string:
            raise self._refuse("parameters in the query")
        pairs = parse_qsl((await request.read()).decode(), keep_blank_values=True, strict_parsing=True)
        if len({name for name, _ in pairs}) != len(pairs):
            raise self._refuse("a parameter twice")
        if any(value == "" for _, value in pairs):
            raise self._refuse("an empty parameter")
        return dict(pairs)

    # Client authentication

    def _authenticated(self, request: web.BaseRequest, params: dict[str, str]) -> None:
        ways = {
            "client_secret_basic": "Authorization" in request.headers,
            "client_secret_post": "client_secret" in params,
            "private_key_jwt": "client_assertion" in params,
        }
        used = [way for way, is_used in ways.items() if is_used]
        wanted = {"client_secret_jwt": "private_key_jwt", "tls_client_auth": None, "none": None}
        if used != [way for way in [wanted.get(self.auth, self.auth)] if way]:
            raise self._refuse(f"authenticates by {used or 'nothing'}", "invalid_client", 401)
        if self.auth == "client_secret_basic":
            self._basic(request)
        elif params.get("client_id") != self.client_id:
            raise self._refuse("client_id is not the client's", "invalid_client", 401)
        elif self.auth == "client_secret_post" and params["client_secret"] != self.client_secret:
            raise self._refuse("another secret", "invalid_client", 401)
        elif self.auth == "tls_client_auth":
            self._certified(request)
        elif self.auth in {"private_key_jwt", "client_secret_jwt"}:
            self._asserted(params)
        for name in _AUTHENTICATION:
            params.pop(name, None)

    def _basic(self, request: web.BaseRequest) -> None:
        scheme, _, value = request.headers["Authorization"].partition(" ")
        client_id, _, secret = base64.b64decode(value).decode().partition(":")
        if (scheme, unquote_plus(client_id), unquote_plus(secret)) != (
            "Basic",
            self.client_id,
            self.client_secret,
        ):
            raise self._refuse("another Basic", "invalid_client", 401)

    def _certified(self, request: web.BaseRequest) -> None:
        """RFC 8705 section 2.1: the certificate's subject alternative name is the one that was registered."""
        shown = request.transport.get_extra_info("peercert") if request.transport else None
        names = [value for _, value in (shown or {}).get("subjectAltName", ())]
        if names != [f"{self.client_id}.example"]:
            raise self._refuse(f"the certificate names {names}", "invalid_client", 401)

    def _asserted(self, params: dict[str, str]) -> None:
        if params.get("client_assertion_type") != JWT_BEARER:
            raise self._refuse("another client_assertion_type", "invalid_client", 401)
        by_secret = self.auth == "client_secret_jwt"
        key = OctKey.import_key(self.client_secret) if by_secret else self.key
        headers = (
            {"alg": "HS256", "typ": "JWT"}
            if by_secret
            else {"alg": self.alg, "typ": "JWT", "kid": self.key_id}
        )
        claims = self._verified(params["client_assertion"], key, headers, "invalid_client")
        if claims.keys() != {"iss", "sub", "aud", "iat", "exp", "jti"}:
            raise self._refuse(f"an assertion with {sorted(claims)}", "invalid_client", 401)
        if not claims["iss"] == claims["sub"] == self.client_id:
            raise self._refuse("an assertion of somebody else", "invalid_client", 401)
        self.assertions.append(claims)

    def _verified(self, token: str, key: Key | None, headers: dict[str, Any], error: str) -> dict[str, Any]:
        """Claims of a JWT for us, used once and in time."""
        assert key is not None
        self.seen.append(token)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = jws.deserialize_compact(token, key, algorithms=[headers["alg"]])
        except (JoseError, ValueError) as wrong:
            raise self._refuse(f"a signature that is none: {type(wrong).__name__}", error, 401) from None
        if found.headers() != headers:
            raise self._refuse(f"an assertion headed {found.headers()}", error, 401)
        claims: dict[str, Any] = json.loads(found.payload)
        now = self._now()
        if claims["aud"] != (self.audience or self.token_url):
            raise self._refuse("an assertion for somebody else", error, 401)
        if not (claims["iat"] <= now < claims["exp"] <= now + 600):
            raise self._refuse("an assertion out of its time", error, 401)
        self._once(claims["jti"], error)
        return claims

    def _once(self, jti: str, error: str) -> None:
        if jti in self._jtis or len(jti) < 16:
            raise self._refuse("a jti that was used, or could be guessed", error, 401)
        self._jtis.add(jti)

    def _now(self) -> float:
        assert self._clock is not None
        return self._clock.now().timestamp()

    # Proofs

    def _proven(self, request: web.BaseRequest) -> str | None:
        """The thumbprint of the key that the request was proven with (RFC 9449 section 4.3)."""
        proofs = request.headers.getall("DPoP", [])
        if not self.dpop:
            if proofs:
                raise self._refuse("a proof that nobody wants")
            return None
        if len(proofs) != 1:
            raise self._refuse(f"{len(proofs)} proofs", "invalid_dpop_proof")
        self.seen.append(proofs[0])
        head = proofs[0].partition(".")[0]
        headers = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        if headers.keys() != {"typ", "alg", "jwk"} or headers["typ"] != "dpop+jwt":
            raise self._refuse(f"a proof headed {sorted(headers)}", "invalid_dpop_proof")
        if headers["alg"] != "ES256" or headers["jwk"].keys() != {"kty", "crv", "x", "y"}:
            raise self._refuse("a proof with another key", "invalid_dpop_proof")
        key = ECKey.import_key(headers["jwk"])
        try:
            claims = json.loads(jws.deserialize_compact(proofs[0], key, algorithms=["ES256"]).payload)
        except (JoseError, ValueError):
            raise self._refuse("a proof that proves nothing", "invalid_dpop_proof") from None
        if claims.keys() - {"nonce"} != {"jti", "htm", "htu", "iat"}:
            raise self._refuse(f"a proof with {sorted(claims)}", "invalid_dpop_proof")
        if (claims["htm"], claims["htu"]) != (request.method, self.url + request.path):
            raise self._refuse("a proof for another request", "invalid_dpop_proof")
        if abs(claims["iat"] - self._now()) > 30:
            raise self._refuse("a proof out of its time", "invalid_dpop_proof")
        self._once(claims["jti"], "invalid_dpop_proof")
        if self.nonce is not None and claims.get("nonce") != self.nonce:
            self.refused_nonces += 1
            raise Refused(400, "use_dpop_nonce", {"DPoP-Nonce": self.nonce})
        self.proofs.append(claims)
        return key.thumbprint()

    # Endpoints

    def _token(self, request: web.BaseRequest, params: dict[str, str]) -> tuple[int, dict[str, Any]]:
        thumbprint = self._proven(request)
        if self.quotes:
            quoted = {"error": "odd", "error_description": "quoted: " + " ".join(self.seen[-2:])}
            return 400, quoted
        wanted = _PARAMETERS.get(params.get("grant_type", ""))
        if wanted is None or params.keys() - _OPTIONAL != wanted:
            raise self._refuse(f"a token request with {sorted(params)}")
        if params["grant_type"] == "refresh_token":
            self._spend(params["refresh_token"], thumbprint)
        if params["grant_type"] == "authorization_code":
            self._redeem(params)
        if params["grant_type"] == GRANT_JWT:
            headers = {"alg": self.alg, "typ": "JWT", "kid": self.key_id}
            self.assertions.append(self._verified(params["assertion"], self.key, headers, "invalid_grant"))
        return 200, self._issue(thumbprint)

    def _redeem(self, params: dict[str, str]) -> None:
        asked = self._codes.pop(params["code"], None)
        digest = hashlib.sha256(params.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or asked["redirect_uri"] != params["redirect_uri"]:
            raise self._refuse("a code that is none, or for another place", "invalid_grant")
        if (asked["code_challenge"], asked["code_challenge_method"]) != (challenge, "S256"):
            raise self._refuse("another verifier", "invalid_grant")

    def _spend(self, refresh_token: str, thumbprint: str | None) -> None:
        found = next((each for each in self.issued if each.refresh_token == refresh_token), None)
        if found is None or not found.live:
            raise self._refuse("a refresh token that was spent, revoked or never was", "invalid_grant")
        if self.auth == "none" and found.bound_to != thumbprint:  # section 5: only a public client's is bound
            raise self._refuse("a refresh token without its key", "invalid_grant")
        found.live = False

    def _issue(self, thumbprint: str | None) -> dict[str, Any]:
        pair = Issued(secrets.token_urlsafe(32), secrets.token_urlsafe(32), thumbprint)
        self.issued.append(pair)
        return {
            "access_token": pair.access_token,
            "refresh_token": pair.refresh_token,
            "token_type": self.token_type or ("DPoP" if self.dpop else "Bearer"),
            "expires_in": 3600,
            **self.extra,
        }

    def _par(self, _request: web.BaseRequest, params: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if "request_uri" in params:  # RFC 9126 section 2.1
            raise self._refuse("a request_uri within a pushed request")
        if params.get("response_type") != "code":
            raise self._refuse("a pushed request without response_type")
        uri = f"urn:ietf:params:oauth:request_uri:{secrets.token_urlsafe(16)}"
        self.pushed[uri] = params
        return 201, {"request_uri": uri, "expires_in": 60}

    def _introspect(self, _request: web.BaseRequest, params: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if params.keys() - {"token_type_hint"} != {"token"}:
            raise self._refuse(f"an introspection with {sorted(params)}")
        return 200, {
            "active": any(each.live and each.access_token == params["token"] for each in self.issued)
        }

    def _revoke(self, _request: web.BaseRequest, params: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if params.keys() - {"token_type_hint"} != {"token"}:
            raise self._refuse(f"a revocation with {sorted(params)}")
        if self.revocation_status == 200:
            for each in self.issued:
                if params["token"] in {each.access_token, each.refresh_token}:
                    each.live = False
        return self.revocation_status, {}
