"""``[providers.*]`` and ``[accounts.*]``: whom we ask for tokens, and as whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from tokenproxy.config import providers
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import AccountTable, ProviderTable
from tokenproxy.config.outgoing import outgoing_proxy
from tokenproxy.config.reading import Reading, tls_files
from tokenproxy.config.secrets import WORDS
from tokenproxy.config.validation import read
from tokenproxy.config.words import Report, did_you_mean, either, quoted, shown
from tokenproxy.core.grants import TRAITS, Traits
from tokenproxy.core.placeholders import LONGEST_VALUE, valid_path
from tokenproxy.core.provider import (
    AUTHORIZATION_CODE,
    DEVICE_CODE,
    EMPTY,
    IMPLICIT,
    Account,
    ClientAuth,
    Provider,
    Registration,
    Setting,
)
from tokenproxy.core.replies import usable


@dataclass(frozen=True, slots=True)
class Own:
    """Keys of an account that are its grant's own."""

    needed: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    """Key -> what to say where it is missing."""
    optional: tuple[str, ...] = ()


KEYS: Final[Mapping[str, Own]] = {
    "client_credentials": Own(optional=("audience", "resource")),
    "password": Own(
        needed={
            "username": "is missing: whom the password belongs to",
            "password": "is missing: where the password lies",
            "allow_password": "must be true: this grant hands a person's password to a program, and most providers have "
            "given it up (RFC 9700 section 2.4)",
        },
        optional=("audience", "resource"),
    ),
    "token_exchange": Own(
        needed={
            "subject_token": "is missing: where the token lies that is exchanged",
            "subject_token_type": 'is missing: what it is, such as "urn:ietf:params:oauth:token-type:jwt"',
        },
        optional=("audience", "resource", "actor_token", "actor_token_type", "requested_token_type"),
    ),
    "jwt_bearer": Own(optional=("assertion", "claims", "audience", "resource")),
    "implicit": Own(
        needed={
            "allow_implicit": "must be true: this grant sends the token itself through the browser, and most providers "
            "have given it up (RFC 9700 section 2.1.2)",
        },
        optional=("capture",),
    ),
    "authorization_code": Own(optional=("capture",)),
    "static": Own(needed={"token": "is missing: where the token lies"}),
    "file": Own(needed={"token": 'is missing: the file, as "file:/run/app/token"'}),
    "command": Own(needed={"token": 'is missing: the command, as "cmd:print-token --for app"'}),
}
"""Grant -> its own keys; a grant that is not here has none."""
_REGISTRATION: Final = {"client_id", "client_secret", "scopes", "private_key", "key_id"}
_PARAMS: Final = (
    "username",
    "audience",
    "resource",
    "subject_token_type",
    "actor_token_type",
    "requested_token_type",
)
_PRESENTED: Final = ("subject_token", "actor_token", "assertion")
"""Read anew for every request, so that they may be short-lived."""
_TOKEN_WORDS: Final[Mapping[str, str]] = {"file": "file:", "command": "cmd:"}


@dataclass(frozen=True, slots=True)
class Offered:
    """A provider that accounts may name; ``provider`` is None where its table has mistakes."""

    provider: Provider | None
    insecure_http: bool = False


