"""The parts as a config wants them, for ``serve`` and for a command that works without one."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tokenproxy import config as configs
from tokenproxy import log, stores
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.token import AdminToken, file_token
from tokenproxy.config import Config, StoreSettings
from tokenproxy.core.interfaces import Accounts, Clock, Logins, Spool, Store, TokenOrigins
from tokenproxy.core.login import mode_of
from tokenproxy.core.provider import CallbackMode
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import TLSFiles
from tokenproxy.core.templates import is_loopback
from tokenproxy.errors import StoreError, TokenproxyError
from tokenproxy.metrics import Metrics
from tokenproxy.oauth import signer
from tokenproxy.oauth.endpoint import TOTAL_TIMEOUT, Endpoint
from tokenproxy.oauth.issuers import Issuers
from tokenproxy.oauth.logins import LoginDesk
from tokenproxy.oauth.source import Source
from tokenproxy.proxy import (
    PlaneSettings,
    ServerContext,
    server_context,
    tls_context,
)

if TYPE_CHECKING:
    from tokenproxy.tracing import Tracing

_log = logging.getLogger("tokenproxy")


class SystemClock:
    """
    The system's clocks as one timeline.

    ``now`` is the wall time of the start plus what has really gone by since, sleep of the machine included
    (CLOCK_BOOTTIME), so that setting the clock can neither expire all tokens at once nor keep a dead one alive.
    """

    monotonic: Callable[[], float]
    """Without a frame of Python around the system's call: each request asks six times."""

    def __init__(self) -> None:
        kind = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        self.monotonic = partial(time.clock_gettime, kind)
        self._zero = datetime.now(UTC) - timedelta(seconds=self.monotonic())

    def now(self) -> datetime:
        return self._zero + timedelta(seconds=self.monotonic())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def login_desk(
    config: Callable[[], Config],
    *,
    source: Source,
    store: Store,
    endpoint: Endpoint,
    clock: Clock,
    accounts: Accounts,
) -> LoginDesk:
    admin = config().admin
    return LoginDesk(
        accounts=lambda: config().accounts,
        source=source,
        store=store,
        endpoint=endpoint,
        clock=clock,
        secret=lambda: secrets.token_urlsafe(32),
        public_url=admin.public_url,
        return_to=lambda: config().admin.return_to,
        status=accounts.status,
    )


def login_pages(config: Callable[[], Config], logins: Logins) -> LoginPages:
    def posts(table: str) -> bool:
        return any(
            mode_of(account) is CallbackMode.FORM_POST
            for name, account in config().accounts.items()
            if table in {"", name}
        )

    return LoginPages(logins, config().admin.public_url, posts)


def guard(config: Config) -> Guard:
    named = config.admin.listen.rpartition(":")[0].strip("[]")
    return Guard.of(config.admin.public_url, config.server.hosts | {named})


def admin_is_local(config: Config) -> bool:
    """Whether nobody but this machine's users reaches ``admin.listen``."""
    return is_loopback(config.admin.listen.rpartition(":")[0].strip("[]"))


def socket_path(config: Config) -> Path:
    """The admin socket: beside the store, so that whoever finds the one finds the other."""
    return config.store.path.with_name(config.store.path.name + ".sock")


def admin_token(config: Config) -> AdminToken:
    """What calls over TCP must show; its file is made where the config names none. Raises ``TokenproxyError``."""
    if config.admin.token:
        return AdminToken(config.admin.token, place="admin.token of the config")
    return file_token(admin_token_path(config))


def admin_token_path(config: Config) -> Path:
    return config.store.path.with_name(config.store.path.name + ".admin-token")


def new_key_file(path: Path) -> str:
    """Make a key file, 0600; gives the key's id. Raises ``StoreError``."""
    return stores.key_id(stores.parse_keys(stores.create_key_file(path))[0])


async def key_id(config: Config, environ: Mapping[str, str]) -> str:
    """Of the key that seals; "" where a command gives it, which is not run for this."""
    if config.store.keys[0].source.startswith("cmd:"):
        return ""
    try:
        keys = await asyncio.to_thread(configs.read_keys, config.store, environ)
    except StoreError:
        return ""
    return stores.key_id(keys[0])


