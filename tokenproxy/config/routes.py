"""``[routes.*]``: which requests go where, with whose token."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult

from tokenproxy.config import addresses
from tokenproxy.config.kinds import FIELD_VALUE, HOST_HEADER, TOKEN
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import HeaderTable, RetryTable, RouteTable, TargetTable
from tokenproxy.config.outgoing import outgoing_proxy
from tokenproxy.config.reading import Reading, tls_files
from tokenproxy.config.secrets import WORDS
from tokenproxy.config.validation import read
from tokenproxy.config.words import did_you_mean, quoted, shown
from tokenproxy.core import templates
from tokenproxy.core.allow import Allow, Entry
from tokenproxy.core.callers import Caller
from tokenproxy.core.forwarded import UNIX, Forwarded
from tokenproxy.core.grants import traits_of
from tokenproxy.core.headers import HeaderChanges
from tokenproxy.core.outgoing import OutgoingProxy
from tokenproxy.core.provider import Account, Inject, Provider
from tokenproxy.core.retries import Retry
from tokenproxy.core.routes import Route, Target, Upstream, account_header, valid_sub
from tokenproxy.core.settings import Limits, Replay, TLSFiles
from tokenproxy.core.signals import Signals

_NEVER_PASSED: Final = frozenset(
    {
        "connection",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "tokenproxy-key",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Hop-by-hop fields, and the key that callers prove themselves with: an upstream must not see it."""