class Offers:
    """The config's own providers, and presets, which are read only when an account names them."""

    def __init__(self, raw: Mapping[str, Any], reading: Reading) -> None:
        self._reading = reading
        self._own: dict[str, Mapping[str, Any]] = {}
        self._found: dict[str, Offered] = {}
        self._without_endpoint = _only_injecting(raw)
        tables = reading.tables(raw, "providers")
        for name, table in tables.items():
            self._own[name] = self._layer(name, table)
        for name in tables:
            self._found[name] = self._whole(name)

    def get(self, name: str) -> Offered | None:
        """None for a name that nobody knows."""
        if name not in self._found and name in providers.preset_names():
            self._found[name] = Offered(providers.preset(name).provider)
        return self._found.get(name)

    def names(self) -> list[str]:
        return [*self._own, *providers.preset_names()]

    def _layer(self, name: str, raw: Any) -> Mapping[str, Any]:
        """What a table says itself, as far as it is sound."""
        keys: Keys = ("providers", name)
        report = self._reading.report
        table = read(ProviderTable, raw, keys, report)
        if table is None:
            return EMPTY
        providers.check_own(table, keys, report)
        self._reading.tls(table.tls, (*keys, "tls"))
        return table.model_dump(by_alias=True, exclude_unset=True)

    def _whole(self, name: str) -> Offered:
        keys: Keys = ("providers", name)
        report = self._reading.report
        try:
            table = ProviderTable.model_validate(providers.expanded(name, self._own))
        except ValueError as wrong:
            report.problem((*keys, "extends"), str(wrong))
            return Offered(None)
        needed = name not in self._without_endpoint
        if (
            needed
            and not table.token_url
            and not table.issuer
            and report.sound(*keys, "token_url")
            and report.sound(*keys, "extends")
        ):
            report.problem((*keys, "token_url"), "is missing: where this provider gives out tokens")
        provider = replace(
            providers.built(name, table, tls_files(table.tls, self._reading.base)),
            proxy=outgoing_proxy(table.proxy, (*keys, "proxy"), self._reading),
        )
        providers.check_plain(table, provider, self._own[name], keys=keys, report=report)
        return Offered(provider if report.sound(*keys) else None, table.insecure_http)


def _only_injecting(raw: Mapping[str, Any]) -> set[str]:
    """Providers that some accounts name, and none of them asks for tokens there: they need no ``token_url``."""
    asked: dict[str, bool] = {}
    tables = raw.get("accounts", {})
    for table in tables.values() if isinstance(tables, dict) else ():
        if isinstance(table, dict) and isinstance(name := table.get("provider"), str):
            traits = TRAITS.get(str(table.get("grant", AUTHORIZATION_CODE)), Traits())
            asked[name] = asked.get(name, False) or (traits.endpoint and not table.get("capture"))
    return {name for name, needed in asked.items() if not needed}


def read_accounts(raw: Mapping[str, Any], offers: Offers, reading: Reading) -> Mapping[str, Account]:
    """All sound accounts; mistakes are in the report."""
    tables = reading.tables(raw, "accounts")
    if not tables and reading.report.sound("accounts"):
        reading.report.problem(
            ("accounts",), "is missing: a table [accounts.NAME] with provider and client_id"
        )
    found = {name: _account(name, table, offers, reading) for name, table in tables.items()}
    return MappingProxyType({name: account for name, account in found.items() if account is not None})


def _account(name: str, raw: Any, offers: Offers, reading: Reading) -> Account | None:
    keys: Keys = ("accounts", name)
    report = reading.report
    table = read(AccountTable, raw, keys, report)
    if table is None:
        return None
    traits = TRAITS[table.grant]
    registered = (traits.endpoint or traits.person) and not table.capture
    if registered and not table.client_id and report.sound(*keys, "client_id"):
        report.problem((*keys, "client_id"), "is missing: what the provider calls this client")
    secret = reading.secret(table.client_secret, (*keys, "client_secret")) if table.client_secret else ""
    if secret != secret.strip():
        report.warning(
            (*keys, "client_secret"), "begins or ends with white space, which is taken as part of it"
        )
    _check_keys(table, raw, keys, report)
    means = _means(table, keys, reading)
    provider = _provider(table, keys, offers, reading)
    if provider is None:
        return None
    private_key = reading.secret(table.private_key, (*keys, "private_key")) if table.private_key else ""
    if traits.endpoint and not table.capture:
        _check_secret(provider, table, keys, reading)
    if traits.person:
        _check_login(provider, table, keys, report)
    return Account(
        name=name,
        provider=provider,
        registration=Registration(
            client_id=table.client_id or "",
            client_secret=secret,
            private_key=private_key,
            key_id=table.key_id,
        ),
        grant=table.grant,
        scopes=tuple(table.scopes or ()),
        claims=MappingProxyType(table.claims),
        capture=table.capture,
        settings=_settings(table, keys, reading),
        vars=MappingProxyType(table.vars),
        **means,
    )


