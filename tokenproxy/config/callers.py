"""``[callers.*]``: who may use the proxy, and how they show it."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from tokenproxy.config.addresses import Listener
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import BasicTable, CallerTable, CertificateTable, JwtTable, PeerTable
from tokenproxy.config.reading import Reading
from tokenproxy.config.secrets import WORDS
from tokenproxy.config.validation import read
from tokenproxy.config.values import Server
from tokenproxy.config.words import did_you_mean, either, quoted, shown
from tokenproxy.core.callers import (
    BASIC,
    CERTIFICATE,
    JWT,
    KEY,
    PEER,
    Caller,
    Certificate,
    Login,
    Peer,
    Subject,
    ways_in_use,
)
from tokenproxy.core.passwords import PasswordHash
from tokenproxy.core.routes import Route, valid_sub
from tokenproxy.core.settings import Limits, Listen

_CALLER_KEY: Final = re.compile(r"[!-~]+")
_SHORTEST_GOOD_KEY: Final = 16
_PROOFS: Final = ("key", "basic", "certificate", "peer", "jwt")


def read_callers(raw: Mapping[str, Any], limits: Limits, reading: Reading) -> tuple[Caller, ...]:
    """All callers that are sound enough; mistakes are in the report."""
    found = [
        _caller(name, table, raw, limits, reading) for name, table in reading.tables(raw, "callers").items()
    ]
    callers = tuple(caller for caller in found if caller is not None)
    _check_doubles(callers, reading)
    return callers


def _caller(
    name: str, table_raw: Any, raw: Mapping[str, Any], limits: Limits, reading: Reading
) -> Caller | None:
    keys: Keys = ("callers", name)
    report = reading.report
    table = read(CallerTable, table_raw, keys, report)
    if table is None:
        return None
    if table.burst and not table.per_second and report.sound(*keys, "per_second"):
        report.problem((*keys, "burst"), "needs per_second beside it")
    if table.in_flight > limits.in_flight:
        report.problem(
            (*keys, "in_flight"),
            f"must be at most limits.in_flight ({limits.in_flight}), got {table.in_flight}",
        )
    for item, route in enumerate(table.routes or ()):
        _known(route, "route", raw.get("routes"), (*keys, "routes", item), reading)
    for item, account in enumerate(table.accounts or ()):
        _check_account(account, raw.get("accounts"), (*keys, "accounts", item), reading)
    caller = Caller(
        name=name,
        keys=read_keys(table.key, (*keys, "key"), reading),
        login=_login(table.basic, (*keys, "basic"), reading),
        certificate=_certificate(table.certificate),
        peer=_peer(table.peer, (*keys, "peer"), reading),
        subject=_subject(table.jwt, raw.get("issuers"), (*keys, "jwt"), reading),
        routes=None if table.routes is None else frozenset(table.routes),
        accounts=None if table.accounts is None else tuple(table.accounts),
        per_second=table.per_second,
        burst=table.burst,
        in_flight=table.in_flight,
    )
    if not caller.ways and all(report.sound(*keys, each) for each in _PROOFS):
        report.problem(keys, f"has no way to prove itself: {either(_PROOFS)}")
    return caller


def read_keys(sources: Sequence[str], keys: Keys, reading: Reading) -> tuple[str, ...]:
    """What may be sent as ``Tokenproxy-Key``; each source may hold several, one a line."""
    found: list[str] = []
    for item, source in enumerate(sources):
        at = (*keys, item)
        lines = [line.strip() for line in reading.secret(source, at).split("\n") if line.strip()]
        if any(not _CALLER_KEY.fullmatch(line) for line in lines):
            reading.report.problem(
                at, "holds a key with characters that a header cannot carry; use printable ASCII"
            )
        if any(len(line) < _SHORTEST_GOOD_KEY for line in lines):
            reading.report.warning(at, "holds a key shorter than 16 characters, which can be guessed")
        if not lines and reading.report.sound(*at):
            reading.report.problem(at, "is empty")
        found += lines
    return tuple(dict.fromkeys(found))


def _known(name: str, what: str, tables: Any, at: Keys, reading: Reading) -> bool:
    names = tables if isinstance(tables, dict) else {}
    if name not in names:
        reading.report.problem(at, f"no {what} {shown(name)}.{did_you_mean(name, names)}")
    return name in names


def _check_account(text: str, tables: Any, at: Keys, reading: Reading) -> None:
    name, slash, sub = text.partition("/")
    if _known(name, "account", tables, at, reading) and slash and sub != "*" and not valid_sub(sub):
        reading.report.problem(at, f'must be NAME, NAME/SUB or "NAME/*", got {shown(text)}')


def _login(table: BasicTable, keys: Keys, reading: Reading) -> Login | None:
    report = reading.report
    given = bool(table.password or table.password_hash)
    if not table.username:
        if given and report.sound(*keys, "username"):
            report.problem((*keys, "username"), "is missing: the user name that goes with the password")
        return None
    if ":" in table.username:
        report.problem((*keys, "username"), "must not hold a colon, which ends it (RFC 7617)")
    if not given and report.sound(*keys, "password") and report.sound(*keys, "password_hash"):
        report.problem((*keys, "password"), "is missing, or password_hash")
    passwords = [
        reading.secret(source, (*keys, "password", item)) for item, source in enumerate(table.password)
    ]
    hashes = [
        _hash(text, (*keys, "password_hash", item), reading) for item, text in enumerate(table.password_hash)
    ]
    return Login(
        username=table.username,
        passwords=tuple(each for each in passwords if each),
        hashes=tuple(each for each in hashes if each is not None),
    )


def _hash(text: str, at: Keys, reading: Reading) -> PasswordHash | None:
    opened = reading.secret(text, at).strip() if text.startswith(WORDS) else text
    if not opened:
        return None
    try:
        return PasswordHash.of(opened)
    except ValueError as wrong:
        reading.report.problem(at, str(wrong))
        return None


def _certificate(table: CertificateTable) -> Certificate | None:
    found = Certificate(
        cn=frozenset(table.cn),
        dns=frozenset(each.lower() for each in table.dns),
        uri=frozenset(table.uri),
        email=frozenset(table.email),
    )
    return found if found.names else None


def _peer(table: PeerTable, keys: Keys, reading: Reading) -> Peer | None:
    users = _ids(table.users, "user", lambda name: pwd.getpwnam(name).pw_uid, (*keys, "users"), reading)
    groups = _ids(table.groups, "group", lambda name: grp.getgrnam(name).gr_gid, (*keys, "groups"), reading)
    return Peer(users=users, groups=groups) if users or groups else None


def _subject(table: JwtTable, issuers: Any, keys: Keys, reading: Reading) -> Subject | None:
    report = reading.report
    if not table.model_fields_set:
        return None
    if not table.issuer:
        report.problem((*keys, "issuer"), "is missing: the name of a table [issuers.NAME]")
    elif report.sound(*keys, "issuer"):
        _known(table.issuer, "issuer", issuers, (*keys, "issuer"), reading)
    if not table.subject and not table.claims and report.sound(*keys):
        report.problem(
            (*keys, "subject"), "is missing, or claims: whose tokens are this caller's; \"*\" is everybody's"
        )
    for item, text in enumerate(table.subject):
        if "*" in text[:-1]:
            report.problem((*keys, "subject", item), "may have a * at its end only")
    return Subject(
        issuer=table.issuer, subjects=frozenset(table.subject), claims=MappingProxyType(dict(table.claims))
    )


def _ids(
    names: Iterable[str], what: str, of: Callable[[str], int], keys: Keys, reading: Reading
) -> frozenset[int]:
    found = set()
    for item, name in enumerate(names):
        try:
            found.add(int(name) if name.isdigit() else of(name))
        except KeyError:
            reading.report.problem((*keys, item), f"this machine has no {what} {shown(name)}")
    return frozenset(found)


def _check_doubles(callers: Iterable[Caller], reading: Reading) -> None:
    """Nobody could say which of two callers the same proof means; keys are not quoted."""
    taken: dict[tuple[str, object], str] = {}
    for caller in callers:
        for way, key, what, proof in _proofs(caller):
            first = taken.setdefault((way, proof), caller.name)
            if first != caller.name:
                place = reading.report.place(("callers", first))
                reading.report.problem(("callers", caller.name, *key), f"{what} is that of {place}")


def _proofs(caller: Caller) -> Iterable[tuple[str, Keys, str, object]]:
    """Way, where it is said, what to call it, and the proof itself."""
    for secret in caller.keys:
        yield KEY, ("key",), "one of these keys", secret
    if caller.login is not None:
        yield BASIC, ("basic", "username"), quoted(caller.login.username), caller.login.username
    for kind, name in sorted(caller.certificate.names) if caller.certificate is not None else ():
        yield CERTIFICATE, ("certificate", kind.lower()), quoted(name), (kind, name)
    if caller.peer is not None:
        for user in sorted(caller.peer.users):
            yield PEER, ("peer", "users"), f"user {user}", ("user", user)
        for group in sorted(caller.peer.groups):
            yield PEER, ("peer", "groups"), f"group {group}", ("group", group)
    if caller.subject is not None:
        claims = tuple(sorted(caller.subject.claims.items()))
        for subject in sorted(caller.subject.subjects) or [""]:
            yield JWT, ("jwt", "subject"), quoted(subject), (caller.subject.issuer, subject, claims)


def check_ways(
    callers: Collection[Caller],
    server: Server,
    routes: Iterable[Route],
    listens: Sequence[tuple[Listener, Listen]],
    reading: Reading,
) -> None:
    """What callers, listeners and routes say about each other."""
    report = reading.report
    certified = any(listen.tls.ca_file for _, listen in listens)
    local = any(listener.path or listener.passed for listener, _ in listens)
    for caller in callers:
        if caller.certificate is not None and not certified and report.sound("server", "listen"):
            report.problem(
                ("callers", caller.name, "certificate"),
                "needs a listener that asks for one: client_ca_file on an entry of server.listen",
            )
        if caller.peer is not None and not local and report.sound("server", "listen"):
            report.problem(
                ("callers", caller.name, "peer"),
                'needs a Unix socket, which alone tells who connects: listen = "unix:PATH"',
            )
    ways = ways_in_use(callers) | ({KEY} if server.caller_keys else set())
    if not report.sound("callers") or not report.sound("server", "caller_auth"):
        return
    named: list[tuple[Keys, frozenset[str] | None]] = [
        *((("server", "listen", item, "auth"), listen.auth) for item, (_, listen) in enumerate(listens)),
        *((("routes", route.name, "auth"), route.auth) for route in routes),
    ]
    for at, auth in named:
        for way in sorted((auth or frozenset()) - ways):
            report.problem(at, f"lists {quoted(way)}, and no caller proves itself so")
    for item, (listener, listen) in enumerate(listens):
        auth, at = listen.auth or frozenset(), ("server", "listen", item, "auth")
        if CERTIFICATE in auth and not listen.tls.ca_file and report.sound(*at):
            report.problem(
                at, 'lists "certificate", which this entry asks nobody for: it needs client_ca_file'
            )
        if PEER in auth and not (listener.path or listener.passed) and report.sound(*at):
            report.problem(at, 'lists "peer", and only a Unix socket tells who connects')
    _check_clear_text(callers, listens, reading)


def _check_clear_text(
    callers: Iterable[Caller], listens: Sequence[tuple[Listener, Listen]], reading: Reading
) -> None:
    with_password = any(caller.login is not None for caller in callers)
    for item, (listener, listen) in enumerate(listens):
        takes = listen.auth is None or BASIC in listen.auth
        if with_password and takes and not listener.loopback and not listen.tls.cert_file:
            reading.report.warning(
                ("server", "listen", item),
                "takes passwords over plain HTTP from other machines: give it a cert_file, or leave basic out of its auth",
            )
