"""
TOML and environment in, ``Config`` out, or all mistakes at once.

Types first, table by table, then what tables say about each other. A key with a mistake is set aside and the rest
is judged on, so that one run of ``check`` tells everything that a person must mend.
"""

from __future__ import annotations

import grp
import re
import shlex
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from tokenproxy.config import addresses, environment, providers, values
from tokenproxy.config.accounts import Offers, read_accounts
from tokenproxy.config.addresses import Listener
from tokenproxy.config.callers import check_ways, read_callers, read_keys
from tokenproxy.config.forward_auth import read_forward_auth
from tokenproxy.config.issuers import read_issuers
from tokenproxy.config.lines import Keys, Lines
from tokenproxy.config.models import (
    NAMED,
    SECTIONS,
    TLS,
    Admin,
    AuditTable,
    DeadlineTable,
    ForwardAuth,
    LimitTable,
    ListenTable,
    LogTable,
    Metrics,
    RenewTable,
    ReplayTable,
    Server,
    Store,
    TraceTable,
)
from tokenproxy.config.reading import Reading
from tokenproxy.config.routes import Around, read_routes
from tokenproxy.config.secrets import WORDS, Secrets
from tokenproxy.config.table import children
from tokenproxy.config.validation import AnyTable, read
from tokenproxy.config.words import Report, did_you_mean, either, in_order, nearest, shown
from tokenproxy.core.callers import Caller
from tokenproxy.core.database import place_of
from tokenproxy.core.routes import Route
from tokenproxy.core.settings import (
    Audit,
    Deadlines,
    Limits,
    Listen,
    RenewPolicy,
    Replay,
    ReplayBudget,
    SharedStore,
    TLSFiles,
    TraceSettings,
)
from tokenproxy.errors import ConfigError, Problem

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADMIN_TOKEN: Final = re.compile(r"[!-~]{16,4096}")
_DATABASES: Final = ("postgresql://", "postgres://")
_PASSWORD: Final = re.compile(r"[^/?#]*//[^/?#@]*:[^/?#@]+@|.*[?&]password=")
_LARGEST_FILE: Final = 16 * 1024 * 1024