_NEVER_CHANGED: Final = _NEVER_PASSED | {
    "content-length",
    "expect",
    "http2-settings",
    "tokenproxy-error",
    "via",
}
"""What frames a message, belongs to one connection, or says who made it; host has a key of its own."""
_NOT_WITH_TARGETS: Final = (
    "allow",
    "forwarded",
    "retry",
    "upgrade",
    "connect",
    "request_headers",
    "answer_headers",
    "host_header",
    "rewrite_location",
    "rewrite_cookies",
)
_NOT_WITH_TEMPLATES: Final = ("host_header", "rewrite_location", "rewrite_cookies")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What routes are checked against."""

    accounts: Mapping[str, Account]
    """The sound ones."""
    account_names: frozenset[str]
    """All that the file names."""
    replay: Replay
    """For routes that say nothing."""
    limits: Limits
    forwarded: str = "off"
    """For routes that say nothing."""
    trusted_proxies: tuple[str, ...] = ()
    callers: tuple[Caller, ...] = ()


def read_routes(raw: Mapping[str, Any], around: Around, reading: Reading) -> tuple[Route, ...]:
    """All routes that are sound enough; mistakes are in the report."""
    tables = reading.tables(raw, "routes")
    if not tables and reading.report.sound("routes"):
        reading.report.problem(("routes",), "is missing: a table [routes.NAME] with upstream and account")
    found = [_route(name, table, around, reading) for name, table in tables.items()]
    routes = tuple(route for route in found if route is not None)
    _check_doubles(routes, reading)
    return routes


def _route(name: str, raw: Any, around: Around, reading: Reading) -> Route | None:
    keys: Keys = ("routes", name)
    table = read(RouteTable, raw, keys, reading.report)
    if table is None:
        return None
    _check_limit(table, keys, around, reading)
    # A route without a place to go is still looked at whole: its other mistakes are told in the same breath.
    prefix = _told(addresses.prefix, table.prefix or name, (*keys, "prefix"), reading)
    host = _told(addresses.host_name, table.host, (*keys, "host"), reading) if table.host else ""
    origins = [
        _told(addresses.origin, origin, (*keys, "origins", item), reading)
        for item, origin in enumerate(table.origins)
    ]
    targets = _targets(table, keys, reading)
    account = _account(table, keys, around, reading)
    upstream = targets[0].upstream if targets else _upstream(table, keys, account, reading)
    _check_passed(table, keys, account, reading)
    _check_tokenless(table, keys, account, reading)
    _check_policies(table, keys, upstream, reading)
    request_headers = _changes(
        table.request_headers, (*keys, "request_headers"), _ours(account, redacts=table.redact_echo), reading
    )
    answer_headers = _changes(table.answer_headers, (*keys, "answer_headers"), frozenset(), reading)
    _check_proxied(table, keys, host, upstream, reading)
    _check_connect(table, upstream, keys, reading)
    if prefix is None or host is None or upstream is None or account is None:
        return None
    return Route(
        name=name,
        prefix=prefix,
        host=host,
        upstream=upstream,
        account=table.account,
        mapped=account_header(table.account) is not None and not table.trust_account_header,
        auth=None if table.auth is None else frozenset(table.auth),
        inject=account.provider.inject,
        values=MappingProxyType({"client_id": account.registration.client_id}),
        dpop=account.provider.dpop,
        signals=Signals(
            statuses=account.provider.dead,
            when=account.provider.dead_when,
            unless=account.provider.dead_unless,
        ),
        passed=frozenset(each.lower() for each in table.pass_),
        origins=frozenset(origin for origin in origins if origin),
        replay=Replay(
            memory=around.replay.memory if table.replay.memory is None else table.replay.memory,
            disk=around.replay.disk if table.replay.disk is None else table.replay.disk,
        ),
        tokenless=bool(account.capture),
        placeholders=table.placeholders,
        targets=targets,
        allow=_allow(table),
        forwarded=_forwarded(table, around),
        retry=_retry(table.retry),
        request_headers=request_headers,
        answer_headers=answer_headers,
        host_header=table.host_header,
        rewrite_location=table.rewrite_location,
        rewrite_cookies=table.rewrite_cookies,
        redact_echo=table.redact_echo,
        upgrade=frozenset(each.encode() for each in table.upgrade),
        connect=table.connect,
        in_flight=table.in_flight,
    )


def _allow(table: RouteTable) -> Allow | None:
    return Allow(tuple(Entry.of(text) for text in table.allow)) if table.allow else None


def _check_policies(table: RouteTable, keys: Keys, upstream: Upstream | None, reading: Reading) -> None:
    """What is decided request by request is not for the X-Proxy form: its entries say what may be asked of whom."""
    for name in _NOT_WITH_TEMPLATES:
        if upstream is not None and upstream.template and getattr(table, name):
            reading.report.problem((*keys, name), "needs an upstream that is the same for every login")
    if table.targets and table.proxy.url:
        reading.report.problem(
            (*keys, "proxy"), "is not for a route with targets: nobody could check where their names lead"
        )
    if upstream is not None and upstream.form and table.host_header:
        reading.report.problem(
            (*keys, "host_header"),
            "has no effect on an http:// upstream behind a proxy, which writes Host itself",
        )
    if table.host_header and not HOST_HEADER.fullmatch(table.host_header):
        reading.report.problem(
            (*keys, "host_header"),
            f'must be a host such as "api.example.com", with a port or not, got {shown(table.host_header)}',
        )
    for name in _NOT_WITH_TARGETS:
        if table.targets and name in table.model_fields_set:
            reading.report.problem(
                (*keys, name), "is not for a route with targets, whose entries say what may be asked"
            )


def _forwarded(table: RouteTable, around: Around) -> Forwarded | None:
    choice = around.forwarded if table.forwarded is None else table.forwarded
    if choice == "off":
        return None
    return Forwarded(
        x_forwarded=choice in {"x-forwarded", "both"},
        rfc7239=choice in {"rfc7239", "both"},
        trusted=tuple(ipaddress.ip_network(each) for each in around.trusted_proxies if each != UNIX),
        trusts_unix=UNIX in around.trusted_proxies,
    )


def _retry(table: RetryTable) -> Retry | None:
    if table.attempts < 2:
        return None
    return Retry(attempts=table.attempts, on=frozenset(table.on), methods=frozenset(table.methods))


def _ours(account: Account | None, *, redacts: bool) -> frozenset[str]:
    """Fields, in lower case, that carry the token or go with it."""
    if account is None:
        return frozenset()
    provider = account.provider
    names = {provider.inject.header.lower(), *(name.lower() for name in provider.inject.headers)} - {""}
    if provider.dpop:
        names.add("dpop")
    if redacts or Signals(when=provider.dead_when, unless=provider.dead_unless).by_body:
        names.add("accept-encoding")
    return frozenset(names)


def _changes(table: HeaderTable, keys: Keys, ours: frozenset[str], reading: Reading) -> HeaderChanges:
    secrets: list[str] = []

    def opened(key: str, fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, _field_value(text, (*keys, key, name), secrets, reading)) for name, text in fields.items()
        )

    for key, names in (("set", table.set_), ("add", table.add)):
        for name in names:
            _check_changed(name, (*keys, key, name), ours, reading)
    for number, name in enumerate(table.remove):
        _check_changed(name, (*keys, "remove", number), ours, reading)
    return HeaderChanges(
        replaced=opened("set", table.set_),
        added=opened("add", table.add),
        removed=tuple(table.remove),
        secrets=tuple(secrets),
    )


def _check_changed(name: str, at: Keys, ours: frozenset[str], reading: Reading) -> None:
    one = name.lower().replace("_", "-")
    if one in ours:
        reading.report.problem(at, f"{quoted(name)} is where our token goes, or goes with it")
    elif one == "host":
        reading.report.problem(at, "what the upstream sees as Host is host_header of the route")
    elif one in _NEVER_CHANGED or one.startswith("proxy-"):
        reading.report.problem(at, f"{quoted(name)} belongs to the connection, and cannot be changed")


def _field_value(text: str, at: Keys, secrets: list[str], reading: Reading) -> str:
    """The text, or the secret that it names, which joins ``secrets``."""
    if not text.startswith(WORDS):
        return text
    value = reading.secret(text, at)
    if value and not FIELD_VALUE.fullmatch(value):
        reading.report.problem(at, "holds characters that a header cannot carry; use printable ASCII")
    elif value:
        secrets.append(value)
    return value


def _check_connect(table: RouteTable, upstream: Upstream | None, keys: Keys, reading: Reading) -> None:
    """A tunnel shows nothing of what is in it, so that it goes to one place and past no list."""
    if not table.connect or table.targets:
        return
    at = (*keys, "connect")
    if not table.host:
        reading.report.problem(at, "needs host: the name that a CONNECT asks for")
    elif table.host.startswith("*"):
        reading.report.problem(at, "needs a host without *: a tunnel leads to one upstream")
    if table.allow:
        reading.report.problem(at, "and allow exclude each other: nobody sees what is asked in a tunnel")
    if table.proxy.url:
        reading.report.problem(at, "and proxy exclude each other: a tunnel goes straight to the upstream")
    if upstream is not None and upstream.template:
        reading.report.problem(at, "needs an upstream that is the same for every login")


def _told(check: Callable[[str], Value], text: str, keys: Keys, reading: Reading) -> Value | None:
    """What the check makes of the text; None when it refuses, which is told then."""
    try:
        return check(text)
    except ValueError as wrong:
        reading.report.problem(keys, str(wrong))
        return None


def _check_limit(table: RouteTable, keys: Keys, around: Around, reading: Reading) -> None:
    if table.in_flight > around.limits.in_flight:
        reading.report.problem(
            (*keys, "in_flight"),
            f"must be at most limits.in_flight ({around.limits.in_flight}), got {table.in_flight}",
        )


def _upstream(table: RouteTable, keys: Keys, account: Account | None, reading: Reading) -> Upstream | None:
    at = (*keys, "upstream")
    tls = reading.tls(table.tls, (*keys, "tls"))
    proxy = outgoing_proxy(table.proxy, (*keys, "proxy"), reading)
    unnamed = account is None and "{" in table.upstream  # whose names these could be is told at the account
    if unnamed or not reading.report.sound(*at) or not reading.report.sound(*keys, "targets"):
        return None
    if not table.upstream:
        if not table.targets:  # else each of them was told about
            reading.report.problem(at, 'is missing: where requests go, such as "https://api.example.com"')
        return None
    text = _with_vars(table.upstream, account)
    templated = "{" in text
    parts = _told(_template if templated else addresses.url, text, at, reading)
    if parts is None:
        return None
    if addresses.plain_beyond_loopback(parts) and not table.insecure_http:
        reading.report.problem(at, addresses.NEEDS_HTTPS)
        return None
    if parts.scheme == "http" and tls != TLSFiles():
        reading.report.warning((*keys, "tls"), "has no effect: the upstream is http://")
    if templated and account is not None:
        return _templated(text, parts, account.provider, tls=tls, proxy=proxy, at=at, reading=reading)
    return Upstream(
        scheme=parts.scheme,
        host=(parts.hostname or "").lower(),
        port=addresses.port_of(parts),
        authority=addresses.authority_of(parts),
        path=parts.path.rstrip("/"),
        tls=tls,
        proxy=proxy,
    )


def _check_proxied(
    table: RouteTable, keys: Keys, host: str | None, upstream: Upstream | None, reading: Reading
) -> None:
    """A route under its upstream's own name is for apps that take us for their proxy, and they ask for any path."""
    if host and upstream is not None and host == upstream.host and table.prefix is None:
        reading.report.warning(
            (*keys, "host"), f'takes only http://{host}/{keys[-1]}/...; prefix = "/" takes every path there'
        )


