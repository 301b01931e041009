"""
A provider as data: every quirk is a field here, and none is code.

A preset (``core/presets/NAME.toml``) and a table ``[providers.NAME]`` of the config have the same keys, the
fields of ``Provider``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from hashlib import sha256
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from tokenproxy.core.settings import TLSFiles

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
"""A default for fields, only by factory: dataclasses of 3.11 take a mappingproxy for mutable."""


AUTHORIZATION_CODE: Final = "authorization_code"


class ClientAuth(Enum):
    """How the client proves itself at the token endpoint (RFC 6749 section 2.3; RFC 7591 names in brackets)."""

    BASIC = "basic"
    """``client_secret_basic``: id and secret form-encoded, then base64 (RFC 6749 section 2.3.1)."""
    BASIC_RAW = "basic_raw"
    """The same without the form-encoding, as many providers read it (Deskera's guide)."""
    POST = "post"
    """``client_secret_post``: in the body."""
    QUERY = "query"
    """In the query of the token URL, against RFC 6749 section 2.3.1 (Bullhorn, WeChat, Deskpro's example)."""
    NONE = "none"
    """A public client: ``client_id`` alone."""
    CLIENT_SECRET_JWT = "client_secret_jwt"  # noqa: S105 - the name of a method
    PRIVATE_KEY_JWT = "private_key_jwt"
    MTLS = "mtls"


class TokenBody(Enum):
    """Where a token request's parameters travel."""

    FORM = "form"
    JSON = "json"
    QUERY = "query"
    """In the URL, and no body (Deskera)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inject:
    """Where the token goes in an upstream request; ``{access_token}`` stands for it."""

    header: str = "Authorization"
    value: str = "Bearer {access_token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validate:
    """A call that tells whether an access token still lives; its token goes where ``Inject`` puts it."""

    url: str
    method: str = "GET"
    ok: tuple[int, ...] = (200,)
    """Statuses that mean "live"; 400, 401, 403 and 404 mean "dead", anything else means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFields:
    """Where a token answer keeps what we need; dotted paths into the JSON, tried in order."""

    access_token: tuple[str, ...] = ("access_token", "accessToken")
    refresh_token: tuple[str, ...] = ("refresh_token", "refreshToken")
    expires_in: tuple[str, ...] = ("expires_in", "expiresIn")
    expires_at: tuple[str, ...] = ("expires_at", "expiresAt", "expires_on")
    refresh_expires_in: tuple[str, ...] = (
        "refresh_token_expires_in",
        "refresh_expires_in",
        "x_refresh_token_expires_in",
    )
    token_type: tuple[str, ...] = ("token_type", "tokenType")
    scope: tuple[str, ...] = ("scope", "scopes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCodes:
    """The provider's own words for the classes of RFC 6749 section 5.2, beside the standard ones."""

    refused: tuple[str, ...] = ()
    """End the grant, as ``invalid_grant`` does."""
    misconfigured: tuple[str, ...] = ()
    rate_limited: tuple[str, ...] = ()
    too_early: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An authorization server and its quirks, and how its APIs take a token."""

    name: str
    docs: str = ""
    """Where the provider describes its OAuth; for people."""
    authorize_url: str = ""
    token_url: str
    refresh_url: str = ""
    """Where a refresh goes when it is not ``token_url``."""
    client_auth: ClientAuth = ClientAuth.BASIC
    """RFC 8414 section 2: ``client_secret_basic`` where nobody says otherwise."""
    token_method: str = "POST"  # noqa: S105 - a method
    token_body: TokenBody = TokenBody.FORM
    token_params: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Sent with every token request."""
    refresh_params: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    token_headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    rename: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Standard parameter name -> this provider's; an empty name leaves the parameter out."""
    scopes: tuple[str, ...] = ()
    """Asked for where the account names none."""
    scope_separator: str = " "
    exchange_scope: bool = False
    """The code exchange repeats the scope (Deskera)."""
    refresh_scope: bool = False
    """A refresh repeats the scope that was asked for (PERSCOM)."""
    machine_refresh: bool = False
    """A refresh token that came to an account which needs no person is used (against RFC 6749 section 4.4.3)."""
    redirect_uri: bool = True
    """Whether ``redirect_uri`` is sent with the authorization request and the exchange (Deskera: not)."""
    answer: AnswerFields = field(default_factory=AnswerFields)
    errors: ErrorCodes = field(default_factory=ErrorCodes)
    lifetime: timedelta | None = None
    """An access token's life where neither the answer nor a JWT tells; None: unknown, and a 401 tells."""
    refresh_not_before_expiry: timedelta | None = None
    """The provider refuses a refresh earlier than this before expiry (Exact Online: 30 s)."""
    grace: timedelta | None = None
    """How long a spent refresh token still works; for people and ``check``."""
    inject: Inject = field(default_factory=Inject)
    validate: Validate | None = None
    dead: tuple[int, ...] = (401,)
    """Statuses of the upstream that mean "the token is dead"."""
    tls: TLSFiles = field(default_factory=TLSFiles)

    @property
    def token_origin(self) -> str:
        """``scheme://host:port`` of the refresh endpoint: where this provider's refresh tokens may go."""
        return origin_of(self.refresh_url or self.token_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Our client registration at a provider."""

    client_id: str
    client_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A table ``[accounts.NAME]``: a registration and what is asked of the provider. Its logins are NAME or NAME/SUB."""

    name: str
    provider: Provider
    """With ``vars`` already filled in."""
    registration: Registration
    grant: str = AUTHORIZATION_CODE
    scopes: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=lambda: EMPTY, repr=False)
    """What this account adds to its token requests, by the parameter's standard name (``audience``, ``password``)."""
    presented: Mapping[str, str] = field(default_factory=lambda: EMPTY, repr=False)
    """Parameter -> the origin (``file:...``) whose contents it carries, read anew for each request."""
    token: str = field(default="", repr=False)
    """The token itself, where the config gives it (grant ``static``)."""
    token_from: str = field(default="", repr=False)
    """The origin that the token is read from (grants ``file`` and ``command``)."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of this must show up in no text."""
        given = (self.registration.client_secret, self.token, self.params.get("password", ""))
        return tuple(secret for secret in given if secret)

    @property
    def scope(self) -> str | None:
        """The scope to ask for, joined as the provider wants it."""
        return self.provider.scope_separator.join(self.scopes or self.provider.scopes) or None

    @property
    def bound_to(self) -> str:
        """
        What a token set is bound to: the token endpoint's origin and the client that obtained it.

        Where it is another grant than a login, the grant and whom it asks for as well: nobody's login answers for a
        machine, nor the reverse, and alice's token is not sent for bob.
        """
        endpoint = self.provider.token_origin if self.provider.token_url else "-"
        bound = f"{endpoint} {self.registration.client_id}"
        if self.grant == AUTHORIZATION_CODE:
            return bound
        asked = sorted((name, value) for name, value in self.params.items() if name != "password")
        whom = sha256(repr((asked, sorted(self.presented.items()))).encode()).hexdigest()[:16]
        return f"{self.grant} {bound} {whom}"


def is_login(bound_to: str) -> bool:
    """Whether ``Account.bound_to`` is a login's, which begins with the endpoint's address."""
    return bound_to.startswith(("https://", "http://"))


_PORTS: Final = {"https": 443, "http": 80}


def origin_of(url: str) -> str:
    """``https://Example.com/x`` -> ``https://example.com:443``: scheme, host in lower case, and always the port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def table_of(account: str) -> str:
    """The config table of a login: ``crm/anna`` -> ``crm``."""
    return account.partition("/")[0]