def _check_keys(table: AccountTable, raw: Any, keys: Keys, report: Report) -> None:
    """The grant has all that it needs, and nothing stands there that it would ignore."""
    own = KEYS.get(table.grant, Own())
    if not report.sound(*keys, "grant"):
        return
    for name, sentence in own.needed.items():
        if not getattr(table, name) and report.sound(*keys, name):
            report.problem((*keys, name), sentence)
    some = {name for each in KEYS.values() for name in (*each.needed, *each.optional)} | _REGISTRATION
    traits = TRAITS[table.grant]
    taken = {*own.needed, *own.optional} | (_REGISTRATION if traits.endpoint or traits.person else set())
    for name in sorted((some - taken) & raw.keys()):
        if report.sound(*keys, name):
            takers = [f'"{grant}"' for grant, each in KEYS.items() if name in {*each.needed, *each.optional}]
            whose = (
                f"belongs to grant = {either(takers)}"
                if takers
                else "is for grants that ask a token endpoint"
            )
            report.problem((*keys, name), f"is not used by grant = {quoted(table.grant)}; it {whose}")
    _check_means(table, keys, report)


def _check_means(table: AccountTable, keys: Keys, report: Report) -> None:
    """Keys that need or exclude one another."""
    if table.grant == "jwt_bearer" and not (table.assertion or table.private_key):
        report.problem(
            (*keys, "assertion"),
            "is missing: where the signed assertion lies; or private_key, with which we sign one ourselves",
        )
    if table.assertion and table.claims and report.sound(*keys, "claims"):
        report.problem((*keys, "claims"), "has no effect: assertion is signed by somebody else")
    if table.capture and not valid_path(table.capture):
        report.problem(
            (*keys, "capture"), f'must be a path such as "oauth2/token", got {shown(table.capture)}'
        )
    for name, other in (("actor_token_type", "actor_token"), ("actor_token", "actor_token_type")):
        if getattr(table, name) and not getattr(table, other):  # RFC 8693 section 2.1: both or neither
            report.problem((*keys, name), f"needs {other} beside it")


def _means(table: AccountTable, keys: Keys, reading: Reading) -> dict[str, Any]:
    """What the account's grant asks with: fields of ``Account``."""
    report = reading.report
    params = {name: getattr(table, name) for name in _PARAMS if getattr(table, name)}
    if table.password:
        params["password"] = reading.secret(table.password, (*keys, "password"))
    presented = {name: getattr(table, name) for name in _PRESENTED if getattr(table, name)}
    for name, origin in presented.items():
        _look_at(origin, (*keys, name), reading)
    token, token_from = "", ""
    if table.grant == "static" and table.token:
        token = reading.secret(table.token, (*keys, "token"))
        if token and usable(token) != token and report.sound(*keys, "token"):
            report.problem((*keys, "token"), "is no token: it must be printable ASCII without spaces")
    elif word := _TOKEN_WORDS.get(table.grant):
        token_from = table.token
        if token_from and (not token_from.startswith(word) or token_from == word):
            report.problem((*keys, "token"), f"must be {word}... with grant = {quoted(table.grant)}")
        elif token_from:
            _look_at(token_from, (*keys, "token"), reading)
    return {
        "params": MappingProxyType(params),
        "presented": MappingProxyType(presented),
        "token": token,
        "token_from": token_from,
    }


