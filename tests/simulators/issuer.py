"""An issuer of callers' tokens, as Kubernetes is one: metadata, a key set that rotates, and tokens good and bad."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from base64 import urlsafe_b64encode
from collections import Counter
from ssl import SSLContext
from typing import Any

from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from tests.simulators.server import Server

AUDIENCE = "tokenproxy"
SUBJECT = "system:serviceaccount:books:app"


def new_key(kid: str, alg: str = "RS256") -> Key:
    parameters: Any = {"kid": kid, "use": "sig"}
    if alg.startswith("ES"):
        return ECKey.generate_key("P-256", parameters, private=True)
    if alg == "EdDSA":
        return OKPKey.generate_key("Ed25519", parameters, private=True)
    return RSAKey.generate_key(2048, parameters, private=True)


def part(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class IssuerSimulator(Server):
    """The knobs are plain attributes; ``asked`` counts what was asked for, ``bearers`` what was shown with it."""

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        super().__init__(ssl=ssl)
        self.keys: list[Key] = [new_key("first")]
        self.alg = "RS256"
        self.asked: Counter[str] = Counter()
        self.bearers: list[str] = []
        self.status = 200
        self.metadata: dict[str, Any] = {}
        """Put over the document."""
        self.answer: bytes | None = None
        """In the place of the key set."""
        self.wants = ""
        """A token without which nothing is told."""
        self.free = asyncio.Event()
        """Not set: it hangs, whatever it is asked."""
        self.free.set()
        self.now = time.time

    @property
    def issuer(self) -> str:
        return self.url

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked[request.path] += 1
        self.bearers.append(request.headers.get("Authorization", ""))
        self.changes.happened()
        await self.free.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if self.wants and self.bearers[-1] != f"Bearer {self.wants}":
            return web.Response(status=401)
        if request.path == "/.well-known/openid-configuration":
            return web.json_response(
                {"issuer": self.issuer, "jwks_uri": f"{self.url}/openid/v1/jwks"} | self.metadata
            )
        if request.path == "/openid/v1/jwks":
            return web.Response(body=self.answer if self.answer is not None else self.key_set())
        return web.Response(status=404)

    def key_set(self) -> bytes:
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode()

    def rotate(self, kid: str, *, keep: bool = False) -> None:
        self.keys = [new_key(kid, self.alg), *(self.keys if keep else ())]

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(self.now())
        plain = {"iss": self.issuer, "aud": [AUDIENCE], "sub": SUBJECT, "iat": now, "exp": now + 600}
        return {name: value for name, value in (plain | changes).items() if value is not None}

    def token(self, *, key: Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        chosen = key or self.keys[0]
        head = {"alg": self.alg, "kid": chosen.kid, "typ": "JWT"} | (header or {})
        head = {name: value for name, value in head.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[head["alg"]], strict_check_header=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return jws.serialize_compact(
                head, json.dumps(self.claims(**claims)).encode(), chosen, [head["alg"]], registry
            )

    def unsigned(self) -> str:
        """``alg`` none (RFC 8725 section 2.1)."""
        return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(self.claims())}."

    def confused(self, *, pem: bool) -> str:
        """Signed by HS256 with the public key for a secret (RFC 8725 section 2.1)."""
        public = self.keys[0].as_pem(private=False) if pem else self.key_set()  # type: ignore[union-attr]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            secret = OctKey.import_key(urlsafe_b64encode(public).decode(), {"kid": "first"})
            return self.token(key=secret, header={"alg": "HS256"})