async def rotate_keys(
    store: Store, spool: Spool, settings: StoreSettings, environ: Mapping[str, str]
) -> dict[str, Any]:
    """
    Seal every row anew under the first key; a single key file gets a new first key, and loses the old at the end.

    Broken off anywhere, every row still opens with a key of the file, and starting over is right.
    """
    # A key that other replicas do not have yet would shut them out: there people put it in front themselves, everywhere.
    only = settings.keys[0].path if len(settings.keys) == 1 and not settings.database else None
    if only is not None:
        await asyncio.to_thread(stores.rotate_key_file, only)
    keys = await asyncio.to_thread(configs.read_keys, settings, environ)
    await store.use_keys(keys)
    spool.use_keys(keys)
    resealed = await store.reseal() + await spool.reseal()
    if only is not None:
        await asyncio.to_thread(stores.finish_key_file, only)
        await store.use_keys(keys[:1])
        spool.use_keys(keys[:1])
    log.event(_log, "key_rotated", resealed=resealed, key_id=stores.key_id(keys[0]))
    return {"resealed": resealed, "key_id": stores.key_id(keys[0])}


async def open_store(settings: StoreSettings, environ: Mapping[str, str], metrics: Metrics) -> Store:
    _make_first_key(settings)
    keys = await asyncio.to_thread(configs.read_keys, settings, environ)
    return await stores.open_store(settings.url, keys, metrics=metrics.store, shared=settings.shared)


async def open_spool(settings: StoreSettings, environ: Mapping[str, str]) -> Spool:
    keys = await asyncio.to_thread(configs.read_keys, settings, environ)
    return stores.open_spool(settings.url, keys, stores.spool_folders(settings.path, settings.spool))


def _make_first_key(settings: StoreSettings) -> None:
    """The first start makes the key; a store whose key is missing is not given a new one, which could not open it."""
    path = settings.keys[0].path
    if len(settings.keys) != 1 or path is None or path.exists():
        return
    if settings.database:
        raise StoreError(
            f"the key {path} of the store {settings.name} is not there",
            next_step=f"copy it from another replica; for the first of them: tokenproxy key new {path}",
        )
    if stores.store_exists(settings.url):
        raise StoreError(
            f"the store {settings.path} is there, but its key {path} is not",
            next_step="put the key file back from its backup; without it the stored tokens cannot be opened",
        )
    log.event(_log, "key_created", path=str(path), key_id=new_key_file(path))


def plane_settings(config: Config) -> PlaneSettings:
    return PlaneSettings(
        routes=RouteTable.of(config.routes),
        hosts=config.server.hosts,
        caller_keys=config.server.caller_keys,
        callers=config.callers,
        deadlines=config.deadlines,
        limits=config.limits,
        replay=config.replay,
        asked=config.forward_auth.routes,
    )


def listener_context(tls: TLSFiles, where: str) -> ServerContext | None:
    """None: TLS is not spoken there. Raises ``TokenproxyError``."""
    return server_context(tls, where=where) if tls.cert_file else None


def admin_contexts(config: Config) -> dict[str, ServerContext | None]:
    """What the admin side's listeners show, by their tables. Raises ``TokenproxyError``."""
    return {
        name: listener_context(said.tls, name)
        for name, said in (("admin", config.admin), ("metrics", config.metrics))
    }


def check_tls(config: Config) -> None:
    """Whether every certificate file named in the config can be used. Raises ``TokenproxyError``."""
    named: dict[TLSFiles, str] = {}
    for route in config.routes:
        named.setdefault(route.upstream.tls, f"routes.{route.name}.tls")
        if route.upstream.proxy is not None:
            named.setdefault(TLSFiles(ca_file=route.upstream.proxy.ca_file), f"routes.{route.name}.proxy")
    for account in config.accounts.values():
        named.setdefault(account.provider.tls, f"providers.{account.provider.name}.tls")
    for issuer in config.issuers:
        named.setdefault(issuer.way.tls, f"issuers.{issuer.name}.tls")
    for number, listen in enumerate(config.server.listen):
        if listen.tls.cert_file:
            server_context(listen.tls, where=f"server.listen[{number}]", optional=listen.client_optional)
    for listen in config.forward_auth.listen:
        if listen.tls.cert_file:
            server_context(listen.tls, where="forward_auth.listen", optional=listen.client_optional)
    admin_contexts(config)
    for files, where in named.items():  # each once: the system's authorities alone take 25 ms
        tls_context(files, where=where)


