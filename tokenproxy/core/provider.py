"""
A provider as data: every quirk is a field here, and none is code.

A preset (``core/presets/NAME.toml``) and a table ``[providers.NAME]`` of the config have the same keys, the
fields of ``Provider``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from hashlib import sha256
from types import MappingProxyType
from typing import Final
from urllib.parse import quote_plus, urlsplit

from tokenproxy.core.outgoing import OutgoingProxy, Way
from tokenproxy.core.settings import TLSFiles

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
"""A default for fields, only by factory: dataclasses of 3.11 take a mappingproxy for mutable."""
EMPTY_PATHS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


AUTHORIZATION_CODE: Final = "authorization_code"
DEVICE_CODE: Final = "device_code"
IMPLICIT: Final = "implicit"
ACCESS_TOKEN: Final = "access_token"  # noqa: S105 - a word of ``Provider.refresh_with``
LOGIN_GRANTS: Final = frozenset({AUTHORIZATION_CODE, DEVICE_CODE, IMPLICIT})
"""Grants by which a person logs in."""


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


class PKCE(Enum):
    """The code challenge of an authorization request (RFC 7636)."""

    S256 = "S256"
    PLAIN = "plain"
    NONE = "none"


class CallbackMode(Enum):
    """How an authorization server hands its answer back to the browser."""

    QUERY = "query"
    FRAGMENT = "fragment"
    """After the ``#``, which no server sees: a small page of ours hands it over (Deskpro, implicit)."""
    FORM_POST = "form_post"
    """OAuth 2.0 Form Post Response Mode."""