def _with_vars(text: str, account: Account | None) -> str:
    """The upstream with the account's ``vars`` in it; what a login will bring stays open."""
    known = account.vars if account else {}
    return addresses.PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), text)


def _template(text: str) -> SplitResult:
    """An upstream with open places; raises ``ValueError`` with a sentence."""
    if "?" in text:
        raise ValueError("must not have a query")
    if re.match(r"\{[^{}]*\}[^/]", text):
        raise ValueError('must begin with "https://", or with a name that stands for a whole address')
    return addresses.template(text)


def _templated(
    text: str,
    parts: SplitResult,
    provider: Provider,
    *,
    tls: TLSFiles,
    proxy: OutgoingProxy | None,
    at: Keys,
    reading: Reading,
) -> Upstream | None:
    """An upstream that each token set names for itself: by what its provider's answers and callbacks hold."""
    captured = {*provider.captured, *provider.callback.captured}
    for name in templates.names(text):
        if name not in captured:
            reading.report.problem(
                at,
                f"nobody fills {{{name}}}: neither vars of the account nor captured of {quoted(provider.name)}.{did_you_mean(name, captured)}",
            )
            return None
    anywhere = templates.captured_host(text)
    if anywhere and not provider.captured_hosts:
        reading.report.problem(
            at,
            f"needs captured_hosts of {quoted(provider.name)}: the hosts that a token answer may lead to, such as "
            '["*.example.com"]',
        )
        return None
    return Upstream(
        scheme=parts.scheme,
        host="",
        port=0,
        authority="",
        tls=tls,
        proxy=proxy,
        template=text,
        hosts=provider.captured_hosts if anywhere else (),
    )


