"""Providers from data: presets, the config's own tables, what one takes over from another, and ``vars``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from tokenproxy.config import addresses
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import AnswerTable, ErrorTable, ProviderTable
from tokenproxy.config.values import PresetInfo
from tokenproxy.config.words import Report, did_you_mean, quoted, shown
from tokenproxy.core.provider import (
    AnswerFields,
    ClientAuth,
    ErrorCodes,
    Inject,
    Provider,
    TokenBody,
    Validate,
)
from tokenproxy.core.settings import TLSFiles

NEED_SECRET: Final = frozenset({ClientAuth.BASIC, ClientAuth.BASIC_RAW, ClientAuth.POST, ClientAuth.QUERY})
_URLS: Final = ("authorize_url", "token_url", "refresh_url")
_NEVER_INJECTED: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "tokenproxy-key",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Framing, routing and hop-by-hop fields (RFC 9110 section 7.6.1): a token there breaks the message or goes nowhere."""


@cache
def preset_names() -> tuple[str, ...]:
    folder = files("tokenproxy.core") / "presets"
    return tuple(sorted(each.name[:-5] for each in folder.iterdir() if each.name.endswith(".toml")))


@cache
def preset_table(name: str) -> Mapping[str, Any]:
    """A preset as one table, with what it extends; raises ``KeyError`` for an unknown one."""
    if name not in preset_names():
        raise KeyError(name)
    raw = tomllib.loads((files("tokenproxy.core") / "presets" / f"{name}.toml").read_text(encoding="utf-8"))
    base = raw.pop("extends", None)
    return MappingProxyType(merged(preset_table(base), raw) if base else raw)


