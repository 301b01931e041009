"""The only module that knows every part: builds them, starts them, reloads and stops them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import secrets
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tokenproxy import __version__, log, stores
from tokenproxy import config as configs
from tokenproxy.admin.api import Desk, metrics_app, pages_app, socket_app, tcp_app
from tokenproxy.admin.client import AdminClient, LoginClient
from tokenproxy.admin.exposition import Exposition
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.health import Health
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.operations import LoginOperations
from tokenproxy.admin.server import Running, serve_tcp, serve_unix
from tokenproxy.admin.token import AdminToken, file_token
from tokenproxy.config import Config, StoreSettings
from tokenproxy.core.interfaces import Accounts, Clock, Logins, Spool, Store, TokenOrigins
from tokenproxy.core.login import mode_of
from tokenproxy.core.provider import CallbackMode
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import TLSFiles
from tokenproxy.errors import NotRunningError, StoreError, TokenproxyError
from tokenproxy.metrics import Metrics
from tokenproxy.oauth import scheduler, signer
from tokenproxy.oauth.accounts import OperatorAccounts
from tokenproxy.oauth.endpoint import TOTAL_TIMEOUT, Endpoint
from tokenproxy.oauth.logins import LoginDesk
from tokenproxy.oauth.signer import Prover
from tokenproxy.oauth.source import Source
from tokenproxy.oauth.state import LoginState
from tokenproxy.oauth.tasks import Tasks
from tokenproxy.proxy import (
    NONE_PASSED,
    Change,
    Passed,
    Plane,
    PlaneSettings,
    RequestLog,
    server_context,
    tls_context,
)
from tokenproxy.systemd import Notifier, take_sockets

_log = logging.getLogger("tokenproxy")

KEPT_FREE: Final = 4 * 2**20
"""Bytes of freed memory that are kept for the next bodies."""
YOUNG: Final = 20_000
"""Objects that may be new before a search for cycles: a thousand requests under way, which leave none, cause no search."""
RECOVERY_PATIENCE: Final = 40.0
"""Seconds after which the process counts as started although a renewal in doubt still waits for its provider."""


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


class App:
    """Everything that runs; made by ``start``."""

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str],
        stack: AsyncExitStack,
        passed: Passed = NONE_PASSED,
        notifier: Notifier | None = None,
    ) -> None:
        """``passed``: sockets that systemd opened; ``notifier``: who is told how far we are."""
        self.config = config
        self._begun_with = config
        self.addresses: dict[str, str] = {}
        """Bound addresses by name: proxy, proxy-2, admin, metrics, socket."""
        self.health = Health()
        self.metrics = Metrics()
        self.clock = SystemClock()
        self._environ = environ
        self._passed = passed
        self.notifier = notifier or Notifier({})
        self._stack = stack
        self._tasks = Tasks()
        self._admin_token: AdminToken
        self._changing = asyncio.Lock()
        self._started = self.clock.monotonic()
        self.store: Store
        self._spool: Spool
        self.source: Source
        self.accounts: Accounts
        self.state: LoginState
        self.logins: Logins
        self._plane: Plane

    # -- start ---------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        config = self.config
        log.count_into(self.metrics.log_events)
        _hide_secrets(config)
        check_tls(config)
        check_keys(config)
        self.store = await _open_store(config.store, self._environ, self.metrics)
        self._stack.push_async_callback(self.store.close)
        self._spool = await _open_spool(config.store, self._environ)
        self._take_admin_token(await asyncio.to_thread(admin_token, config))
        endpoint = _endpoint(config, self._environ)
        self._stack.push_async_callback(endpoint.close)
        self.source = Source(
            config.accounts,
            store=self.store,
            spool=self._spool,
            endpoint=endpoint,
            clock=self.clock,
            metrics=self.metrics,
            policy=config.renew,
            cache=config.store.cache,
            jitter=_jitter,
            lease=timedelta(seconds=config.store.shared.lease),
        )
        self._stack.push_async_callback(self.source.close)
        await self.source.restore()
        await self.source.start()  # renewals in doubt are repeated first: the provider's grace is short
        self.accounts = OperatorAccounts(
            self.source,
            store=self.store,
            endpoint=endpoint,
            clock=self.clock,
            accounts=lambda: self.config.accounts,
        )
        self.state = LoginState(self.store, clock=self.clock, accounts=lambda: self.config.accounts)
        logins = self.logins = _login_desk(
            lambda: self.config,
            source=self.source,
            store=self.store,
            endpoint=endpoint,
            clock=self.clock,
            accounts=self.accounts,
        )
        self._stack.push_async_callback(logins.close)
        self._plane = Plane(
            plane_settings(config),
            source=self.source,
            prover=Prover(self.clock),
            clock=self.clock,
            metrics=self.metrics,
            on_request=_request_log(config),
            values=self.state,
            passed=self._passed,
        )
        await self._listen()
        ticking = self._tasks.start(
            scheduler.run(
                self.source,
                clock=self.clock,
                policy=lambda: self.config.renew,
                heartbeat=config.store.shared.heartbeat,
            ),
            name="scheduler",
        )
        self._stack.callback(ticking.cancel)
        self._tasks.start(self._become_ready(), name="become ready")
        for warning in config.warnings:
            log.event(_log, "config_warning", key=warning.path, detail=warning.message, line=warning.line)

    async def _listen(self) -> None:
        config = self.config
        desk = Desk(
            self.accounts,
            self.logins,
            self,
            self.health,
            Exposition(
                self.metrics,
                accounts=self.source.gauges,
                spooled=lambda: self.source.unstored,
                ready=lambda: self.health.ready,
            ),
            token=lambda: self._admin_token,
            states=self.state,
            now=self.clock.now,
        )
        app = tcp_app(desk, _guard(config), _login_pages(lambda: self.config, self.logins))
        self.health.checks = {"store": self._check_store, "tokens": self._check_unstored}
        await self._admin("socket", serve_unix(socket_app(desk), socket_path(config)))
        await self._admin("admin", serve_tcp(app, config.admin.listen, key="admin.listen"))
        if config.metrics.listen:
            app = metrics_app(desk)
            await self._admin("metrics", serve_tcp(app, config.metrics.listen, key="metrics.listen"))
        self._stack.push_async_callback(self._drain)
        await self._open(self._plane.prepared(config.server.listen))

    async def _open(self, change: Change) -> None:
        """Take callers where the config says now, and tell what that changes."""
        before = {name: address for name, address in self.addresses.items() if name.startswith("proxy")}
        found = await self._plane.open(change)
        after = {
            f"proxy-{number}" if number > 1 else "proxy": each for number, each in enumerate(found, start=1)
        }
        for name, address in before.items():
            del self.addresses[name]
            if address not in after.values():
                log.event(_log, "listener_closed", name=name, address=address)
        self.addresses |= after
        for name, address in after.items():
            if address not in before.values():
                log.event(_log, "listening", name=name, address=address)

    async def _admin(self, name: str, serving: Any) -> None:
        running: Running = await serving
        self._stack.push_async_callback(running.close)
        self.addresses[name] = running.address
        log.event(_log, "listening", name=name, address=running.address)

    def _take_admin_token(self, token: AdminToken) -> None:
        log.register_secret(token.value, lasting=True)
        self._admin_token = token

    async def _become_ready(self) -> None:
        await self.source.recovered(patience=RECOVERY_PATIENCE)
        self.health.started = True

    async def _check_store(self) -> str | None:
        await self.store.check()
        return None

    async def _check_unstored(self) -> str | None:
        count = self.source.unstored
        if not count:
            return None
        return f"{count} token {'set is' if count == 1 else 'sets are'} not in the store yet"

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._plane.in_flight

    # -- stop ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop taking requests, let those under way end (``deadlines.drain``), then renewals, then the rest."""
        self.health.draining = True
        await self._stack.aclose()
        await self._tasks.finish(patience=0)

    async def cut(self) -> None:
        """End the drain now; renewals that were sent still end."""
        await self._plane.close(drain=0)

    async def tell_losses(self) -> None:
        """Raises ``StoreError`` where the process ends with the only copy of a token set."""
        missing = set(self.source.unstored_names)
        if not missing:
            return
        with suppress(StoreError):
            spooled = missing & {kept.claim.account for kept in await self._spool.waiting()}
            missing -= spooled
            for name in sorted(spooled):
                log.event(_log, "spool_left", account=name)
        if not missing:
            return
        names = sorted(missing)
        whose = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise StoreError(
            f"neither the store nor the spool took the newest tokens of {whose}, so that they are gone with this process",
            next_step=f"see that {self.config.store.name} can be written, then: "
            f"tokenproxy import {names[0]} < answer.json",
        )

    async def _drain(self) -> None:
        await self._plane.close(drain=self.config.deadlines.drain)

    # -- what operators ask (admin.operations.Operations) -----------------------------------------------------------

    async def reload(self) -> dict[str, Any]:
        """Read, validate, build beside, swap; a bad file changes nothing. Raises ``ConfigError``."""
        async with self._changing:
            self.notifier.reloading()
            try:
                return await self._reload()
            finally:
                self.notifier.ready()

    async def _reload(self) -> dict[str, Any]:
        try:
            reading = configs.begin(self.config.path, self._environ)
            new = await asyncio.to_thread(reading.result)
            check_tls(new)
            check_keys(new)
            token = await asyncio.to_thread(admin_token, new)
            change = self._plane.prepared(new.server.listen)
            try:
                self._plane.swap(plane_settings(new))
            except BaseException:
                change.abandon()
                raise
        except TokenproxyError as error:
            self.metrics.reloads["failed"] += 1
            log.event(_log, "config_reload_failed", detail=error.message)
            raise
        change.leave()  # before a caller of a listener that is gone sends anything under the new rules
        restart = restart_needed(self._begun_with, new)
        if change.waiting:
            restart.insert(0, "server.listen")
        self.config = new
        _hide_secrets(new)
        self._take_admin_token(token)
        self.source.configure(new.accounts, new.renew)
        self._plane.on_request = _request_log(new)
        log.setup(new.log.level, new.log.format)
        await self._open(change)
        self.metrics.reloads["ok"] += 1
        self.metrics.last_reload_success = time.time()
        log.event(_log, "config_reloaded", routes=len(new.routes), restart_needed=restart)
        return {"routes": len(new.routes), "accounts": len(new.accounts), "restart_needed": restart}

    async def rotate_keys(self) -> dict[str, Any]:
        async with self._changing:
            return await rotate_keys(self.store, self._spool, self.config.store, self._environ)

    async def backup(self, path: str) -> dict[str, Any]:
        return {"path": path, "accounts": await stores.backup_store(self.store, Path(path))}

    async def verify(self) -> dict[str, Any]:
        return await stores.verify_store(self.store)

    async def info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(self.clock.monotonic() - self._started, 3),
            "listeners": dict(self.addresses),
            "config": str(self.config.path),
        }