def _targets(table: RouteTable, keys: Keys, reading: Reading) -> tuple[Target, ...]:
    if table.targets and table.upstream:
        reading.report.problem((*keys, "targets"), "and upstream are two kinds of route: leave one out")
        return ()
    tls = tls_files(table.tls, reading.base)
    found = [
        _target(row, table, tls, (*keys, "targets", number), reading)
        for number, row in enumerate(table.targets)
    ]
    return tuple(target for target in found if target is not None)


def _target(
    row: TargetTable, table: RouteTable, tls: TLSFiles, keys: Keys, reading: Reading
) -> Target | None:
    at = (*keys, "url")
    if not reading.report.sound(*keys):
        return None
    parts = _told(addresses.url, row.url, at, reading)
    if parts is None:
        return None
    if not parts.path:
        reading.report.problem(at, 'needs a path such as "/api/**"; "/**" is every path')
    if addresses.plain_beyond_loopback(parts) and not table.insecure_http:
        reading.report.problem(at, addresses.NEEDS_HTTPS)
    host = (parts.hostname or "").lower()
    return Target(
        upstream=Upstream(
            scheme=parts.scheme,
            host=host,
            port=addresses.port_of(parts),
            authority=addresses.authority_of(parts),
            tls=tls,
        ),
        path=parts.path,
        methods=frozenset(row.methods),
        timeout=row.timeout,
        token=row.token,
        private=row.private,
    )