def _settings(table: AccountTable, keys: Keys, reading: Reading) -> Mapping[str, Setting]:
    """What requests may name as ``__name__``: a secret's word is opened, all else is the value itself."""
    found = {}
    for name, each in table.settings.items():
        at = (*keys, "settings", name)
        value = each.value
        if value.startswith(WORDS):
            value = reading.secret(value, at)
        elif each.backend and value and reading.report.in_file(at):
            reading.literals.append(at)
        if len(value.encode()) > LONGEST_VALUE:
            reading.report.problem(at, f"is longer than {LONGEST_VALUE} bytes")
        found[name] = Setting(value=value, backend=each.backend)
    return MappingProxyType(found)


def _look_at(origin: str, keys: Keys, reading: Reading) -> None:
    """Of what is read later, and may come later: what can be said about it now."""
    word, _, rest = origin.partition(":")
    if word == "file" and (reading.base / rest).exists():
        reading.guarded(reading.base / rest, keys)
    elif word == "file":
        reading.report.warning(keys, f"there is no {reading.base / rest} yet; it is read when it is needed")
    if origin.startswith("literal:") and reading.report.in_file(keys):
        reading.literals.append(keys)


def _provider(table: AccountTable, keys: Keys, offers: Offers, reading: Reading) -> Provider | None:
    at = (*keys, "provider")
    report = reading.report
    if not report.sound(*at):
        return None
    traits = TRAITS[table.grant]
    if not table.provider and not traits.endpoint and not traits.person:
        return Provider(name="bearer", token_url="", client_auth=ClientAuth.NONE)
    if not table.provider:
        report.problem(
            at, "is missing: a preset (tokenproxy presets) or the name of a table [providers.NAME]"
        )
        return None
    offered = offers.get(table.provider)
    if offered is None:
        report.problem(
            at,
            f"no provider or preset {shown(table.provider)}.{did_you_mean(table.provider, offers.names())}",
        )
        return None
    if offered.provider is None:
        return None
    return providers.filled(
        offered.provider, table.vars, keys=(*keys, "vars"), insecure_http=offered.insecure_http, report=report
    )


def _check_login(provider: Provider, table: AccountTable, keys: Keys, report: Report) -> None:
    """That a person can log in at all, where the grant leaves no other way."""
    url = {DEVICE_CODE: "device_url", IMPLICIT: "authorize_url"}.get(table.grant, "")
    if url and not getattr(provider, url) and not provider.issuer and report.sound(*keys, "grant"):
        report.problem(
            (*keys, "grant"),
            f"needs {url} (or issuer) in [providers.{provider.name}], and {quoted(provider.name)} has none",
        )
    if table.capture and not provider.authorize_url and not provider.issuer:
        report.problem((*keys, "capture"), f"needs authorize_url in [providers.{provider.name}]")


def _check_secret(provider: Provider, table: AccountTable, keys: Keys, reading: Reading) -> None:
    at = (*keys, "client_secret")
    needed = provider.client_auth in providers.NEED_SECRET
    auth = quoted(provider.client_auth.value)
    if provider.client_auth is ClientAuth.PRIVATE_KEY_JWT and not table.private_key:
        reading.report.problem(
            (*keys, "private_key"),
            f"is missing: {quoted(provider.name)} authenticates clients by {auth}; where the key lies, as PEM or JWK",
        )
    if provider.client_auth is ClientAuth.MTLS and not provider.tls.cert_file:
        reading.report.problem(
            (*keys, "provider"),
            f"authenticates clients by {auth}: [providers.{provider.name}] needs tls.cert_file",
        )
    if needed and not table.client_secret and reading.report.sound(*at):
        reading.report.problem(
            at,
            f'is missing: {quoted(provider.name)} authenticates clients by {auth}; a public client needs client_auth = "none" in [providers.{provider.name}]',
        )
    if table.client_secret and not needed:
        reading.report.warning(at, f"is never sent: {quoted(provider.name)} has client_auth = {auth}")