class CallbackPath(Enum):
    """Which of our three kinds of callback address is registered."""

    ACCOUNT = "account"
    """``PUBLIC_URL/callback/ACCOUNT``: one per account, against mix-up (RFC 9700 section 4.4)."""
    SHARED = "shared"
    """``PUBLIC_URL/callback``: one for all, ``state`` is the key (Deskpro's strict flow)."""
    RANDOM = "random"
    """``PUBLIC_URL/callback/ACCOUNT/KEY``: for providers that know no ``state``, which is then not sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """What comes back from the authorization page, and how it is read."""

    mode: CallbackMode = CallbackMode.QUERY
    path: CallbackPath = CallbackPath.ACCOUNT
    code: str = "code"
    """The parameter that holds the code (``auth_code`` at TikTok Ads)."""
    state: str = "state"
    token: str = ""
    """A regular expression with a group ``token`` over the whole landing address, in the place of ``code``."""
    key: str = ""
    """A regular expression with a group ``key``, in the place of ``state``."""
    iss: bool = False
    """The answer must carry ``iss`` (RFC 9207); where it carries one unasked, it is compared all the same."""
    captured: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Template variable -> the callback's parameter that it is taken from (``realmId`` at QuickBooks)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionForm:
    """How we sign for ourselves (RFC 7523): client authentication by JWT, and the JWT bearer grant."""

    alg: str = "RS256"
    """RS256, PS256, ES256, EdDSA, ... ; client_secret_jwt is HS256 whatever stands here."""
    audience: str = ""
    """Empty: the token endpoint's address."""
    issuer: str = ""
    """Of client authentication; empty: the client id (Revolut wants the redirect address's host)."""
    lifetime: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inject:
    """
    Where the token goes in an upstream request; ``{access_token}`` stands for it.

    ``value`` and ``headers`` may hold ``{client_id}`` and every name in ``Provider.captured`` and
    ``Callback.captured``; an account's ``vars`` are filled in already.
    """

    header: str = "Authorization"
    """Empty: in no header."""
    value: str = "Bearer {access_token}"
    query: str = ""
    """A query parameter that carries the bare token, in the place of the header (against RFC 6750 section 2.3)."""
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Further fields of every upstream request (``Client-Id`` at Twitch); the caller's of these names are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validate:
    """A call that tells whether an access token still lives; its token goes where ``Inject`` puts it."""

    url: str
    method: str = "GET"
    ok: tuple[int, ...] = (200,)
    """Statuses that mean "live"; 400, 401, 403 and 404 mean "dead", anything else means nothing."""
    introspect: bool = False
    """RFC 7662: POST ``token`` with our client authentication; ``active`` in the answer tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """How a token is ended at the provider (RFC 7009 is the default form)."""

    url: str
    """May hold ``{token}`` (HubSpot) and ``{client_id}``, percent-encoded when filled."""
    method: str = "POST"
    body: str = "form"
    """``form``, ``json``, or ``none``."""
    token: str = "refresh_token"  # noqa: S105 - which one
    """``refresh_token`` (the access token where there is none) or ``access_token``."""
    parameter: str = "token"
    auth: str = "client"
    """``client``: our client authentication; ``basic``; ``bearer``: the token itself; ``none``."""
    headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What an upstream's answer looks like; every part that is given must match."""

    status: tuple[int, ...] = ()
    """Empty: whatever status."""
    header: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Field name, lower case -> a part of its value, without regard to case; "" for "it is there"."""
    json: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Dotted path into a JSON body -> the value as text (``"190"``, ``"false"``)."""
    body: str = ""
    """A part of the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """How much a provider's token endpoint is asked."""

    concurrent: int = 8
    """Calls under way at once."""
    per_second: float = 0.0
    """Calls begun in a second; 0: no limit of its own."""


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
    id_token: tuple[str, ...] = ("id_token", "idToken")
    identity: tuple[str, ...] = ()
    """Where the answer names whom the tokens speak for; an id token's or a JWT's ``sub`` goes before."""


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
    title: str = ""
    """As people call it."""
    docs: str = ""
    """Where the provider describes its OAuth; for people."""
    notes: tuple[str, ...] = ()
    """What a person should know; one sentence each."""
    unverified: tuple[str, ...] = ()
    """Keys of this profile that nobody has tried against the provider; ("*",): none was."""
    rotation: str = "unknown"
    """``always``, ``sometimes``, ``never`` or ``unknown``: whether a refresh replaces the refresh token."""
    api: str = ""
    """The API's address; what ``init`` proposes as a route's upstream."""
    issuer: str = ""
    """Addresses that are not given come from its metadata (RFC 8414, OpenID Connect Discovery)."""
    authorize_url: str = ""
    authorize_params: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Sent with the authorization request; ``{nonce}`` is a fresh random value."""
    pkce: PKCE = PKCE.S256
    par_url: str = ""
    """Where the authorization request is pushed first (RFC 9126); empty: it is not."""
    device_url: str = ""
    """The device authorization endpoint (RFC 8628)."""
    callback: Callback = field(default_factory=Callback)
    token_url: str
    refresh_url: str = ""
    """Where a refresh goes when it is not ``token_url``."""
    refresh_with: str = "refresh_token"
    """``access_token``: there are no refresh tokens, and a living access token is renewed by itself (Instagram)."""
    refresh_method: str = ""
    """Empty: ``token_method``."""
    refresh_auth: ClientAuth | None = None
    """None: ``client_auth`` (Keap takes the secret in the body of an exchange, and in the header of a refresh)."""
    refresh_rename: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """As ``rename``, for refreshes, and going before it."""
    exchange_params: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Sent with every code exchange."""
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
    authorize_rename: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """As ``rename``, for the authorization request, and going before it."""
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
    refresh_idle: timedelta | None = None
    """A refresh token dies when it is not used for so long; idle accounts are renewed at half of it."""
    limits: Ceiling = field(default_factory=Ceiling)
    assertion: AssertionForm = field(default_factory=AssertionForm)
    dpop: bool = False
    """Tokens are bound to a key of ours (RFC 9449), ES256."""
    captured: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: EMPTY_PATHS)
    """Template variable -> dotted paths into the token answer (``instance_url`` at Salesforce)."""
    captured_hosts: tuple[str, ...] = ()
    """Hosts that a captured address may have; ``*.salesforce.com`` for every name below."""
    inject: Inject = field(default_factory=Inject)
    validate: Validate | None = None
    revoke: Revoke | None = None
    dead: tuple[int, ...] = (401,)
    """Statuses of the upstream that mean "the token is dead"."""
    dead_when: tuple[Signal, ...] = ()
    """Further answers that mean it, by status, header and body (Slack: 200 with ``ok: false``)."""
    dead_unless: tuple[Signal, ...] = ()
    """Answers that do not mean it, whatever ``dead`` and ``dead_when`` say (TikTok's ``scope_not_authorized``)."""
    tls: TLSFiles = field(default_factory=TLSFiles)
    proxy: OutgoingProxy | None = None

    @property
    def way(self) -> Way:
        return Way(tls=self.tls, proxy=self.proxy)

    @property
    def token_origin(self) -> str:
        """
        ``scheme://host:port`` of the refresh endpoint: where this provider's refresh tokens may go.

        The issuer's where its metadata names the endpoint: whom we trust is then the issuer.
        """
        refresh = "" if "{" in self.refresh_url else self.refresh_url  # captured: checked when it came
        url = refresh or self.token_url or self.issuer
        return origin_of(f"https://{url}" if url.startswith("{") else url)  # so must be what fills it


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Our client registration at a provider."""

    client_id: str
    client_secret: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    """PEM or JWK: signs assertions."""
    key_id: str = ""
    """``kid`` of what it signs."""

    def basic(self, *, raw: bool) -> str:
        """Its credentials for HTTP Basic: form-encoded before base64 (RFC 6749 section 2.3.1), or as they are."""
        pair = (self.client_id, self.client_secret)
        user, password = pair if raw else map(quote_plus, pair)
        return b64encode(f"{user}:{password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What ``__name__`` stands for in requests of a route with placeholders."""

    value: str = field(repr=False)
    backend: bool = False
    """It is used by naming it and never given back by the admin API."""


EMPTY_SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType({})


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
    claims: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Claims of the assertion that ``jwt_bearer`` signs, beside and instead of our own (``sub``, ``scope``)."""
    capture: str = ""
    """``oauth2/NAME``: what a login catches goes into its state under this path, and nothing is exchanged (Deskpro)."""
    settings: Mapping[str, Setting] = field(default_factory=lambda: EMPTY_SETTINGS)
    vars: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """What filled the provider's placeholders; fills those in routes as well."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of this must show up in no text."""
        known = self.registration
        basic = (known.basic(raw=False), known.basic(raw=True)) if known.client_secret else ()
        given = (
            known.client_secret,
            *basic,
            known.private_key,
            self.token,
            self.params.get("password", ""),
            *(self.provider.proxy.secrets if self.provider.proxy is not None else ()),
            *(setting.value for setting in self.settings.values() if setting.backend),
        )
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
        known = self.provider.token_url or self.provider.refresh_url or self.provider.issuer
        endpoint = self.provider.token_origin if known else "-"
        bound = f"{endpoint} {self.registration.client_id}"
        if self.grant in LOGIN_GRANTS:
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
