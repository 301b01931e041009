"""
The shape of the TOML: every table, key, type and default, and nothing that needs a second table to be known.

What no version reads yet is a key here all the same (``Later``), so that it is refused by name and never ignored.
The only module that imports pydantic.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from tokenproxy.config import units
from tokenproxy.config.lines import Keys
from tokenproxy.config.secrets import KEY_MUST_BEGIN, MUST_BEGIN, WORDS
from tokenproxy.config.values import LOOPBACK_ADMIN, LOOPBACK_PROXY
from tokenproxy.config.words import NOT_YET, Report, did_you_mean, either, nearest, quoted, shown
from tokenproxy.core import retries, settings
from tokenproxy.core.allow import Entry
from tokenproxy.core.forwarded import CHOICES as FORWARDED
from tokenproxy.core.forwarded import UNIX
from tokenproxy.core.grants import TRAITS
from tokenproxy.core.placeholders import SETTING_NAME
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

TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A field name or a method (RFC 9110 section 5.6.2)."""
_PROTOCOL: Final = re.compile(rf"{TOKEN.pattern}(?:/{TOKEN.pattern})?")
"""What ``Upgrade`` names (RFC 9110 section 7.8)."""
FIELD_VALUE: Final = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")
"""A field value without what needs no quoting but confuses somebody: control characters and bytes beyond ASCII."""
HOST_HEADER: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _clean(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if _CONTROL.search(value):
        raise ValueError("must not hold control characters or line breaks")
    return value


def _clean_or_empty(value: str) -> str:
    return _clean(value) if value else value


def _one_of(what: str, known: tuple[str, ...], now: tuple[str, ...] = ()) -> Callable[[str], str]:
    """``now``: those of ``known`` that this version can do."""

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"{shown(value)} is not {what}.{did_you_mean(value, now or known)}")
        if now and value not in now:
            raise ValueError(f"{quoted(value)} {NOT_YET}; {either(now)} is")
        return value

    return check


def _whole(least: int, most: int = 2**31) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, got {shown(value)}")  # noqa: TRY004 - pydantic wants ValueError
        if not least <= value <= most:
            limit = f"at least {least}" if value < least else f"at most {most}"
            raise ValueError(f"must be {limit}, got {shown(value)}")
        return value

    return check


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1_000_000:
        raise ValueError(f"must be a number above 0, got {shown(value)}")
    return float(value)


def _size_from(least: int, name: str) -> Callable[[int], int]:
    def check(value: int) -> int:
        if value < least:
            raise ValueError(f"must be at least {name}")
        return value

    return check


def _seconds_from(least: float, name: str) -> Callable[[float], float]:
    def check(value: float) -> float:
        if value < least:
            raise ValueError(f"must be at least {name}")
        return value

    return check


