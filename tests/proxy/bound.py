"""An upstream whose tokens are bound to a key, strict about each proof."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey

from tests.proxy.actors import Line, dead, ok


@dataclass
class BoundApi:
    """An upstream that takes a token only with a proof of its key, strictly (RFC 9449 section 4.3)."""

    nonces: list[str] = field(default_factory=list)
    """What it wants, one after the other; empty: no nonce."""
    proofs: list[dict[str, Any]] = field(default_factory=list)
    answer: bytes = ok(b"hello")
    bad: tuple[bytes, ...] = ()
    base: str = "http://api.example"
    """Where callers are told that it is."""
    keys: list[str] = field(default_factory=list)
    """Thumbprints of the keys that proved, one a request."""

    async def __call__(self, line: Line) -> None:
        await line.body()
        scheme, _, token = line.seen.values(b"authorization")[0].partition(b" ")
        assert scheme == b"DPoP"
        claims = self._proof(line, token)
        wanted = self.nonces[0] if self.nonces else None
        if wanted is not None and claims.get("nonce") != wanted:
            await line.send(self.challenge(wanted))
        elif token in self.bad:
            await line.send(dead())
        else:
            await line.send(self.answer)

    def challenge(self, nonce: str) -> bytes:
        return ok(
            b"",
            b'WWW-Authenticate: Bearer realm="x", DPoP error="use_dpop_nonce", error_description="a, b"',
            b"DPoP-Nonce: " + nonce.encode(),
            status=b"401 Unauthorized",
        )

    def _proof(self, line: Line, token: bytes) -> dict[str, Any]:
        (proof,) = line.seen.values(b"dpop")
        header = jws.extract_compact(proof).headers()
        assert header.keys() == {"typ", "alg", "jwk"}
        assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
        assert header["jwk"].keys() == {"kty", "crv", "x", "y"}  # nothing of the private half
        key = ECKey.import_key(header["jwk"])
        self.keys.append(key.thumbprint())
        claims: dict[str, Any] = json.loads(jws.deserialize_compact(proof, key, algorithms=["ES256"]).payload)
        assert claims["htm"] == line.seen.line.split(b" ")[0].decode()
        assert claims["htu"] == self.base + line.seen.target.partition(b"?")[0].decode()
        assert claims["ath"] == urlsafe_b64encode(sha256(token).digest()).decode().rstrip("=")
        assert abs(claims["iat"] - time.time()) < 60
        assert claims["jti"] not in {earlier["jti"] for earlier in self.proofs}
        self.proofs.append(claims)
        return claims
