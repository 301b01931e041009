"""A house whose provider is a ``ModernServer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from joserfc.jwk import Key, RSAKey

from tests.oauth.house import House
from tests.simulators import FakeClock
from tests.simulators.modern import ModernServer
from tokenproxy.core.provider import Account, ClientAuth, Provider, Registration

RSA = RSAKey.generate_key(2048)
PEM = RSA.as_pem(private=True).decode()
METHODS = {
    "client_secret_basic": ClientAuth.BASIC,
    "client_secret_post": ClientAuth.POST,
    "client_secret_jwt": ClientAuth.CLIENT_SECRET_JWT,
    "private_key_jwt": ClientAuth.PRIVATE_KEY_JWT,
    "tls_client_auth": ClientAuth.MTLS,
    "none": ClientAuth.NONE,
}


def server(auth: str, clock: FakeClock, *, key: Key | None = None, **changes: Any) -> ModernServer:
    made = ModernServer(auth=auth, key=key or RSA, clock=clock, ssl=changes.pop("ssl", None))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def registered(at: ModernServer, *, private_key: str = PEM, grant: str = "", **profile: Any) -> Account:
    """``[accounts.books]`` at the server; ``profile`` are fields of the provider."""
    whole = {
        "name": "modern",
        "token_url": at.token_url,
        "client_auth": METHODS[at.auth],
        "dpop": at.dpop,
        **profile,
    }
    signs = at.auth == "private_key_jwt" or grant == "jwt_bearer"
    return Account(
        name="books",
        provider=Provider(**whole),
        registration=Registration(
            client_id=at.client_id,
            client_secret=at.client_secret,
            private_key=private_key if signs else "",
            key_id=at.key_id if signs else "",
        ),
        grant=grant or "authorization_code",
    )


def housed(
    at: ModernServer, clock: FakeClock, account: Account | None = None, *, path: Path | None = None
) -> House:
    accounts = {"books": account or registered(at)}
    return House(cast("Any", at), accounts=accounts, clock=clock, path=path)