def _secret(words: tuple[str, ...], sentence: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be text in quotes; it {sentence}")  # noqa: TRY004 - pydantic wants ValueError
        if not value.startswith(words):
            raise ValueError(sentence)
        if _CONTROL.search(value):
            raise ValueError("must not hold control characters or line breaks")
        return value

    return check


def _header_name(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a header's name")
    return value


def _header_value(value: str) -> str:
    if not FIELD_VALUE.fullmatch(value):
        raise ValueError("must be printable ASCII without spaces around it, as a header's value is")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _header_name_or_empty(value: str) -> str:
    return _header_name(value) if value else value


def _header_value_or_empty(value: str) -> str:
    return _header_value(value) if value else value


def _host_pattern(value: str) -> str:
    filled = re.sub(r"\{[A-Za-z][A-Za-z0-9_]*\}", "x", value)
    if not re.fullmatch(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?", filled):
        raise ValueError(f'must be a host such as "api.example.com" or "*.example.com", got {shown(value)}')
    return value.lower()


def _rate_or_none(value: Any) -> float:
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return _rate(value)


def _texts(value: Any) -> Any:
    """Paths of a table: one, or several tried in order."""
    return {name: _as_list(each) for name, each in value.items()} if isinstance(value, dict) else value


def _named(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"{shown(name)} is no name; it has letters, digits and _")
    return value


def _signal_json(value: Any) -> Any:
    """Values as people write them: ``190``, ``false`` and ``"invalid_auth"``."""
    if not isinstance(value, dict):
        return value
    return {name: _json_text(each) for name, each in value.items()}


def _json_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        _header_name(name)
        _header_value(text)
    return value


def _field_values(value: dict[str, str]) -> dict[str, str]:
    """Text, or a secret's word, which is opened later."""
    for name, text in value.items():
        _header_name(name)
        if not text.startswith(WORDS):
            _header_value(text)
    return value


def _method(value: str) -> str:
    if not re.fullmatch(r"[A-Z]{3,20}", value) or value in {"CONNECT", "TRACE"}:
        raise ValueError(f'must be a method such as "GET" or "POST", got {shown(value)}')
    return value


def _protocol(value: str) -> str:
    if not _PROTOCOL.fullmatch(value):
        raise ValueError(f'must be a protocol such as "websocket", got {shown(value)}')
    if value.lower().startswith(("h2", "h3", "http", "tls")):
        raise ValueError(
            f"{shown(value)} carries further requests, which would go past every rule of the route"
        )
    return value.lower()


def _allow_entry(value: str) -> str:
    Entry.of(value)
    return value


def _proxy(value: Any) -> Any:
    """An address alone is a proxy that asks for no credentials."""
    return {"url": value} if isinstance(value, str) else value


def _fault(value: str) -> str:
    if not retries.FAULT.fullmatch(value):
        raise ValueError(
            f'must be "connect", "reset", "429" or a status of 500 and above such as "503", got {shown(value)}'
        )
    return value


def _repeatable(value: str) -> str:
    if value not in retries.REPEATABLE:
        raise ValueError(
            f"must be one of {either(retries.REPEATABLE)}: what another method does may be done twice"
        )
    return value


def _network(value: str) -> str:
    if value != UNIX:
        try:
            ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(
                f'must be a network such as "10.0.0.0/8", an address or "unix:", got {shown(value)}'
            ) from None
    return value


def _scope(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError('must be one scope without spaces; write several as ["first", "second"]')
    return value


def _later(_value: Any) -> Any:
    raise ValueError(f"{NOT_YET}; leave it out")


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold NUL characters")
    return value


def _listens(value: Any) -> Any:
    """One entry or several; text alone is an address."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list):
        return value
    for item in entries:
        if not isinstance(item, str | dict):
            raise ValueError(  # noqa: TRY004 - pydantic wants ValueError
                f'must hold addresses in quotes, or tables such as {{ address = "127.0.0.1:8080" }}, got {shown(item)}'
            )
    return [{"address": each} if isinstance(each, str) else each for each in entries]


def _mode(value: Any) -> int:
    """``"0660"`` as for chmod, or ``0o660`` as TOML has it."""
    octal = isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value)
    mode = int(value, 8) if octal else value
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0o600 <= mode <= 0o777:
        raise ValueError(f'must be a mode such as "0660" that lets us in ourselves, got {shown(value)}')
    return mode


def _settings_by_name(value: Any) -> Any:
    """Text alone is a value."""
    if not isinstance(value, dict):
        return value
    return {name: {"value": each} if isinstance(each, str) else each for name, each in value.items()}


def _setting_names(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if not SETTING_NAME.fullmatch(name):
            raise ValueError(
                f"{shown(name)} is no name of a setting: it has at most 64 letters, digits and single underscores between them"
            )
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """What the reference page calls a type."""

    name: str


Text = Annotated[str, AfterValidator(_clean), Kind("text")]
TextOrEmpty = Annotated[str, AfterValidator(_clean_or_empty), Kind("text")]
Texts = Annotated[list[Text], Kind("list of text")]
TextOrTexts = Annotated[list[Text], BeforeValidator(_as_list), Kind("text or list")]
Words = Annotated[dict[str, TextOrEmpty], Kind("table of text")]
Headers = Annotated[dict[str, str], AfterValidator(_headers), Kind("table of text")]
FieldValues = Annotated[dict[str, str], AfterValidator(_field_values), Kind("table of text")]
HeaderName = Annotated[str, AfterValidator(_header_name), Kind("text")]
HeaderNameOrEmpty = Annotated[str, AfterValidator(_header_name_or_empty), Kind("text")]
HeaderValueOrEmpty = Annotated[str, AfterValidator(_header_value_or_empty), Kind("text")]
HostPatterns = Annotated[list[Annotated[str, AfterValidator(_host_pattern)]], Kind("list of text")]
NamedPaths = Annotated[
    dict[str, list[Text]], BeforeValidator(_texts), AfterValidator(_named), Kind("table of text or lists")
]
NamedTexts = Annotated[dict[str, Text], AfterValidator(_named), Kind("table of text")]
Rate = Annotated[float, PlainValidator(_rate_or_none), Kind("number")]
HeaderNames = Annotated[list[HeaderName], Kind("list of text")]
Method = Annotated[str, AfterValidator(_method), Kind("text")]
Scopes = Annotated[list[Annotated[str, AfterValidator(_scope)]], Kind("list of text")]
Flag = Annotated[bool, Kind("true or false")]
Bytes = Annotated[int, PlainValidator(units.size), Kind("size")]
Seconds = Annotated[float, PlainValidator(units.seconds), Kind("duration")]
SomeSeconds = Annotated[float, PlainValidator(units.seconds), AfterValidator(_above_zero), Kind("duration")]
Count = Annotated[int, PlainValidator(_whole(0)), Kind("whole number")]
SomeCount = Annotated[int, PlainValidator(_whole(1)), Kind("whole number")]
Status = Annotated[int, PlainValidator(_whole(100, 599))]
Statuses = Annotated[list[Status], Kind("list of numbers")]
ErrorStatus = Annotated[int, PlainValidator(_whole(400, 599))]
ErrorStatuses = Annotated[list[ErrorStatus], Field(min_length=1), Kind("list of numbers")]
Secret = Annotated[str, PlainValidator(_secret(WORDS, MUST_BEGIN)), Kind("secret")]
Secrets = Annotated[list[Secret], BeforeValidator(_as_list), Kind("secret or list")]
KeySource = Annotated[str, PlainValidator(_secret(WORDS[:-1], KEY_MUST_BEGIN))]
KeySources = Annotated[
    list[KeySource], BeforeValidator(_as_list), Field(min_length=1), Kind("secret or list")
]
Protocols = Annotated[list[Annotated[str, AfterValidator(_protocol)]], Kind("list of text")]
AllowList = Annotated[
    list[Annotated[str, AfterValidator(_allow_entry)]], Field(min_length=1), Kind("list of text")
]
Mode = Annotated[int, PlainValidator(_mode)]
Later = Annotated[Any, PlainValidator(_later), Kind("later")]


class Table(BaseModel):
    """
    A TOML table. ``Field(description=REQUIRED)`` marks what must be given; whoever reads the table asks for it.

    Required keys have a default all the same: a missing one must not keep the others from being looked at.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


REQUIRED: Final = "required"
DEPENDS: Final = "depends"


def _required() -> Any:
    return Field(default="", description=REQUIRED)


def _depends(*, alias: str | None = None) -> Any:
    """A default that is worked out from other keys."""
    return Field(default=None, description=DEPENDS, alias=alias)


class CallerAuth(Table):
    keys: Secrets = []


class ListenTable(Table):
    """One entry of ``server.listen``."""

    address: Text = _required()
    mode: Mode | None = None
    group: TextOrEmpty = ""
    cert_file: TextOrEmpty = ""
    key_file: TextOrEmpty = ""
    client_ca_file: TextOrEmpty = ""


Listens = Annotated[
    list[ListenTable], BeforeValidator(_listens), Field(min_length=1), Kind("text, table or list")
]


class Server(Table):
    listen: Listens = Field(default=[LOOPBACK_PROXY], validate_default=True)
    hosts: Texts = []
    loop: Annotated[str, AfterValidator(_one_of("a loop", ("auto", "asyncio", "uvloop"))), Kind("text")] = (
        "auto"
    )
    reuse_port: Flag = False
    allow_unauthenticated: Flag = False
    forwarded: Annotated[str, AfterValidator(_one_of("a choice", FORWARDED)), Kind("text")] = "off"
    trusted_proxies: Annotated[list[Annotated[str, AfterValidator(_network)]], Kind("list of text")] = []
    caller_auth: CallerAuth = CallerAuth()


class Admin(Table):
    listen: Text = LOOPBACK_ADMIN
    public_url: Text | None = _depends()
    insecure_http: Flag = False
    token: Secret = ""
    return_to: Texts = []


class Metrics(Table):
    listen: TextOrEmpty = ""


class Store(Table):
    url: Text = "sqlite:tokenproxy.db"
    key: KeySources | None = _depends()
    cache: Annotated[Bytes, AfterValidator(_size_from(settings.MIB, "1 MiB"))] = 176 * settings.MIB
    spool: Text | None = _depends()
    dir: Text | None = _depends()
    lease: Annotated[Seconds, AfterValidator(_seconds_from(2.0, "2 s"))] = _SHARED.lease
    heartbeat: SomeSeconds = _SHARED.heartbeat
    pooler: Annotated[str, AfterValidator(_one_of("a choice", ("none", "transaction"))), Kind("text")] = (
        "none"
    )
    allow_unsafe: Flag = _SHARED.allow_unsafe


class TLS(Table):
    ca_file: TextOrEmpty = ""
    cert_file: TextOrEmpty = ""
    key_file: TextOrEmpty = ""


class SettingTable(Table):
    value: Annotated[str, AfterValidator(_no_nul)] = ""
    backend: Flag = False


Settings = Annotated[
    dict[str, SettingTable],
    BeforeValidator(_settings_by_name),
    AfterValidator(_setting_names),
    Kind("table of settings"),
]


class AccountTable(Table):
    provider: TextOrEmpty | None = _depends()
    grant: Annotated[str, AfterValidator(_one_of("a grant", tuple(TRAITS))), Kind("text")] = (
        AUTHORIZATION_CODE
    )
    client_id: TextOrEmpty | None = _depends()
    client_secret: Secret = ""
    scopes: Scopes | None = _depends()
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
    memory: Bytes | None = _depends()
    disk: Bytes | None = _depends()


class RetryTable(Table):
    attempts: Annotated[int, PlainValidator(_whole(1, 5)), Kind("whole number")] = 1
    on: Annotated[list[Annotated[str, AfterValidator(_fault)]], Field(min_length=1), Kind("list of text")] = [
        retries.CONNECT,
        retries.RESET,
        "502",
        "503",
        "504",
    ]
    methods: Annotated[
        list[Annotated[str, AfterValidator(_repeatable)]], Field(min_length=1), Kind("list of text")
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
    prefix: Text | None = _depends()
    host: TextOrEmpty = ""
    upstream: TextOrEmpty = _required()
    account: TextOrEmpty = _required()
    trust_account_header: Flag = False
    pass_: HeaderNames = Field(default=[], alias="pass")
    origins: Texts = []
    replay: RouteReplay = RouteReplay()
    tls: TLS = TLS()
    in_flight: Count = 0
    insecure_http: Flag = False
    forwarded: Annotated[str, AfterValidator(_one_of("a choice", FORWARDED)), Kind("text")] | None = (
        _depends()
    )
    retry: RetryTable = RetryTable()
    request_headers: HeaderTable = HeaderTable()
    answer_headers: HeaderTable = HeaderTable()
    host_header: TextOrEmpty = ""
    rewrite_location: Flag = False
    rewrite_cookies: Flag = False
    allow: AllowList | None = None
    upgrade: Protocols = []
    connect: Flag = False
    placeholders: Flag = False
    targets: Annotated[list[TargetTable], Kind("list of tables")] = []
    proxy: Annotated[RouteProxyTable, BeforeValidator(_proxy)] = RouteProxyTable()


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
    body: Annotated[str, AfterValidator(_one_of("a body", ("form", "json", "none"))), Kind("text")] = (
        _REVOKE.body
    )
    token: Annotated[
        str, AfterValidator(_one_of("a token", ("refresh_token", "access_token"))), Kind("text")
    ] = _REVOKE.token
    parameter: Text = _REVOKE.parameter
    auth: Annotated[
        str,
        AfterValidator(_one_of("a way to authenticate", ("client", "basic", "bearer", "none"))),
        Kind("text"),
    ] = _REVOKE.auth
    headers: Headers = {}


class CallbackTable(Table):
    mode: Annotated[
        str, AfterValidator(_one_of("a mode", tuple(each.value for each in CallbackMode))), Kind("text")
    ] = CallbackMode.QUERY.value
    path: Annotated[
        str,
        AfterValidator(_one_of("a kind of path", tuple(each.value for each in CallbackPath))),
        Kind("text"),
    ] = CallbackPath.ACCOUNT.value
    code: Text = "code"
    state: Text = "state"
    token: TextOrEmpty = ""
    key: TextOrEmpty = ""
    iss: Flag = False
    captured: NamedTexts = {}


class AssertionTable(Table):
    alg: Annotated[str, AfterValidator(_one_of("an algorithm", ALGORITHMS)), Kind("text")] = _ASSERTION.alg
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
    json_: Annotated[dict[str, str], BeforeValidator(_signal_json)] = Field(default={}, alias="json")
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
        AfterValidator(_one_of("a kind of rotation", ("always", "sometimes", "never", "unknown"))),
        Kind("text"),
    ] = "unknown"
    api: TextOrEmpty = ""
    issuer: TextOrEmpty = ""
    authorize_url: TextOrEmpty = ""
    authorize_params: Words = {}
    pkce: Annotated[
        str, AfterValidator(_one_of("a code challenge", tuple(each.value for each in PKCE))), Kind("text")
    ] = PKCE.S256.value
    par_url: TextOrEmpty = ""
    device_url: TextOrEmpty = ""
    callback: CallbackTable = CallbackTable()
    token_url: TextOrEmpty = _required()
    refresh_url: TextOrEmpty = ""
    refresh_with: Annotated[
        str, AfterValidator(_one_of("a token", ("refresh_token", "access_token"))), Kind("text")
    ] = "refresh_token"
    refresh_method: Annotated[
        str, AfterValidator(_one_of("GET or POST", ("", "GET", "POST"))), Kind("text")
    ] = ""
    refresh_auth: Annotated[
        str, AfterValidator(_one_of("a way to authenticate a refresh", ("", *_SECRET_AUTHS))), Kind("text")
    ] = ""
    refresh_rename: Words = {}
    exchange_params: Words = {}
    client_auth: Annotated[str, AfterValidator(_one_of("a way to authenticate", _AUTHS)), Kind("text")] = (
        ClientAuth.BASIC.value
    )
    assertion: AssertionTable = AssertionTable()
    dpop: Flag = False
    token_method: Annotated[str, AfterValidator(_one_of("GET or POST", ("GET", "POST"))), Kind("text")] = (
        "POST"  # noqa: S105 - a method
    )
    token_body: Annotated[
        str,
        AfterValidator(_one_of("a place for parameters", tuple(each.value for each in TokenBody))),
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
    proxy: Annotated[ProxyTable, BeforeValidator(_proxy)] = ProxyTable()


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
    head: Annotated[Bytes, AfterValidator(_size_from(4 * settings.KIB, "4 KiB"))] = _LIMITS.head
    connections: Count = _LIMITS.connections
    in_flight: SomeCount = _LIMITS.in_flight
    tunnels: SomeCount = _LIMITS.tunnels
    queue: Seconds = _LIMITS.queue


class RenewTable(Table):
    due: Seconds = _RENEW.due
    stale: Seconds = _RENEW.stale
    hold: Seconds = _RENEW.hold
    concurrent: SomeCount = _RENEW.concurrent
    per_second: Annotated[float, PlainValidator(_rate), Kind("number")] = _RENEW.per_second


_LEVELS: Final = ("debug", "info", "warning", "error")


class LogTable(Table):
    level: Annotated[str, AfterValidator(_one_of("a level", _LEVELS)), Kind("text")] = "info"
    format: Annotated[str, AfterValidator(_one_of("a format", ("auto", "json", "text"))), Kind("text")] = (
        "auto"
    )
    access: Annotated[str, AfterValidator(_one_of("a choice", ("off", "slow", "all"))), Kind("text")] = "off"
    slow: Seconds = 1.0


SECTIONS: Final[Mapping[str, type[Table]]] = {
    "server": Server,
    "admin": Admin,
    "metrics": Metrics,
    "store": Store,
    "replay": ReplayTable,
    "deadlines": DeadlineTable,
    "limits": LimitTable,
    "renew": RenewTable,
    "log": LogTable,
}
"""Tables that exist once."""

NAMED: Final[Mapping[str, type[Table]]] = {
    "accounts": AccountTable,
    "routes": RouteTable,
    "providers": ProviderTable,
}
"""Tables of tables with names of the operator's choice."""

AnyTable = TypeVar("AnyTable", bound=Table)


def read(model: type[AnyTable], raw: Any, keys: Keys, report: Report) -> AnyTable | None:
    """
    What is sound of a table; each mistake goes into the report.

    None only for something that is no table: a key with a mistake is left out, so that the rest can be judged on.
    """
    if not isinstance(raw, dict):
        report.problem(keys, f"must be a table, got {shown(raw)}")
        return None
    try:
        return model.model_validate(raw)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    kept = raw
    for error in errors:
        below = tuple(error["loc"])
        report.problem((*keys, *below), _sentence(model, below, error["type"], error["input"], error))
        kept = _without(kept, below)
    return model.model_validate(kept)


def _without(raw: dict[str, Any], below: Keys) -> dict[str, Any]:
    first, *rest = below
    kept = dict(raw)
    inner = kept.get(str(first))
    if rest and isinstance(rest[0], str) and isinstance(inner, dict):
        kept[str(first)] = _without(inner, tuple(rest))
    else:
        kept.pop(str(first), None)
    return kept


_TYPES: Final[Mapping[str, str]] = {
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "list_type": 'must be a list such as ["a", "b"]',
    "dict_type": 'must be a table such as { name = "value" }',
    "model_type": 'must be a table such as { name = "value" }',
}


def _sentence(model: type[Table], below: Keys, kind: str, value: Any, error: Any) -> str:
    if kind == "extra_forbidden":
        return unknown(model, below)
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "too_short":
        return "must not be empty"
    return f"{_TYPES[kind]}, got {shown(value)}" if kind in _TYPES else str(error["msg"])


def unknown(model: type[Table], below: Keys) -> str:
    """What to say of a key that is not there: the nearest, the right table, or what there is."""
    table, name, named = model, str(below[-1]), False
    for key in below[:-1]:
        if named or isinstance(key, int):  # one of several tables of the same kind
            named = False
            continue
        annotation = children(table)[str(key)]
        named = get_origin(annotation) is dict
        inner = table_in(annotation)
        assert inner is not None  # pydantic found a table there  # noqa: S101
        table = inner
    known = [each for each, kind in children(table).items() if not _is_later(kind)]
    if nearest(name, known) is None and (elsewhere := _homes(name)):
        return f"unknown setting here; {either(elsewhere)} has it"
    return f"unknown setting.{did_you_mean(name, known)}"


def _homes(name: str) -> list[str]:
    """Sections that have a setting of this name directly."""
    homes = [f"[{section}]" for section, model in SECTIONS.items() if name in children(model)]
    return homes + [f"[{section}.NAME]" for section, model in NAMED.items() if name in children(model)]


def children(model: type[Table]) -> dict[str, Any]:
    """A table's keys as TOML writes them, each with its annotation (``Annotated`` and ``Optional`` taken off)."""
    return {field.alias or name: bare(field.annotation) for name, field in model.model_fields.items()}


def table_in(annotation: Any) -> type[Table] | None:
    """The table that a key holds, or of which it holds a list, or several by names of the operator's choice."""
    row = get_args(annotation)[-1] if get_origin(annotation) in {list, dict} else annotation
    return row if isinstance(row, type) and issubclass(row, Table) else None


def _is_later(annotation: Any) -> bool:
    return annotation is Any


def bare(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return bare(next(each for each in get_args(annotation) if each is not type(None)))
    return annotation


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the config, for the reference page."""

    path: str
    """Dotted, with NAME where the operator chooses: ``routes.NAME.upstream``."""
    type: str
    default: Any
    """As the table has it; ``REQUIRED`` or ``DEPENDS`` where that is no value."""


def every_setting() -> Iterator[Setting]:
    """All keys there are, section by section."""
    for section, model in SECTIONS.items():
        yield from _settings(model, section)
    for section, model in NAMED.items():
        yield from _settings(model, f"{section}.NAME")


def _settings(model: type[Table], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        path = f"{prefix}.{field.alias or name}"
        inner = table_in(bare(field.annotation))
        if inner is not None and get_origin(bare(field.annotation)) not in {list, dict}:
            yield from _settings(inner, path)
            continue
        kinds = [each.name for each in field.metadata if isinstance(each, Kind)] or _kinds(field.annotation)
        yield Setting(path, kinds[0], field.description or field.default)


def _kinds(annotation: Any) -> list[str]:
    """The kinds inside an ``X | None``."""
    if get_origin(annotation) is Annotated:
        return [each.name for each in get_args(annotation)[1:] if isinstance(each, Kind)]
    return [name for each in get_args(annotation) for name in _kinds(each)]
