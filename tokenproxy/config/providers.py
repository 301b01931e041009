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
from tokenproxy.config.models import AnswerTable, CallbackTable, ErrorTable, ProviderTable, SignalTable
from tokenproxy.config.values import PresetInfo
from tokenproxy.config.words import Report, did_you_mean, quoted, shown
from tokenproxy.core.expressions import problem_of
from tokenproxy.core.provider import (
    AUTHORIZATION_CODE,
    DEVICE_CODE,
    PKCE,
    AnswerFields,
    AssertionForm,
    Callback,
    CallbackMode,
    CallbackPath,
    Ceiling,
    ClientAuth,
    ErrorCodes,
    Inject,
    Provider,
    Revoke,
    Signal,
    TokenBody,
    Validate,
)
from tokenproxy.core.settings import TLSFiles

NEED_SECRET: Final = frozenset(
    {
        ClientAuth.BASIC,
        ClientAuth.BASIC_RAW,
        ClientAuth.POST,
        ClientAuth.QUERY,
        ClientAuth.CLIENT_SECRET_JWT,
    }
)
_URLS: Final = (
    "api",
    "issuer",
    "authorize_url",
    "par_url",
    "device_url",
    "token_url",
    "refresh_url",
)
_TABLES: Final = ("authorize_params", "token_params", "exchange_params", "refresh_params", "token_headers")
"""Tables of text whose values ``vars`` may fill."""
_GIVEN: Final = frozenset({"access_token", "client_id", "nonce", "token"})
"""Placeholders that no account fills: they stand for what a request is about."""
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
        "origin",
        "sec-fetch-site",
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
        name=name,
        raw=table,
        provider=provider,
        docs=provider.docs,
        vars=placeholders(provider),
        grants=_grants(provider),
    )


def _grants(provider: Provider) -> tuple[str, ...]:
    ways = []
    if provider.authorize_url or provider.issuer:
        ways.append(AUTHORIZATION_CODE)
    if provider.device_url:
        ways.append(DEVICE_CODE)
    return tuple(ways) or ("client_credentials",)


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
    probe, revoke, inject = table.validate_, table.revoke, table.inject
    return Provider(
        name=name,
        title=table.title,
        docs=table.docs,
        notes=tuple(table.notes),
        unverified=tuple(table.unverified),
        rotation=table.rotation,
        api=table.api,
        issuer=table.issuer,
        authorize_url=table.authorize_url,
        authorize_params=MappingProxyType(table.authorize_params),
        pkce=PKCE(table.pkce),
        par_url=table.par_url,
        device_url=table.device_url,
        callback=_callback(table.callback),
        token_url=table.token_url,
        refresh_url=table.refresh_url,
        refresh_with=table.refresh_with,
        refresh_method=table.refresh_method,
        refresh_auth=ClientAuth(table.refresh_auth) if table.refresh_auth else None,
        refresh_rename=MappingProxyType(table.refresh_rename),
        exchange_params=MappingProxyType(table.exchange_params),
        client_auth=ClientAuth(table.client_auth),
        assertion=AssertionForm(
            alg=table.assertion.alg,
            audience=table.assertion.audience,
            issuer=table.assertion.issuer,
            lifetime=timedelta(seconds=table.assertion.lifetime),
        ),
        dpop=table.dpop,
        token_method=table.token_method,
        token_body=TokenBody(table.token_body),
        token_params=MappingProxyType(table.token_params),
        refresh_params=MappingProxyType(table.refresh_params),
        token_headers=MappingProxyType(table.token_headers),
        rename=MappingProxyType(table.rename),
        authorize_rename=MappingProxyType(table.authorize_rename),
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
        refresh_idle=_span(table.refresh_idle),
        grace=_span(table.grace),
        limits=Ceiling(concurrent=table.limits.concurrent, per_second=table.limits.per_second),
        captured=MappingProxyType({name: tuple(paths) for name, paths in table.captured.items()}),
        captured_hosts=tuple(table.captured_hosts),
        inject=Inject(
            header="" if inject.query and "header" not in inject.model_fields_set else inject.header,
            value=inject.value,
            query=inject.query,
            headers=MappingProxyType(inject.headers),
        ),
        validate=Validate(url=probe.url, method=probe.method, ok=tuple(probe.ok), introspect=probe.introspect)
        if probe.url or (probe.introspect and table.issuer)
        else None,
        revoke=Revoke(**{**dict(revoke), "headers": MappingProxyType(revoke.headers)})
        if revoke.url
        else None,
        dead=tuple(table.dead),
        dead_when=tuple(map(_signal, table.dead_when)),
        dead_unless=tuple(map(_signal, table.dead_unless)),
        tls=tls,
    )


def _callback(table: CallbackTable) -> Callback:
    return Callback(
        mode=CallbackMode(table.mode),
        path=CallbackPath(table.path),
        code=table.code,
        state=table.state,
        token=table.token,
        key=table.key,
        iss=table.iss,
        captured=MappingProxyType(table.captured),
    )


def _signal(row: SignalTable) -> Signal:
    header = {name.lower(): part for name, part in row.header.items()}
    return Signal(
        status=tuple(row.status),
        header=MappingProxyType(header),
        json=MappingProxyType(row.json_),
        body=row.body,
    )


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _tuples(table: AnswerTable | ErrorTable) -> dict[str, tuple[str, ...]]:
    return {name: tuple(value) for name, value in table}