def load(path: Path, environ: Mapping[str, str]) -> values.Config:
    path = path.absolute()
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
            mode = path.stat().st_mode
    except OSError as failed:
        error = ConfigError(str(path), [Problem("", f"cannot be read: {failed.strerror}")])
        error.next_step = "tokenproxy init"
        raise error from failed
    if len(data) > _LARGEST_FILE:
        raise ConfigError(str(path), [Problem("", "is larger than 16 MiB")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failed:
        line = data.count(b"\n", 0, failed.start) + 1
        raise ConfigError(str(path), [Problem("", "is not UTF-8 text", line)]) from None
    return _parsed(text, source=str(path), base=path.parent, environ=environ, mode=mode)


def parse(text: str, *, source: str, base: Path, environ: Mapping[str, str]) -> values.Config:
    return _parsed(text, source=source, base=base.absolute(), environ=environ, mode=None)


def _parsed(
    text: str, *, source: str, base: Path, environ: Mapping[str, str], mode: int | None
) -> values.Config:
    """``mode``: the file's, where there is one."""
    raw = _toml(text, source)
    variables, unknown = environment.overlay(raw, environ, provider_names=providers.preset_names())
    report = Report(Lines(text), variables)
    reading = Reading(report=report, base=base, secrets=Secrets(base=base, environ=environ))
    config = _config(raw, base / source, reading)
    if report.problems or unknown:
        raise ConfigError(source, in_order([*report.problems, *unknown]))
    if mode is not None:
        _check_mode(mode, config.path, reading)
    return replace(config, warnings=tuple(in_order(report.warnings)))


def _check_mode(mode: int, path: Path, reading: Reading) -> None:
    """Of the config file itself; only told, since some file systems know no modes."""
    name = shlex.quote(str(path))
    if mode & stat.S_IWOTH:
        reading.report.warning((), f"everybody on this machine can change this file: chmod o-w {name}")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        for keys in reading.literals:
            reading.report.warning(keys, f"others on this machine can read this file: chmod 600 {name}")


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(source, [Problem("", "is not TOML: too many brackets within brackets")]) from None
    except ValueError as wrong:
        reason = str(wrong)
    found = re.fullmatch(r"(?s)(.*) \((?:at line (\d+), column (\d+)|at end of document)\)", reason)
    if found is None:
        raise ConfigError(source, [Problem("", f"is not TOML: {reason}")])
    line = int(found[2]) if found[2] else text.rstrip().count("\n") + 1
    where = f" (column {found[3]})" if found[3] else ""
    raise ConfigError(
        source, [Problem("", f"is not TOML: {found[1][:1].lower()}{found[1][1:]}{where}", line)]
    )


def _config(raw: dict[str, Any], path: Path, reading: Reading) -> values.Config:
    _check_names(raw, reading.report)
    server_table = _section(Server, raw, "server", reading)
    admin_table = _section(Admin, raw, "admin", reading)
    replay = _section(ReplayTable, raw, "replay", reading)
    limits = Limits(**_section(LimitTable, raw, "limits", reading).model_dump())
    accounts = read_accounts(raw, Offers(raw, reading), reading)
    issuers = read_issuers(raw, reading)
    callers = read_callers(raw, limits, reading)
    around = Around(
        accounts=accounts,
        account_names=frozenset(named) if isinstance(named := raw.get("accounts"), dict) else frozenset(),
        replay=Replay(memory=replay.memory, disk=replay.disk),
        limits=limits,
        forwarded=server_table.forwarded,
        trusted_proxies=tuple(server_table.trusted_proxies),
        callers=callers,
    )
    listens = _listens(server_table.listen, ("server", "listen"), reading)
    listeners = _check_twice([each for each, _ in listens], reading)
    admin_listener = _tcp_listener(admin_table.listen, ("admin", "listen"), reading)
    metrics_table = _section(Metrics, raw, "metrics", reading)
    metrics_listener = _metrics_listener(metrics_table, reading)
    _check_clashes(listeners, admin_listener, metrics_listener, reading)
    _check_exposed(admin_table, admin_listener, reading)
    asking_table = _section(ForwardAuth, raw, "forward_auth", reading)
    asking = _listens(asking_table.listen, ("forward_auth", "listen"), reading)
    _check_asking([each for each, _ in asking], [*listeners, admin_listener, metrics_listener], reading)
    store = _store(_section(Store, raw, "store", reading), reading)
    if server_table.reuse_port and not store.database:
        reading.report.problem(
            ("server", "reuse_port"),
            "needs a store that several processes may have open: store.url = postgresql://...",
        )
    routes = read_routes(raw, around, reading)
    server = _server(server_table, listens, callers, routes, reading)
    check_ways(callers, server, routes, listens, reading)
    return values.Config(
        path=path,
        server=server,
        forward_auth=read_forward_auth(
            asking_table,
            asking,
            keys=bool(server.caller_keys or callers),
            routes=routes,
            names=raw["routes"] if isinstance(raw.get("routes"), dict) else (),
            reading=reading,
        ),
        admin=_admin(admin_table, admin_listener, reading),
        metrics=values.MetricsListener(
            listen=str(metrics_listener) if metrics_listener else None,
            tls=_shown_to(metrics_table, ("metrics",), reading),
        ),
        store=store,
        accounts=accounts,
        routes=routes,
        callers=callers,
        issuers=issuers,
        deadlines=Deadlines(**_section(DeadlineTable, raw, "deadlines", reading).model_dump()),
        limits=limits,
        replay=_budget(replay, reading),
        renew=RenewPolicy(**_section(RenewTable, raw, "renew", reading).model_dump()),
        log=values.LogSettings(**_section(LogTable, raw, "log", reading).model_dump()),
        audit=_audit(_section(AuditTable, raw, "audit", reading), reading),
        trace=_trace(_section(TraceTable, raw, "trace", reading), reading),
    )


def _audit(table: AuditTable, reading: Reading) -> Audit:
    file = table.file if table.file in {"", "stdout", "stderr"} else str(reading.base / table.file)
    if not file:
        for name in ("fsync", "required"):
            if getattr(table, name):
                reading.report.problem(("audit", name), "needs file beside it")
    elif "/" in file and not Path(file).parent.is_dir():
        reading.report.problem(("audit", "file"), f"no such folder: {Path(file).parent}")
    return Audit(file=file, fsync=table.fsync, required=table.required)


def _trace(table: TraceTable, reading: Reading) -> TraceSettings:
    if table.endpoint:
        try:
            addresses.url(table.endpoint)
        except ValueError as wrong:
            reading.report.problem(("trace", "endpoint"), str(wrong))
    return TraceSettings(**table.model_dump())


def _section(model: type[AnyTable], raw: dict[str, Any], name: str, reading: Reading) -> AnyTable:
    return read(model, raw.get(name, {}), (name,), reading.report) or model()


def _check_names(raw: dict[str, Any], report: Report) -> None:
    sections = [*SECTIONS, *NAMED]
    for name, value in raw.items():
        if name in sections:
            continue
        homes = [f"[{section}]" for section, model in SECTIONS.items() if name in children(model)]
        if isinstance(value, dict) or nearest(name, sections) or not homes:
            report.problem((name,), f"unknown section.{did_you_mean(name, sections)}")
        else:
            report.problem((name,), f"unknown setting here; {either(homes)} has it")
    for section in NAMED:
        found = raw.get(section)
        for name in found if isinstance(found, dict) else ():
            if not _NAME.fullmatch(name):
                report.problem((section, name), "a name has letters, digits, - and _ only, at most 64")


def _listener(text: str, keys: Keys, reading: Reading) -> Listener | None:
    try:
        return addresses.listener(text, base=reading.base)
    except ValueError as wrong:
        reading.report.problem(keys, str(wrong))
        return None


def _check_twice(listeners: list[Listener], reading: Reading) -> list[Listener]:
    for item, each in enumerate(listeners):
        if any(each.clashes(earlier) for earlier in listeners[:item]):
            reading.report.problem(("server", "listen"), f"names {each} twice")
    return listeners


def _metrics_listener(table: Metrics, reading: Reading) -> Listener | None:
    return _tcp_listener(table.listen, ("metrics", "listen"), reading) if table.listen else None


def _tcp_listener(text: str, keys: Keys, reading: Reading) -> Listener | None:
    """For browsers and scrapers, which speak TCP; commands have a Unix socket of their own beside the store."""
    found = _listener(text, keys, reading)
    if found is None or not (found.path or found.passed):
        return found
    word = "systemd:" if found.passed else "unix:"
    reading.report.problem(
        keys, f'must be an address such as "127.0.0.1:9100"; only server.listen takes {word}'
    )
    return None


def _check_clashes(
    server: list[Listener], admin: Listener | None, metrics: Listener | None, reading: Reading
) -> None:
    report = reading.report
    if admin and any(admin.clashes(each) for each in server):
        report.problem(("admin", "listen"), f"{admin} is taken by server.listen")
    if metrics and any(metrics.clashes(each) for each in server):
        report.problem(("metrics", "listen"), f"{metrics} is taken by server.listen")
    if metrics and admin and metrics.clashes(admin):
        report.problem(
            ("metrics", "listen"),
            f"{metrics} is taken by admin.listen, which serves health and metrics already",
        )


def _check_exposed(table: Admin, admin: Listener | None, reading: Reading) -> None:
    """Beyond loopback the admin token and what is answered could be read on the way."""
    if admin is None or admin.loopback:
        return
    at: Keys = ("admin", "listen")
    if not table.cert_file and not table.insecure_http:
        reading.report.problem(
            at,
            f"{admin} can be reached from other machines, without TLS: set cert_file, or say insecure_http = true; "
            "for health and metrics alone there is [metrics] listen",
        )
    elif not table.client_ca_file:
        reading.report.warning(
            at,
            f"{admin} can be reached from other machines; for health and metrics alone there is [metrics] listen",
        )


def _listens(
    table: Sequence[ListenTable], at: tuple[str, str], reading: Reading
) -> list[tuple[Listener, Listen]]:
    """The sound entries."""
    found = []
    for item, each in enumerate(table):
        keys: Keys = (*at, item)
        if not each.address:
            if reading.report.sound(*keys, "address"):
                reading.report.problem((*keys, "address"), "is missing: where callers come in")
            continue
        listener = _listener(each.address, keys, reading)
        if listener is not None:
            found.append((listener, _listen(each, listener, keys, reading)))
    return found


def _check_asking(asking: list[Listener], others: Sequence[Listener | None], reading: Reading) -> None:
    for each in asking:
        if any(other is not None and each.clashes(other) for other in others):
            reading.report.problem(("forward_auth", "listen"), f"{each} is taken by another listener of ours")


def _listen(table: ListenTable, listener: Listener, keys: Keys, reading: Reading) -> Listen:
    report = reading.report
    if not listener.path or listener.path[:1] == "@":
        for name in ("mode", "group"):
            if getattr(table, name):
                report.problem((*keys, name), "is for the file of a Unix socket, unix:/PATH")
    elif table.group and not _has_group(table.group):
        report.problem((*keys, "group"), f"this machine has no group {shown(table.group)}")
    if "client_certificate" in table.model_fields_set and not table.client_ca_file:
        report.problem((*keys, "client_certificate"), "needs client_ca_file beside it")
    return Listen(
        address=str(listener),
        mode=0o600 if table.mode is None else table.mode,
        group=table.group,
        tls=_shown_to(table, keys, reading),
        client_optional=table.client_certificate == "optional",
        auth=None if table.auth is None else frozenset(table.auth),
    )


def _shown_to(table: ListenTable | Admin | Metrics, keys: Keys, reading: Reading) -> TLSFiles:
    """What a listener shows to who comes in, and whose certificates it lets in."""
    for name in ("key_file", "client_ca_file"):
        if getattr(table, name) and not table.cert_file:
            reading.report.problem((*keys, name), "needs cert_file beside it")
    if table.cert_file and table.client_ca_file and not (reading.base / table.client_ca_file).is_file():
        reading.report.problem(
            (*keys, "client_ca_file"), f"no such file: {reading.base / table.client_ca_file}"
        )
    files = TLS(cert_file=table.cert_file, key_file=table.key_file if table.cert_file else "")
    tls = reading.tls(files, keys)
    return replace(tls, ca_file=str(reading.base / table.client_ca_file)) if table.client_ca_file else tls


def _has_group(name: str) -> bool:
    try:
        return name.isdigit() or bool(grp.getgrnam(name))
    except KeyError:
        return False


def _server(
    table: Server,
    listens: list[tuple[Listener, Listen]],
    callers: tuple[Caller, ...],
    routes: tuple[Route, ...],
    reading: Reading,
) -> values.Server:
    report = reading.report
    keys = _caller_keys(table, reading)
    known = bool(keys or callers)
    exposed = [each for each, listen in listens if not each.loopback and not _guarded(listen, known=known)]
    sections = (("server", "caller_auth"), ("server", "allow_unauthenticated"), ("callers",))
    told = all(report.sound(*each) for each in sections)
    if exposed and told and not table.allow_unauthenticated:
        report.problem(
            ("server", "listen"),
            f"{exposed[0]} can be reached from other machines: name callers in [callers.*], set keys in [server.caller_auth], or say allow_unauthenticated = true",
        )
    _check_open_routes(table, listens, routes, reading)
    if known and table.allow_unauthenticated and not _somebody_need_not(listens, routes):
        what = "caller_auth.keys" if keys else "[callers.*]"
        word = "asks every caller for a key" if keys and not callers else "asks every caller who it is"
        report.warning(("server", "allow_unauthenticated"), f"has no effect: {what} {word}")
    if table.loop == "uvloop" and find_spec("uvloop") is None:
        report.problem(("server", "loop"), "uvloop is not installed: pip install 'tokenproxy[fast]'")
    return values.Server(
        listen=tuple(
            replace(
                listen,
                local=not table.allow_unauthenticated and not _guarded(listen, known=known),
                shared=table.reuse_port,
            )
            for _, listen in listens
        ),
        hosts=frozenset(_hosts(table, reading)),
        loop=cast("Any", table.loop),
        allow_unauthenticated=table.allow_unauthenticated,
        caller_keys=keys,
    )


def _guarded(listen: Listen, *, known: bool) -> bool:
    """Whether who comes in here must show something; ``known``: callers have keys or names."""
    certified = bool(listen.tls.ca_file) and not listen.client_optional
    return certified or (known and listen.auth != frozenset())


def _somebody_need_not(listens: list[tuple[Listener, Listen]], routes: tuple[Route, ...]) -> bool:
    every = [listen.auth for _, listen in listens] + [route.auth for route in routes]
    return frozenset() in every


def _check_open_routes(
    table: Server, listens: list[tuple[Listener, Listen]], routes: tuple[Route, ...], reading: Reading
) -> None:
    """A route that asks nobody who it is, where other machines get to it."""
    reached = [each for each, listen in listens if not each.loopback and not _guarded(listen, known=False)]
    for route in routes:
        if route.auth == frozenset() and reached and not table.allow_unauthenticated:
            reading.report.problem(
                ("routes", route.name, "auth"),
                f"lets in whoever reaches {reached[0]} from other machines; if you mean it, say server.allow_unauthenticated = true",
            )


def _hosts(table: Server, reading: Reading) -> list[str]:
    found = []
    for item, text in enumerate(table.hosts):
        try:
            found.append(addresses.host_name(text))
        except ValueError as wrong:
            reading.report.problem(("server", "hosts", item), str(wrong))
    return found


def _caller_keys(table: Server, reading: Reading) -> tuple[str, ...]:
    return read_keys(table.caller_auth.keys, ("server", "caller_auth", "keys"), reading)


def _admin(table: Admin, listening: Listener | None, reading: Reading) -> values.Admin:
    own = _own_url(listening, "https" if table.cert_file else "http")
    return values.Admin(
        listen=str(listening),
        public_url=own if table.public_url is None else _public_url(table, table.public_url, reading),
        tls=_shown_to(table, ("admin",), reading),
        token=_admin_token(table, reading),
        return_to=_return_to(table, reading),
        dashboard=table.dashboard,
        insecure_http=table.insecure_http,
    )


def _public_url(table: Admin, given: str, reading: Reading) -> str:
    at = ("admin", "public_url")
    try:
        parts = addresses.url(given)
    except ValueError as wrong:
        reading.report.problem(at, str(wrong))
        return ""
    if addresses.plain_beyond_loopback(parts) and not table.insecure_http:
        reading.report.problem(at, addresses.NEEDS_HTTPS)
    return given.rstrip("/")


def _admin_token(table: Admin, reading: Reading) -> str:
    at = ("admin", "token")
    token = reading.secret(table.token, at).strip() if table.token else ""
    if token and not _ADMIN_TOKEN.fullmatch(token):
        reading.report.problem(at, "must be 16 or more printable ASCII characters without blanks")
    return token


def _return_to(table: Admin, reading: Reading) -> tuple[str, ...]:
    """Whole path segments: ``https://app.example`` must not let ``https://app.example.evil`` pass."""
    found = []
    for item, text in enumerate(table.return_to):
        try:
            parts = addresses.url(text)
        except ValueError as wrong:
            reading.report.problem(("admin", "return_to", item), str(wrong))
            continue
        found.append(f"{parts.scheme}://{addresses.authority_of(parts)}{parts.path.rstrip('/')}/")
    return tuple(found)


def _own_url(listening: Listener | None, scheme: str) -> str:
    if listening is None:
        return ""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listening.host, listening.host)
    return f"{scheme}://{Listener(local, listening.port)}"


def store_at(config: values.Config, url: str, environ: Mapping[str, str]) -> values.StoreSettings:
    report = Report(Lines(""), {})
    base = config.path.parent
    reading = Reading(report=report, base=base, secrets=Secrets(base=base, environ=environ))
    settings = _store(Store(url=url, key=[spec.source for spec in config.store.keys]), reading)
    if report.problems:
        raise ConfigError("--to", [replace(each, path="") for each in report.problems])
    return settings


def _store(table: Store, reading: Reading) -> values.StoreSettings:
    url, shared = _store_url(table.url, reading), _shared(table, reading)
    database = url.startswith(_DATABASES)
    path = reading.base / (table.dir or ".") / "tokenproxy" if database else _store_path(url, reading)
    keys = tuple(
        _key_spec(source, ("store", "key", item), reading) for item, source in enumerate(table.key or [])
    )
    if table.key is None:
        beside = path.parent / "tokenproxy.key"
        keys = (_key_spec(f"file:{beside}", ("store", "key"), reading),)
        if database and reading.report.sound("store", "key"):
            reading.report.problem(
                ("store", "key"),
                "is missing: all replicas need the same one; tokenproxy key new FILE makes it",
            )
    return values.StoreSettings(
        url=url if database else f"sqlite:{path}",
        name=_database_name(url, reading) if database else str(path),
        path=path,
        keys=keys,
        base=reading.base,
        cache=table.cache,
        shared=shared,
        spool=reading.base / table.spool if table.spool else None,
    )


def _shared(table: Store, reading: Reading) -> SharedStore:
    if table.heartbeat * 3 > table.lease:
        reading.report.problem(("store", "heartbeat"), "must be at most a third of store.lease")
    return SharedStore(
        lease=table.lease,
        heartbeat=table.heartbeat,
        pooled=table.pooler == "transaction",
        allow_unsafe=table.allow_unsafe,
    )


def _store_url(url: str, reading: Reading) -> str:
    """Where a database's address holds a password, a secret's word may stand for the whole of it."""
    if url.partition(":")[0] in {word.rstrip(":") for word in WORDS}:
        return reading.secret(url, ("store", "url")).strip() or "sqlite:tokenproxy.db"
    if url.startswith(_DATABASES) and _PASSWORD.match(url):
        reading.literals.append(("store", "url"))
    return url


def _database_name(url: str, reading: Reading) -> str:
    """Raises nothing: an address that cannot be read is told, without its text, which may hold a password."""
    if find_spec("asyncpg") is None:
        reading.report.problem(
            ("store", "url"), "needs a package that is not installed: pip install 'tokenproxy[postgres]'"
        )
    try:
        return place_of(url)
    except ValueError as wrong:
        reading.report.problem(("store", "url"), str(wrong))
        return "postgresql:"


def _store_path(url: str, reading: Reading) -> Path:
    at = ("store", "url")
    scheme, _, rest = url.partition(":")
    file = rest.removeprefix("//") if rest.startswith("///") else rest
    if scheme != "sqlite" or not file or file.startswith(("//", ":")) or "?" in file:
        reading.report.problem(
            at,
            'must name a file, such as "sqlite:tokenproxy.db" or "sqlite:/var/lib/tokenproxy/tokenproxy.db", or a '
            "database: postgresql://HOST/DATABASE",
        )
    elif (reading.base / file).is_dir():
        reading.report.problem(at, f"{reading.base / file} is a folder; name the file in it")
    return reading.base / file


def _key_spec(source: str, at: Keys, reading: Reading) -> values.KeySpec:
    """Not opened here: the first start may have to make it."""
    word, _, rest = source.partition(":")
    if not rest.strip():
        reading.report.problem(at, f"has nothing after {word}:")
    if word != "file":
        return values.KeySpec(source=source)
    path = reading.base / rest
    if rest.strip() and path.exists():
        reading.guarded(path, at)
    return values.KeySpec(source=f"file:{path}", path=path)


def _budget(table: ReplayTable, reading: Reading) -> ReplayBudget:
    folder = str(reading.base / table.dir) if table.dir else ""
    if folder and not Path(folder).is_dir():
        reading.report.problem(("replay", "dir"), f"no such folder: {shown(folder)}")
    return ReplayBudget(directory=folder, total_memory=table.total_memory, total_disk=table.total_disk)
