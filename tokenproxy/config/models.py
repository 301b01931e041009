"""
The shape of the TOML: every table, key, type and default, and nothing that needs a second table to be known.

What imports this module imports pydantic, which costs more than everything else here; most commands read no config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
)

from tokenproxy.config.kinds import (
    AllowList,
    Bytes,
    Count,
    ErrorStatuses,
    FieldValues,
    Flag,
    HeaderName,
    HeaderNameOrEmpty,
    HeaderNames,
    Headers,
    HeaderValueOrEmpty,
    HostPatterns,
    KeySources,
    Kind,
    MemberIds,
    Method,
    Mode,
    NamedPaths,
    NamedTexts,
    PasswordHashes,
    Protocols,
    Rate,
    Scopes,
    Seconds,
    Secret,
    Secrets,
    SomeCount,
    SomeSeconds,
    Status,
    Statuses,
    Text,
    TextOrEmpty,
    TextOrTexts,
    Texts,
    WaysList,
    Words,
    as_proxy,
    fault,
    listens,
    network,
    no_nul,
    one_of,
    rate,
    repeatable,
    seconds_from,
    setting_names,
    settings_by_name,
    share,
    signal_json,
    size_from,
    whole,
)
from tokenproxy.config.table import Table, depends, required
from tokenproxy.config.values import LOOPBACK_ADMIN, LOOPBACK_PROXY
from tokenproxy.core import retries, settings
from tokenproxy.core.forwarded import CHOICES as FORWARDED
from tokenproxy.core.grants import TRAITS
from tokenproxy.core.issuers import KEY_TYPES
from tokenproxy.core.provider import (
    AUTHORIZATION_CODE,
    PKCE,
    AnswerFields,
    AssertionForm,
    CallbackMode,
    CallbackPath,
    Ceiling,
    ClientAuth,
    Inject,
    Revoke,
    TokenBody,
)

_DEADLINES: Final = settings.Deadlines()
_LIMITS: Final = settings.Limits()
_REPLAY: Final = settings.Replay()
_BUDGET: Final = settings.ReplayBudget()
_RENEW: Final = settings.RenewPolicy()
_SHARED: Final = settings.SharedStore()
_TRACE: Final = settings.TraceSettings()
_ANSWER: Final = AnswerFields()
_INJECT: Final = Inject()
_REVOKE: Final = Revoke(url="")
_ASSERTION: Final = AssertionForm()
_CEILING: Final = Ceiling()
_TARGET_TIMEOUT: Final = 30.0

_AUTHS: Final = tuple(each.value for each in ClientAuth)
_SECRET_AUTHS: Final = ("basic", "basic_raw", "post", "query", "none")
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "HS256",
)
"""RFC 7518 section 3.1 and RFC 8037."""


class CallerAuth(Table):
    keys: Secrets = []


class ListenTable(Table):
    """One entry of ``server.listen``."""

    address: Text = required()
    mode: Mode | None = None
    group: TextOrEmpty = ""
    cert_file: TextOrEmpty = ""
    key_file: TextOrEmpty = ""
    client_ca_file: TextOrEmpty = ""
    client_certificate: Annotated[
        str, AfterValidator(one_of("a choice", ("required", "optional"))), Kind("text")
    ] = "required"
    auth: WaysList | None = None


Listens = Annotated[
    list[ListenTable], BeforeValidator(listens), Field(min_length=1), Kind("text, table or list")
]


class Server(Table):
    listen: Listens = Field(default=[LOOPBACK_PROXY], validate_default=True)
    hosts: Texts = []
    loop: Annotated[str, AfterValidator(one_of("a loop", ("auto", "asyncio", "uvloop"))), Kind("text")] = (
        "auto"
    )
    reuse_port: Flag = False
    allow_unauthenticated: Flag = False
    forwarded: Annotated[str, AfterValidator(one_of("a choice", FORWARDED)), Kind("text")] = "off"
    trusted_proxies: Annotated[list[Annotated[str, AfterValidator(network)]], Kind("list of text")] = []
    caller_auth: CallerAuth = CallerAuth()


class ForwardAuth(Table):
    listen: Annotated[list[ListenTable], BeforeValidator(listens), Kind("text, table or list")] = []
    routes: Texts = []


class Admin(Table):
    listen: Text = LOOPBACK_ADMIN
    public_url: Text | None = depends()
    insecure_http: Flag = False
    cert_file: TextOrEmpty = ""
    key_file: TextOrEmpty = ""
    client_ca_file: TextOrEmpty = ""
    token: Secret = ""
    return_to: Texts = []
    dashboard: Flag = True


class Metrics(Table):
    listen: TextOrEmpty = ""
    cert_file: TextOrEmpty = ""
    key_file: TextOrEmpty = ""
    client_ca_file: TextOrEmpty = ""


class Store(Table):
    url: Text = "sqlite:tokenproxy.db"
    key: KeySources | None = depends()
    cache: Annotated[Bytes, AfterValidator(size_from(settings.MIB, "1 MiB"))] = 176 * settings.MIB
    spool: Text | None = depends()
    dir: Text | None = depends()
    lease: Annotated[Seconds, AfterValidator(seconds_from(2.0, "2 s"))] = _SHARED.lease
    heartbeat: SomeSeconds = _SHARED.heartbeat
    pooler: Annotated[str, AfterValidator(one_of("a choice", ("none", "transaction"))), Kind("text")] = "none"
    allow_unsafe: Flag = _SHARED.allow_unsafe


class TLS(Table):
    ca_file: TextOrEmpty = ""
    cert_file: TextOrEmpty = ""
    key_file: TextOrEmpty = ""


class SettingTable(Table):
    value: Annotated[str, AfterValidator(no_nul)] = ""
    backend: Flag = False


Settings = Annotated[
    dict[str, SettingTable],
    BeforeValidator(settings_by_name),
    AfterValidator(setting_names),
    Kind("table of settings"),
]


class AccountTable(Table):
    provider: TextOrEmpty | None = depends()
    grant: Annotated[str, AfterValidator(one_of("a grant", tuple(TRAITS))), Kind("text")] = AUTHORIZATION_CODE
    client_id: TextOrEmpty | None = depends()
    client_secret: Secret = ""
    scopes: Scopes | None = depends()
    vars: Words = {}
    token: Secret = ""
    username: TextOrEmpty = ""
    password: Secret = ""
    allow_password: Flag = False
    audience: TextOrEmpty = ""
    resource: TextOrEmpty = ""
    subject_token: Secret = ""
    subject_token_type: TextOrEmpty = ""
    actor_token: Secret = ""
    actor_token_type: TextOrEmpty = ""
    requested_token_type: TextOrEmpty = ""
    assertion: Secret = ""
    private_key: Secret = ""
    key_id: TextOrEmpty = ""
    claims: Words = {}
    allow_implicit: Flag = False
    capture: TextOrEmpty = ""
    settings: Settings = {}


class ProxyTable(Table):
    url: TextOrEmpty = ""
    username: TextOrEmpty = ""
    password: Secret = ""


class RouteProxyTable(ProxyTable):
    ca_file: TextOrEmpty = ""


class RouteReplay(Table):
    memory: Bytes | None = depends()
    disk: Bytes | None = depends()


class RetryTable(Table):
    attempts: Annotated[int, PlainValidator(whole(1, 5)), Kind("whole number")] = 1
    on: Annotated[list[Annotated[str, AfterValidator(fault)]], Field(min_length=1), Kind("list of text")] = [
        retries.CONNECT,
        retries.RESET,
        "502",
        "503",
        "504",
    ]
    methods: Annotated[
        list[Annotated[str, AfterValidator(repeatable)]], Field(min_length=1), Kind("list of text")
    ] = list(retries.SAFE)


class HeaderTable(Table):
    set_: FieldValues = Field(default={}, alias="set")
    add: FieldValues = {}
    remove: HeaderNames = []


class TargetTable(Table):
    """One row of ``targets``."""

    url: TextOrEmpty = ""
    methods: Annotated[list[Method], Field(min_length=1)] = ["GET"]
    timeout: SomeSeconds = _TARGET_TIMEOUT
    token: Flag = False
    private: Flag = False


class RouteTable(Table):
    prefix: Text | None = depends()
    host: TextOrEmpty = ""
    upstream: TextOrEmpty = required()
    account: TextOrEmpty = required()
    trust_account_header: Flag = False
    auth: WaysList | None = depends()
    pass_: HeaderNames = Field(default=[], alias="pass")
    origins: Texts = []
    replay: RouteReplay = RouteReplay()
    tls: TLS = TLS()
    in_flight: Count = 0
    insecure_http: Flag = False
    forwarded: Annotated[str, AfterValidator(one_of("a choice", FORWARDED)), Kind("text")] | None = depends()
    retry: RetryTable = RetryTable()
    request_headers: HeaderTable = HeaderTable()
    answer_headers: HeaderTable = HeaderTable()
    host_header: TextOrEmpty = ""
    rewrite_location: Flag = False
    rewrite_cookies: Flag = False
    redact_echo: Flag = False
    allow: AllowList | None = None
    upgrade: Protocols = []
    connect: Flag = False
    placeholders: Flag = False
    targets: Annotated[list[TargetTable], Kind("list of tables")] = []
    proxy: Annotated[RouteProxyTable, BeforeValidator(as_proxy)] = RouteProxyTable()


class BasicTable(Table):
    username: TextOrEmpty = ""
    password: Secrets = []
    password_hash: PasswordHashes = []


class CertificateTable(Table):
    cn: TextOrTexts = []
    dns: TextOrTexts = []
    uri: TextOrTexts = []
    email: TextOrTexts = []


class PeerTable(Table):
    users: MemberIds = []
    groups: MemberIds = []


class JwtTable(Table):
    issuer: TextOrEmpty = ""
    subject: TextOrTexts = []
    claims: Words = {}


class CallerTable(Table):
    key: Secrets = []
    basic: BasicTable = BasicTable()
    certificate: CertificateTable = CertificateTable()
    peer: PeerTable = PeerTable()
    jwt: JwtTable = JwtTable()
    routes: Annotated[list[Text], Field(min_length=1), Kind("list of text")] | None = depends()
    accounts: Annotated[list[Text], Field(min_length=1), Kind("list of text")] | None = depends()
    per_second: Rate = 0.0
    burst: Count = 0
    in_flight: Count = 0


class IssuerTable(Table):
    issuer: TextOrEmpty = required()
    audience: TextOrTexts = []
    jwks_url: TextOrEmpty = ""
    jwks_file: TextOrEmpty = ""
    algorithms: Annotated[
        list[Annotated[str, AfterValidator(one_of("an algorithm with a public key", tuple(KEY_TYPES)))]],
        Field(min_length=1),
        Kind("list of text"),
    ] = list(KEY_TYPES)
    token: Secret = ""
    tls: TLS = TLS()
    insecure_http: Flag = False
    proxy: Annotated[ProxyTable, BeforeValidator(as_proxy)] = ProxyTable()


class InjectTable(Table):
    header: HeaderNameOrEmpty = _INJECT.header
    value: HeaderValueOrEmpty = _INJECT.value
    query: TextOrEmpty = _INJECT.query
    headers: Headers = {}


class ValidateTable(Table):
    method: Method = "GET"
    url: TextOrEmpty = ""
    ok: Statuses = [200]
    introspect: Flag = False


class RevokeTable(Table):
    url: TextOrEmpty = ""
    method: Method = _REVOKE.method
    body: Annotated[str, AfterValidator(one_of("a body", ("form", "json", "none"))), Kind("text")] = (
        _REVOKE.body
    )
    token: Annotated[
        str, AfterValidator(one_of("a token", ("refresh_token", "access_token"))), Kind("text")
    ] = _REVOKE.token
    parameter: Text = _REVOKE.parameter
    auth: Annotated[
        str,
        AfterValidator(one_of("a way to authenticate", ("client", "basic", "bearer", "none"))),
        Kind("text"),
    ] = _REVOKE.auth
    headers: Headers = {}


class CallbackTable(Table):
    mode: Annotated[
        str, AfterValidator(one_of("a mode", tuple(each.value for each in CallbackMode))), Kind("text")
    ] = CallbackMode.QUERY.value
    path: Annotated[
        str,
        AfterValidator(one_of("a kind of path", tuple(each.value for each in CallbackPath))),
        Kind("text"),
    ] = CallbackPath.ACCOUNT.value
    code: Text = "code"
    state: Text = "state"
    token: TextOrEmpty = ""
    key: TextOrEmpty = ""
    iss: Flag = False
    captured: NamedTexts = {}


class AssertionTable(Table):
    alg: Annotated[str, AfterValidator(one_of("an algorithm", ALGORITHMS)), Kind("text")] = _ASSERTION.alg
    audience: TextOrEmpty = _ASSERTION.audience
    issuer: TextOrEmpty = _ASSERTION.issuer
    lifetime: SomeSeconds = _ASSERTION.lifetime.total_seconds()


class CeilingTable(Table):
    concurrent: SomeCount = _CEILING.concurrent
    per_second: Rate = _CEILING.per_second


class SignalTable(Table):
    """One row of ``dead_when`` and ``dead_unless``."""

    status: Annotated[
        list[Status], BeforeValidator(lambda value: [value] if isinstance(value, int) else value)
    ] = []
    header: dict[HeaderName, TextOrEmpty] = {}
    json_: Annotated[dict[str, str], BeforeValidator(signal_json)] = Field(default={}, alias="json")
    body: TextOrEmpty = ""


Signals = Annotated[list[SignalTable], Kind("list of tables")]


class AnswerTable(Table):
    access_token: TextOrTexts = list(_ANSWER.access_token)
    refresh_token: TextOrTexts = list(_ANSWER.refresh_token)
    expires_in: TextOrTexts = list(_ANSWER.expires_in)
    expires_at: TextOrTexts = list(_ANSWER.expires_at)
    refresh_expires_in: TextOrTexts = list(_ANSWER.refresh_expires_in)
    token_type: TextOrTexts = list(_ANSWER.token_type)
    scope: TextOrTexts = list(_ANSWER.scope)
    id_token: TextOrTexts = list(_ANSWER.id_token)
    identity: TextOrTexts = list(_ANSWER.identity)


class ErrorTable(Table):
    refused: TextOrTexts = []
    misconfigured: TextOrTexts = []
    rate_limited: TextOrTexts = []
    too_early: TextOrTexts = []


class ProviderTable(Table):
    extends: TextOrEmpty = ""
    title: TextOrEmpty = ""
    docs: TextOrEmpty = ""
    notes: Texts = []
    unverified: Texts = []
    rotation: Annotated[
        str,
        AfterValidator(one_of("a kind of rotation", ("always", "sometimes", "never", "unknown"))),
        Kind("text"),
    ] = "unknown"
    api: TextOrEmpty = ""
    issuer: TextOrEmpty = ""
    authorize_url: TextOrEmpty = ""
    authorize_params: Words = {}
    pkce: Annotated[
        str, AfterValidator(one_of("a code challenge", tuple(each.value for each in PKCE))), Kind("text")
    ] = PKCE.S256.value
    par_url: TextOrEmpty = ""
    device_url: TextOrEmpty = ""
    callback: CallbackTable = CallbackTable()
    token_url: TextOrEmpty = required()
    refresh_url: TextOrEmpty = ""
    refresh_with: Annotated[
        str, AfterValidator(one_of("a token", ("refresh_token", "access_token"))), Kind("text")
    ] = "refresh_token"
    refresh_method: Annotated[
        str, AfterValidator(one_of("GET or POST", ("", "GET", "POST"))), Kind("text")
    ] = ""
    refresh_auth: Annotated[
        str, AfterValidator(one_of("a way to authenticate a refresh", ("", *_SECRET_AUTHS))), Kind("text")
    ] = ""
    refresh_rename: Words = {}
    exchange_params: Words = {}
    client_auth: Annotated[str, AfterValidator(one_of("a way to authenticate", _AUTHS)), Kind("text")] = (
        ClientAuth.BASIC.value
    )
    assertion: AssertionTable = AssertionTable()
    dpop: Flag = False
    token_method: Annotated[str, AfterValidator(one_of("GET or POST", ("GET", "POST"))), Kind("text")] = (
        "POST"  # noqa: S105 - a method
    )
    token_body: Annotated[
        str,
        AfterValidator(one_of("a place for parameters", tuple(each.value for each in TokenBody))),
        Kind("text"),
    ] = TokenBody.FORM.value
    token_params: Words = {}
    refresh_params: Words = {}
    token_headers: Headers = {}
    rename: Words = {}
    authorize_rename: Words = {}
    scopes: Scopes = []
    scope_separator: Annotated[str, Kind("text")] = " "
    exchange_scope: Flag = False
    refresh_scope: Flag = False
    machine_refresh: Flag = False
    redirect_uri: Flag = True
    answer: AnswerTable = AnswerTable()
    errors: ErrorTable = ErrorTable()
    lifetime: SomeSeconds | None = None
    refresh_not_before_expiry: Seconds | None = None
    grace: Seconds | None = None
    refresh_idle: SomeSeconds | None = None
    limits: CeilingTable = CeilingTable()
    captured: NamedPaths = {}
    captured_hosts: HostPatterns = []
    inject: InjectTable = InjectTable()
    validate_: ValidateTable = Field(default=ValidateTable(), alias="validate")
    revoke: RevokeTable = RevokeTable()
    dead: ErrorStatuses = [401]
    dead_when: Signals = []
    dead_unless: Signals = []
    tls: TLS = TLS()
    insecure_http: Flag = False
    proxy: Annotated[ProxyTable, BeforeValidator(as_proxy)] = ProxyTable()


class ReplayTable(Table):
    memory: Bytes = _REPLAY.memory
    disk: Bytes = _REPLAY.disk
    dir: TextOrEmpty = _BUDGET.directory
    total_memory: Bytes = _BUDGET.total_memory
    total_disk: Bytes = _BUDGET.total_disk


class DeadlineTable(Table):
    head: SomeSeconds = _DEADLINES.head
    body_idle: SomeSeconds = _DEADLINES.body_idle
    connect: SomeSeconds = _DEADLINES.connect
    first_byte: SomeSeconds = _DEADLINES.first_byte
    upstream_idle: SomeSeconds = _DEADLINES.upstream_idle
    events: Seconds = _DEADLINES.events
    tunnel: Seconds = _DEADLINES.tunnel
    keep_alive: SomeSeconds = _DEADLINES.keep_alive
    drain: Seconds = _DEADLINES.drain


class LimitTable(Table):
    head: Annotated[Bytes, AfterValidator(size_from(4 * settings.KIB, "4 KiB"))] = _LIMITS.head
    connections: Count = _LIMITS.connections
    in_flight: SomeCount = _LIMITS.in_flight
    tunnels: SomeCount = _LIMITS.tunnels
    queue: Seconds = _LIMITS.queue


class RenewTable(Table):
    due: Seconds = _RENEW.due
    stale: Seconds = _RENEW.stale
    hold: Seconds = _RENEW.hold
    concurrent: SomeCount = _RENEW.concurrent
    per_second: Annotated[float, PlainValidator(rate), Kind("number")] = _RENEW.per_second


_LEVELS: Final = ("debug", "info", "warning", "error")


class LogTable(Table):
    level: Annotated[str, AfterValidator(one_of("a level", _LEVELS)), Kind("text")] = "info"
    format: Annotated[str, AfterValidator(one_of("a format", ("auto", "json", "text"))), Kind("text")] = (
        "auto"
    )
    access: Annotated[str, AfterValidator(one_of("a choice", ("off", "slow", "all"))), Kind("text")] = "off"
    slow: Seconds = 1.0


class AuditTable(Table):
    file: TextOrEmpty = ""
    fsync: Flag = False
    required: Flag = False


class TraceTable(Table):
    enabled: Flag = _TRACE.enabled
    endpoint: TextOrEmpty = _TRACE.endpoint
    sample: Annotated[float, PlainValidator(share), Kind("number")] = _TRACE.sample
    accounts: Flag = _TRACE.accounts


SECTIONS: Final[Mapping[str, type[Table]]] = {
    "server": Server,
    "forward_auth": ForwardAuth,
    "admin": Admin,
    "metrics": Metrics,
    "store": Store,
    "replay": ReplayTable,
    "deadlines": DeadlineTable,
    "limits": LimitTable,
    "renew": RenewTable,
    "log": LogTable,
    "audit": AuditTable,
    "trace": TraceTable,
}
"""Tables that exist once."""

NAMED: Final[Mapping[str, type[Table]]] = {
    "accounts": AccountTable,
    "routes": RouteTable,
    "callers": CallerTable,
    "issuers": IssuerTable,
    "providers": ProviderTable,
}
"""Tables of tables with names of the operator's choice."""