def check_own(table: ProviderTable, keys: Keys, report: Report) -> None:
    """What a table of the config says by itself, whatever it builds upon."""
    addressed: list[tuple[Keys, str]] = [((name,), getattr(table, name)) for name in _URLS]
    addressed += [(("validate", "url"), table.validate_.url), (("revoke", "url"), table.revoke.url)]
    for below, text in addressed:
        if not text or not report.sound(*keys, *below):
            continue
        try:
            addresses.template(text, fragment=below == ("authorize_url",))
        except ValueError as wrong:
            report.problem((*keys, *below), str(wrong))
    for group, pattern in (("token", table.callback.token), ("key", table.callback.key)):
        if pattern and (problem := problem_of(pattern, group)):
            report.problem((*keys, "callback", group), problem)
    _check_inject(table, keys, report)
    for name in ("dead_when", "dead_unless"):
        for row, signal in enumerate(getattr(table, name)):
            if not signal.model_fields_set - {"status"} and not signal.status:
                report.problem((*keys, name, row), "says nothing: status, header, json or body must be there")


def _check_inject(table: ProviderTable, keys: Keys, report: Report) -> None:
    inject = table.inject
    for below, name in [
        (("header",), inject.header),
        *((("headers", each), each) for each in inject.headers),
    ]:
        if name.lower() in _NEVER_INJECTED:
            report.problem((*keys, "inject", *below), f"{shown(name)} cannot carry a token")
    words = addresses.PLACEHOLDER.findall(inject.value)
    if inject.header and words.count("access_token") != 1:
        report.problem(
            (*keys, "inject", "value"), 'must hold {access_token}, once, as "Bearer {access_token}"'
        )
    if not inject.header and not inject.query:
        report.problem((*keys, "inject", "header"), "is empty: name a header, or a query parameter in query")


def check_plain(
    table: ProviderTable, provider: Provider, own: Mapping[str, Any], *, keys: Keys, report: Report
) -> None:
    """
    Addresses of the whole provider that go out in the clear, told where they were written.

    ``own`` is what the table says itself. A host that ``vars`` will fill is looked at when they have.
    """
    for below, text in _addresses(provider):
        host = text.partition("://")[2].partition("/")[0]
        if table.insecure_http or not host or "{" in host or not report.sound(*keys, *below):
            continue
        if "insecure_http" not in own and not _says(own, below):
            continue
        if addresses.plain_beyond_loopback(addresses.template(text, fragment=True)):
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
    if provider.revoke:
        named.append((("revoke", "url"), provider.revoke.url))
    return [(below, text) for below, text in named if text]


def placeholders(provider: Provider) -> tuple[str, ...]:
    """The names that an account must fill, in the order in which they are met."""
    inject = provider.inject
    texts = [text for _, text in _addresses(provider)]
    texts += [value for name in _TABLES for value in getattr(provider, name).values()]
    texts += [inject.value, *inject.headers.values(), *provider.captured_hosts, provider.assertion.issuer]
    ours = _GIVEN | provider.captured.keys() | provider.callback.captured.keys()
    found = [name for text in texts for name in addresses.PLACEHOLDER.findall(text) if name not in ours]
    return tuple(dict.fromkeys(found))


def filled(
    provider: Provider, values: Mapping[str, str], *, keys: Keys, insecure_http: bool, report: Report
) -> Provider:
    """The provider with an account's ``vars`` in its addresses; what does not fit is told at ``keys``."""
    wanted = placeholders(provider)
    for name, value in values.items():
        if name not in wanted and name not in addresses.PLACEHOLDER.findall(provider.api):
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
    whole = replace(
        provider,
        **_filled_fields(provider, values),
        validate=provider.validate and replace(provider.validate, url=_fill(provider.validate.url, values)),
        revoke=provider.revoke and replace(provider.revoke, url=_fill(provider.revoke.url, values)),
        inject=replace(
            provider.inject,
            value=_fill(provider.inject.value, values),
            headers=_fill_all(provider.inject.headers, values),
        ),
        captured_hosts=tuple(_fill(each, values) for each in provider.captured_hosts),
        assertion=replace(provider.assertion, issuer=_fill(provider.assertion.issuer, values)),
    )
    _check_filled(provider, whole, keys, report, insecure_http=insecure_http)
    return whole


def _filled_fields(provider: Provider, values: Mapping[str, str]) -> dict[str, Any]:
    urls = {name: _fill(getattr(provider, name), values) for name in _URLS}
    return urls | {name: _fill_all(getattr(provider, name), values) for name in _TABLES}


def _fill(text: str, values: Mapping[str, str]) -> str:
    return addresses.PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def _fill_all(texts: Mapping[str, str], values: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({name: _fill(text, values) for name, text in texts.items()})


def _check_filled(
    before: Provider, after: Provider, keys: Keys, report: Report, *, insecure_http: bool
) -> None:
    for (_, was), (below, now) in zip(_addresses(before), _addresses(after), strict=True):
        if was == now:
            continue
        try:
            parts = addresses.template(now, fragment=below == ("authorize_url",))
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
