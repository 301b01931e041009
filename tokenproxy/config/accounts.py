"""``[providers.*]`` and ``[accounts.*]``: whom we ask for tokens, and as whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tokenproxy.config import providers
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import AccountTable, ProviderTable, read
from tokenproxy.config.reading import Reading, tls_files
from tokenproxy.config.words import did_you_mean, quoted, shown
from tokenproxy.core.provider import EMPTY, Account, Provider, Registration


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
        if not table.token_url and report.sound(*keys, "token_url") and report.sound(*keys, "extends"):
            report.problem((*keys, "token_url"), "is missing: where this provider gives out tokens")
        provider = providers.built(name, table, tls_files(table.tls, self._reading.base))
        providers.check_plain(table, provider, self._own[name], keys=keys, report=report)
        return Offered(provider if report.sound(*keys) else None, table.insecure_http)


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
    if not table.client_id and report.sound(*keys, "client_id"):
        report.problem((*keys, "client_id"), "is missing: what the provider calls this client")
    secret = reading.secret(table.client_secret, (*keys, "client_secret")) if table.client_secret else ""
    if secret != secret.strip():
        report.warning(
            (*keys, "client_secret"), "begins or ends with white space, which is taken as part of it"
        )
    provider = _provider(table, keys, offers, reading)
    if provider is None:
        return None
    _check_secret(provider, table, keys, reading)
    return Account(
        name=name,
        provider=provider,
        registration=Registration(client_id=table.client_id, client_secret=secret),
        grant=table.grant,
        scopes=tuple(table.scopes or ()),
    )


def _provider(table: AccountTable, keys: Keys, offers: Offers, reading: Reading) -> Provider | None:
    at = (*keys, "provider")
    report = reading.report
    if not report.sound(*at):
        return None
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


def _check_secret(provider: Provider, table: AccountTable, keys: Keys, reading: Reading) -> None:
    at = (*keys, "client_secret")
    needed = provider.client_auth in providers.NEED_SECRET
    auth = quoted(provider.client_auth.value)
    if needed and not table.client_secret and reading.report.sound(*at):
        reading.report.problem(
            at,
            f'is missing: {quoted(provider.name)} authenticates clients by {auth}; a public client needs client_auth = "none" in [providers.{provider.name}]',
        )
    if table.client_secret and not needed:
        reading.report.warning(at, f"is never sent: {quoted(provider.name)} has client_auth = {auth}")