def _request_log(config: Config) -> Callable[[RequestLog], None] | None:
    """What ``log.access`` asks for; None costs a request nothing."""
    if config.log.access == "off":
        return None
    slow = config.log.slow if config.log.access == "slow" else 0.0
    name = "request_slow" if slow else "request"

    def tell(request: RequestLog) -> None:
        if request.seconds >= slow:
            log.event(_log, name, **asdict(request))

    return tell


async def start(
    config: Config,
    *,
    environ: Mapping[str, str],
    passed: Passed = NONE_PASSED,
    notifier: Notifier | None = None,
) -> App:
    """All parts, listening. Raises ``TokenproxyError``; then nothing is left running."""
    stack = AsyncExitStack()
    app = App(config, environ=environ, stack=stack, passed=passed, notifier=notifier)
    try:
        await app._start()  # noqa: SLF001 - the constructor's other half
    except BaseException:
        await app.close()
        raise
    return app


async def serve(
    config: Config, *, environ: MutableMapping[str, str], on_ready: Callable[[App], None]
) -> None:
    """
    Run until SIGTERM or SIGINT, then drain; a second one ends the drain. SIGHUP reloads.

    ``on_ready`` is called when every listener is bound. What systemd says in ``environ`` is taken out of it. Raises
    ``TokenproxyError`` when it cannot start.
    """
    log.capture_uncaught()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold every token
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    passed, notifier = take_sockets(environ), Notifier(environ)
    app = await start(config, environ=environ, passed=passed, notifier=notifier)
    stop = asyncio.Event()
    tasks = Tasks()

    def asked_to_stop() -> None:
        if stop.is_set():
            tasks.start(app.cut(), name="cut")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: tasks.start(_reload(app), name="reload"))
    try:
        gc.collect()
        gc.freeze()  # what is here now stays: no later collection need look at it
        gc.set_threshold(YOUNG)
        _keep_freed_memory()
        log.event(_log, "started", version=__version__, config=str(config.path), pid=os.getpid())
        on_ready(app)
        notifier.ready()
        await stop.wait()
        notifier.stopping()
        log.event(_log, "stopping", in_flight=app.in_flight)
    finally:
        await app.close()
        await tasks.finish(patience=0)
        notifier.close()
        log.event(_log, "stopped")
    await app.tell_losses()