def check_keys(config: Config) -> None:
    """Whether every private key in the config can sign what its provider wants. Raises ``TokenproxyError``."""
    for account in config.accounts.values():
        key, provider = account.registration.private_key, account.provider
        if not key:
            continue
        try:
            signer.check(key, provider.assertion.alg)
        except signer.KeyUnusableError as error:
            raise TokenproxyError(
                f"accounts.{account.name}.private_key: {error}",
                next_step=f"give a key for {provider.assertion.alg} as PEM or JWK, or set providers.{provider.name}.assertion.alg",
            ) from None


def restart_needed(old: Config, new: Config) -> list[str]:
    """The keys that a reload read but cannot put in force; ``old`` is what the process began with."""
    pairs = {
        "server.loop": (old.server.loop, new.server.loop),
        "server.reuse_port": (_shared(old), _shared(new)),
        "admin.listen": (old.admin.listen, new.admin.listen),
        "admin.public_url": (old.admin.public_url, new.admin.public_url),
        "admin.cert_file": (bool(old.admin.tls.cert_file), bool(new.admin.tls.cert_file)),
        "admin.dashboard": (old.admin.dashboard, new.admin.dashboard),
        "admin.insecure_http": (old.admin.insecure_http, new.admin.insecure_http),
        "metrics.listen": (old.metrics.listen, new.metrics.listen),
        "metrics.cert_file": (bool(old.metrics.tls.cert_file), bool(new.metrics.tls.cert_file)),
        "store": (old.store, new.store),
        "trace": (old.trace, new.trace),
        "renew.concurrent": (old.renew.concurrent, new.renew.concurrent),
    }
    return [key for key, (before, after) in pairs.items() if before != after]


def _shared(config: Config) -> bool:
    return any(listen.shared for listen in config.server.listen)


def _provider_tls(files: TLSFiles) -> ssl.SSLContext:
    return tls_context(files, where="providers.*.tls")


def endpoint(config: Config, environ: Mapping[str, str]) -> Endpoint:
    """No token call outlives half of a lease, so that nobody else sends meanwhile."""
    timeout = min(TOTAL_TIMEOUT, config.store.shared.lease / 2)
    return Endpoint(_provider_tls, origins=_origins(config, environ), timeout=timeout)


def issuers(config: Config, environ: Mapping[str, str], endpoint: Endpoint, clock: Clock) -> Issuers:
    return Issuers(endpoint.send, clock=clock, origins=_origins(config, environ))


def _origins(config: Config, environ: Mapping[str, str]) -> TokenOrigins:
    return configs.Origins(base=config.path.parent, environ=environ)


def hide_secrets(config: Config) -> None:
    secrets: Iterable[str] = (
        *password_of(config.store.url),
        *(secret for account in config.accounts.values() for secret in account.secrets),
        *(secret for route in config.routes for secret in route.secrets),
        *config.server.caller_keys,
        *(secret for caller in config.callers for secret in caller.secrets),
        *(secret for issuer in config.issuers if issuer.way.proxy for secret in issuer.way.proxy.secrets),
    )
    for secret in secrets:
        log.register_secret(secret, lasting=True)


def tracing(config: Config, environ: Mapping[str, str]) -> Tracing | None:
    """None where nobody asks for spans. Raises ``TokenproxyError`` where what makes them is not installed."""
    if not config.trace.enabled:
        return None
    try:
        from tokenproxy.tracing import Tracing
    except ImportError:
        raise TokenproxyError(
            "trace.enabled needs OpenTelemetry, which is not installed",
            next_step="pip install 'tokenproxy[otel]'",
        ) from None
    return Tracing(config.trace, environ)


def password_of(url: str) -> list[str]:
    """As it stands in a database's address and as it is meant; none for a file."""
    parts = urlsplit(url)
    found = [parts.netloc.rpartition("@")[0].partition(":")[2], *parse_qs(parts.query).get("password", [])]
    return [each for given in found if given for each in {given, unquote(given)}]


def jitter() -> float:
    return random.uniform(-1, 1)  # noqa: S311 - spreads load; nothing secret depends on it