def _check_tokenless(table: RouteTable, keys: Keys, account: Account | None, reading: Reading) -> None:
    if account is None or not account.capture:
        return
    for number, row in enumerate(table.targets):
        if row.token:
            reading.report.problem(
                (*keys, "targets", number, "token"),
                f"{quoted(account.name)} only captures, so that it has no token",
            )
    if not table.placeholders:
        reading.report.warning(
            (*keys, "placeholders"),
            f"without it this route sends no credential: {quoted(account.name)} only captures, so that it has no token",
        )


def _account(table: RouteTable, keys: Keys, around: Around, reading: Reading) -> Account | None:
    at = (*keys, "account")
    report = reading.report
    if not report.sound(*at):
        return None
    if not table.account:
        report.problem(at, "is missing: whose token this route attaches, the name of a table [accounts.NAME]")
        return None
    name, slash, sub = table.account.partition("/")
    if name not in around.account_names:
        report.problem(at, f"no account {shown(name)}.{did_you_mean(name, around.account_names)}")
        return None
    if slash and not _check_sub(table, sub, at, around, reading):
        return None
    account = around.accounts.get(name)
    if slash and account is not None and not traits_of(account).person:
        report.problem(
            at,
            f"{quoted(name)} obtains its tokens by itself (grant {quoted(account.grant)}) and has no logins below it",
        )
        return None
    return account


def _check_sub(table: RouteTable, sub: str, at: Keys, around: Around, reading: Reading) -> bool:
    header = account_header(table.account)
    if header is None and not valid_sub(sub):
        reading.report.problem(
            at, f'must be NAME, NAME/SUB or "NAME/{{header:x-user}}", got {shown(table.account)}'
        )
        return False
    if header is None:
        return True
    if not TOKEN.fullmatch(header[1]) or header[1] in _NEVER_PASSED:
        reading.report.problem(at, f"{shown(header[1])} is not a header that can name an account")
        return False
    return _check_mapped(table, header[1], at, around, reading)


def _check_mapped(table: RouteTable, header: str, at: Keys, around: Around, reading: Reading) -> bool:
    """A header may choose the account only where somebody says which accounts are whose."""
    report = reading.report
    if table.trust_account_header or not report.sound(*at[:-1], "trust_account_header"):
        return True
    if table.auth == []:
        report.problem(
            (*at[:-1], "auth"),
            "lets everybody choose the account: leave it out, or say trust_account_header = true",
        )
        return False
    if any(caller.accounts is not None for caller in around.callers) or not report.sound("callers"):
        return True
    report.problem(
        at,
        f"lets whoever sends the header {quoted(header)} choose the account; name in accounts of [callers.*] which are whose or, if only callers you trust can reach this route, say trust_account_header = true",
    )
    return False


def _check_passed(table: RouteTable, keys: Keys, account: Account | None, reading: Reading) -> None:
    inject = account.provider.inject if account else Inject(header="")
    ours = {name.lower() for name in (inject.header, *inject.headers)}
    if account and account.provider.dpop:
        ours.add("dpop")
    for item, name in enumerate(table.pass_):
        if name.lower() in ours:
            reading.report.problem(
                (*keys, "pass", item), f"{quoted(name)} is where our token goes; the caller's never passes"
            )
        elif name.lower() in _NEVER_PASSED:
            reading.report.problem((*keys, "pass", item), f"{quoted(name)} never goes to an upstream")


def _check_doubles(routes: tuple[Route, ...], reading: Reading) -> None:
    taken: dict[tuple[str, str], Route] = {}
    places: dict[tuple[str, int], Route] = {}
    for route in routes:
        port = route.upstream.port
        led = places.setdefault((route.host, port), route) if route.connect else route
        if led.upstream.host != route.upstream.host:
            reading.report.problem(
                ("routes", route.name, "connect"),
                f"a CONNECT to {route.host}:{port} leads to the upstream of {reading.report.place(('routes', led.name))}",
            )
        first = taken.setdefault((route.host, route.prefix), route)
        if first is not route:
            host = f" on host {quoted(route.host)}" if route.host else ""
            reading.report.problem(
                ("routes", route.name, "prefix"),
                f"{quoted(route.prefix)}{host} is taken by {reading.report.place(('routes', first.name))}",
            )