def _keep_freed_memory() -> None:
    """
    Have bodies use the same memory again and again.

    glibc returns the end of its heap to the kernel as soon as 128 KiB of it are free, and each body pays for zeroed pages
    anew. Once a block of its own mapping was freed it keeps twice that block's size (mallopt(3), M_MMAP_THRESHOLD).
    """
    block = bytes(KEPT_FREE // 2)
    del block


def run(config: Config, *, environ: MutableMapping[str, str], on_ready: Callable[[App], None]) -> None:
    """``serve`` on the loop that ``server.loop`` names."""
    with asyncio.Runner(loop_factory=loop_factory(config.server.loop)) as runner:
        runner.run(serve(config, environ=environ, on_ready=on_ready))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """``auto`` takes uvloop where it is installed; None is asyncio's own."""
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if name == "auto":
            return None
        raise TokenproxyError(
            "server.loop is uvloop, which is not installed", next_step="pip install 'tokenproxy[fast]'"
        ) from None
    return uvloop.new_event_loop


async def _reload(app: App) -> None:
    with suppress(TokenproxyError):  # told by ``reload`` itself
        await app.reload()


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.event(_log, "unexpected_error", error=error, where=context.get("message", ""))


# -- without a listener ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFace:
    """What a command works with: a running ``serve``, or the store itself."""

    running: bool
    accounts: Accounts
    logins: LoginOperations
    _client: AdminClient | None
    _desk: Logins | None
    _store: Store | None
    _spool: Spool | None
    _config: Config
    _environ: Mapping[str, str] = field(repr=False)

    async def rotate_keys(self) -> dict[str, Any]:
        """``{"resealed": rows, "key_id": ...}``. Raises ``StoreError``."""
        if self._client is not None:
            return await self._client.rotate_keys()
        assert self._store is not None  # noqa: S101 - one of the two is there
        assert self._spool is not None  # noqa: S101 - it comes with the store
        return await rotate_keys(self._store, self._spool, self._config.store, self._environ)

    async def backup(self, path: str) -> dict[str, Any]:
        """``{"path", "accounts"}``. Raises ``StoreError``."""
        if self._client is not None:
            return await self._client.backup(path)
        assert self._store is not None  # noqa: S101 - one of the two is there
        return {"path": path, "accounts": await stores.backup_store(self._store, Path(path))}

    async def verify(self) -> dict[str, Any]:
        """What ``stores.verify_store`` says. Raises ``StoreError``."""
        if self._client is not None:
            return await self._client.verify()
        assert self._store is not None  # noqa: S101 - one of the two is there
        return await stores.verify_store(self._store)

    async def reload(self) -> dict[str, Any]:
        """Raises ``NotRunningError`` without a ``serve``, ``ConfigError`` for a bad file."""
        return await self._running_one().reload()

    async def info(self) -> dict[str, Any]:
        return await self._running_one().info()

    @asynccontextmanager
    async def callbacks(self) -> AsyncIterator[None]:
        """
        Let browsers come back from a login for as long as the block lasts; a running ``serve`` lets them anyway.

        Raises ``TokenproxyError`` where ``admin.listen`` cannot be listened on.
        """
        if self._desk is None:
            yield
            return
        app = pages_app(_guard(self._config), _login_pages(lambda: self._config, self._desk))
        running = await serve_tcp(app, self._config.admin.listen, key="admin.listen")
        try:
            yield
        finally:
            await running.close()

    def _running_one(self) -> AdminClient:
        if self._client is None:
            raise NotRunningError(
                f"no tokenproxy is serving {self._config.path}", next_step="tokenproxy serve"
            )
        return self._client


@asynccontextmanager
async def operations(
    config: Config, *, environ: Mapping[str, str], create: bool = True
) -> AsyncIterator[OperatorFace]:
    """
    A running ``serve`` over its socket, else the store opened here, for as long as the block lasts.

    ``create``: make store and key where there are none; a command that only looks leaves nothing behind.
    """
    client = AdminClient(socket_path(config))
    try:
        await client.info()
    except NotRunningError:
        async with _offline(config, environ, create=create) as face:
            yield face
        return
    yield OperatorFace(
        running=True,
        accounts=client,
        logins=LoginClient(client),
        _client=client,
        _desk=None,
        _store=None,
        _spool=None,
        _config=config,
        _environ=environ,
    )


@asynccontextmanager
async def _offline(
    config: Config, environ: Mapping[str, str], *, create: bool
) -> AsyncIterator[OperatorFace]:
    metrics, clock = Metrics(), SystemClock()
    if create or config.store.database or stores.store_exists(config.store.url):
        store = await _open_store(config.store, environ, metrics)
        spool = await _open_spool(config.store, environ)
    else:
        store = await stores.open_store("memory:", [])
        spool = stores.open_spool("memory:", [], [])
    try:
        endpoint = _endpoint(config, environ)
        source = Source(
            config.accounts,
            store=store,
            spool=spool,
            endpoint=endpoint,
            clock=clock,
            metrics=metrics,
            policy=config.renew,
            jitter=_jitter,
            lease=timedelta(seconds=config.store.shared.lease),
        )
        accounts = OperatorAccounts(
            source, store=store, endpoint=endpoint, clock=clock, accounts=lambda: config.accounts
        )
        logins = _login_desk(
            lambda: config, source=source, store=store, endpoint=endpoint, clock=clock, accounts=accounts
        )
        try:
            await source.restore()
            yield OperatorFace(
                running=False,
                accounts=accounts,
                logins=logins,
                _client=None,
                _desk=logins,
                _store=store,
                _spool=spool,
                _config=config,
                _environ=environ,
            )
        finally:
            await logins.close()
            await source.close()
            await endpoint.close()
    finally:
        await store.close()


def _login_desk(
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


def _login_pages(config: Callable[[], Config], logins: Logins) -> LoginPages:
    def posts(table: str) -> bool:
        return any(
            mode_of(account) is CallbackMode.FORM_POST
            for name, account in config().accounts.items()
            if table in {"", name}
        )

    return LoginPages(logins, config().admin.public_url, posts)


def _guard(config: Config) -> Guard:
    named = config.admin.listen.rpartition(":")[0].strip("[]")
    return Guard.of(config.admin.public_url, config.server.hosts | {named})


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


async def migrate(config: Config, to: str, *, environ: Mapping[str, str]) -> dict[str, Any]:
    """
    Move every login to the store ``to``, as ``store.url`` would name it; ``{"to", "accounts"}``.

    Nothing may use either store meanwhile. Raises ``StoreError``, ``ConfigError``.
    """
    there = await asyncio.to_thread(configs.store_at, config, to, environ)
    _hide_secrets(replace(config, store=there))
    keys = await asyncio.to_thread(configs.read_keys, config.store, environ)
    source = await stores.open_store(config.store.url, keys, shared=config.store.shared, retired=True)
    try:
        target = await stores.open_store(there.url, keys, shared=config.store.shared, retired=True)
        try:
            count = await stores.migrate_store(source, target, to=there.name)
        finally:
            await target.close()
    finally:
        await source.close()
    return {"to": there.name, "accounts": count}


async def _open_store(settings: StoreSettings, environ: Mapping[str, str], metrics: Metrics) -> Store:
    _make_first_key(settings)
    keys = await asyncio.to_thread(configs.read_keys, settings, environ)
    return await stores.open_store(settings.url, keys, metrics=metrics.store, shared=settings.shared)


async def _open_spool(settings: StoreSettings, environ: Mapping[str, str]) -> Spool:
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


# -- from the config -------------------------------------------------------------------------------------------------


def plane_settings(config: Config) -> PlaneSettings:
    return PlaneSettings(
        routes=RouteTable.of(config.routes),
        hosts=config.server.hosts,
        caller_keys=config.server.caller_keys,
        deadlines=config.deadlines,
        limits=config.limits,
        replay=config.replay,
    )


def check_tls(config: Config) -> None:
    """Whether every certificate file named in the config can be used. Raises ``TokenproxyError``."""
    named: dict[TLSFiles, str] = {}
    for route in config.routes:
        named.setdefault(route.upstream.tls, f"routes.{route.name}.tls")
        if route.upstream.proxy is not None:
            named.setdefault(TLSFiles(ca_file=route.upstream.proxy.ca_file), f"routes.{route.name}.proxy")
    for account in config.accounts.values():
        named.setdefault(account.provider.tls, f"providers.{account.provider.name}.tls")
    for number, listen in enumerate(config.server.listen):
        if listen.tls.cert_file:
            server_context(listen.tls, where=f"server.listen[{number}]")
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
        "metrics.listen": (old.metrics.listen, new.metrics.listen),
        "store": (old.store, new.store),
        "renew.concurrent": (old.renew.concurrent, new.renew.concurrent),
    }
    return [key for key, (before, after) in pairs.items() if before != after]


def _shared(config: Config) -> bool:
    return any(listen.shared for listen in config.server.listen)


def _provider_tls(files: TLSFiles) -> ssl.SSLContext:
    return tls_context(files, where="providers.*.tls")


def _endpoint(config: Config, environ: Mapping[str, str]) -> Endpoint:
    """No token call outlives half of a lease, so that nobody else sends meanwhile."""
    timeout = min(TOTAL_TIMEOUT, config.store.shared.lease / 2)
    return Endpoint(_provider_tls, origins=_origins(config, environ), timeout=timeout)


def _origins(config: Config, environ: Mapping[str, str]) -> TokenOrigins:
    return configs.Origins(base=config.path.parent, environ=environ)


def _hide_secrets(config: Config) -> None:
    secrets: Iterable[str] = (
        *password_of(config.store.url),
        *(secret for account in config.accounts.values() for secret in account.secrets),
        *(secret for route in config.routes for secret in route.secrets),
        *config.server.caller_keys,
    )
    for secret in secrets:
        log.register_secret(secret, lasting=True)


def password_of(url: str) -> list[str]:
    """As it stands in a database's address and as it is meant; none for a file."""
    parts = urlsplit(url)
    found = [parts.netloc.rpartition("@")[0].partition(":")[2], *parse_qs(parts.query).get("password", [])]
    return [each for given in found if given for each in {given, unquote(given)}]


def _jitter() -> float:
    return random.uniform(-1, 1)  # noqa: S311 - spreads load; nothing secret depends on it