def preset(name: str) -> PresetInfo:
    table = preset_table(name)
    provider = built(name, ProviderTable.model_validate(dict(table)), TLSFiles())
    return PresetInfo(
        name=name, raw=table, provider=provider, docs=provider.docs, vars=placeholders(provider)
    )


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Key by key, in tables within tables too."""
    whole = dict(below)
    for key, value in above.items():
        inner = whole.get(key)
        whole[key] = (
            merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return whole


def expanded(name: str, tables: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """
    A provider's table with all it builds upon; ``tables`` are the config's own.

    Raises ``ValueError`` with a sentence about the table's ``extends``, ``KeyError`` for a name that nobody knows.
    """
    chain = [name]
    layers = []
    while True:
        own = tables.get(chain[-1])
        if own is None:
            layers.append(preset_table(chain[-1]))
            break
        layers.append(own)
        below = own.get("extends") or None
        is_preset = chain[-1] in preset_names()
        if is_preset and below in {None, chain[-1]}:  # a table with a preset's name overrides it
            layers.append(preset_table(chain[-1]))
            break
        if is_preset:
            raise ValueError(
                f"{quoted(chain[-1])} is a preset, which this table overrides; extend {shown(below)} under another name"
            )
        if below is None:
            break
        if below in chain:
            raise ValueError(f"goes round in a circle: {' -> '.join([*chain, below])}")
        if below not in tables and below not in preset_names():
            raise ValueError(
                f"no provider or preset {shown(below)}.{did_you_mean(below, [*tables, *preset_names()])}"
            )
        chain.append(below)
    whole: dict[str, Any] = {}
    for layer in reversed(layers):
        whole = merged(whole, layer)
    whole.pop("extends", None)
    return whole


def built(name: str, table: ProviderTable, tls: TLSFiles) -> Provider:
    """The provider of a whole, sound table; placeholders stay."""
    probe = table.validate_
    return Provider(
        name=name,
        docs=table.docs,
        authorize_url=table.authorize_url,
        token_url=table.token_url,
        refresh_url=table.refresh_url,
        client_auth=ClientAuth(table.client_auth),
        token_method=table.token_method,
        token_body=TokenBody(table.token_body),
        token_params=MappingProxyType(table.token_params),
        refresh_params=MappingProxyType(table.refresh_params),
        token_headers=MappingProxyType(table.token_headers),
        rename=MappingProxyType(table.rename),
        scopes=tuple(table.scopes),
        scope_separator=table.scope_separator,
        exchange_scope=table.exchange_scope,
        refresh_scope=table.refresh_scope,
        machine_refresh=table.machine_refresh,
        redirect_uri=table.redirect_uri,
        answer=AnswerFields(**_tuples(table.answer)),
        errors=ErrorCodes(**_tuples(table.errors)),
        lifetime=_span(table.lifetime),
        refresh_not_before_expiry=_span(table.refresh_not_before_expiry),
        grace=_span(table.grace),
        inject=Inject(header=table.inject.header, value=table.inject.value),
        validate=Validate(url=probe.url, method=probe.method, ok=tuple(probe.ok)) if probe.url else None,
        dead=tuple(table.dead),
        tls=tls,
    )


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _tuples(table: AnswerTable | ErrorTable) -> dict[str, tuple[str, ...]]:
    return {name: tuple(value) for name, value in table}


def check_own(table: ProviderTable, keys: Keys, report: Report) -> None:
    """What a table of the config says by itself, whatever it builds upon."""
    addressed: list[tuple[Keys, str]] = [((name,), getattr(table, name)) for name in _URLS]
    for below, text in [*addressed, (("validate", "url"), table.validate_.url)]:
        if not text or not report.sound(*keys, *below):
            continue
        try:
            addresses.template(text)
        except ValueError as wrong:
            report.problem((*keys, *below), str(wrong))
    if table.inject.header.lower() in _NEVER_INJECTED:
        report.problem((*keys, "inject", "header"), f"{shown(table.inject.header)} cannot carry a token")
    words = addresses.PLACEHOLDER.findall(table.inject.value)
    if words != ["access_token"]:
        report.problem(
            (*keys, "inject", "value"),
            'must hold {access_token}, once, and no other placeholder, as "Bearer {access_token}"',
        )


def check_plain(
    table: ProviderTable, provider: Provider, own: Mapping[str, Any], *, keys: Keys, report: Report
) -> None:
    """
    Addresses of the whole provider that go out in the clear, told where they were written.

    ``own`` is what the table says itself. A host that ``vars`` will fill is looked at when they have.
    """
    for below, text in _addresses(provider):
        host = text.partition("://")[2].partition("/")[0]
        if table.insecure_http or "{" in host or not report.sound(*keys, *below):
            continue
        if "insecure_http" not in own and not _says(own, below):
            continue
        if addresses.plain_beyond_loopback(addresses.template(text)):
            report.problem((*keys, *below), addresses.NEEDS_HTTPS)


def _says(table: Any, below: Keys) -> bool:
    for key in below:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def _addresses(provider: Provider) -> list[tuple[Keys, str]]:
    named: list[tuple[Keys, str]] = [((name,), getattr(provider, name)) for name in _URLS]
    if provider.validate:
        named.append((("validate", "url"), provider.validate.url))
    return [(below, text) for below, text in named if text]


def placeholders(provider: Provider) -> tuple[str, ...]:
    """The names that an account must fill, in the order in which they are met."""
    found = [name for _, text in _addresses(provider) for name in addresses.PLACEHOLDER.findall(text)]
    return tuple(dict.fromkeys(found))


def filled(
    provider: Provider, values: Mapping[str, str], *, keys: Keys, insecure_http: bool, report: Report
) -> Provider:
    """The provider with an account's ``vars`` in its addresses; what does not fit is told at ``keys``."""
    wanted = placeholders(provider)
    for name, value in values.items():
        if name not in wanted:
            report.problem((*keys, name), _unknown_var(name, wanted, provider.name))
        elif not addresses.VAR_VALUE.fullmatch(value) or ".." in value:
            report.problem(
                (*keys, name),
                f'must be a host or a plain word such as "acme.example.com", without https:// or slashes, got {shown(value)}',
            )
    for name in wanted:
        if name not in values and report.sound(*keys, name):
            report.problem(
                (*keys, name), f"is missing: it fills {{{name}}} in the addresses of {quoted(provider.name)}"
            )
    if not wanted or not report.sound(*keys):
        return provider
    probe = provider.validate
    whole = replace(
        provider,
        authorize_url=_fill(provider.authorize_url, values),
        token_url=_fill(provider.token_url, values),
        refresh_url=_fill(provider.refresh_url, values),
        validate=replace(probe, url=_fill(probe.url, values)) if probe else None,
    )
    _check_filled(provider, whole, keys, report, insecure_http=insecure_http)
    return whole


def _fill(text: str, values: Mapping[str, str]) -> str:
    return addresses.PLACEHOLDER.sub(lambda found: values[found[1]], text)


def _check_filled(
    before: Provider, after: Provider, keys: Keys, report: Report, *, insecure_http: bool
) -> None:
    for (_, was), (below, now) in zip(_addresses(before), _addresses(after), strict=True):
        if was == now:
            continue
        try:
            parts = addresses.url(now, query=True)
        except ValueError as wrong:
            report.problem(keys, f"{'.'.join(map(str, below))} of {quoted(after.name)}, filled in, {wrong}")
            return
        if addresses.plain_beyond_loopback(parts) and not insecure_http:
            report.problem(
                keys, f"{'.'.join(map(str, below))} of {quoted(after.name)} {addresses.NEEDS_HTTPS}"
            )
            return


def _unknown_var(name: str, wanted: Iterable[str], provider: str) -> str:
    known = tuple(wanted)
    if not known:
        return f"the addresses of {quoted(provider)} have nothing to fill"
    return f"fills nothing in the addresses of {quoted(provider)}.{did_you_mean(name, known)}"
