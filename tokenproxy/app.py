"""`serve`: starts the parts, listens, reloads and stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp.web import Application

from tokenproxy import __version__, audit, dumps, log, parts, stores
from tokenproxy import config as configs
from tokenproxy.admin.api import Desk, metrics_app, socket_app, tcp_app
from tokenproxy.admin.dashboard.history import History
from tokenproxy.admin.dashboard.pages import Dashboard
from tokenproxy.admin.dashboard.sight import Sight
from tokenproxy.admin.exposition import Exposition
from tokenproxy.admin.health import Health
from tokenproxy.admin.server import Running, serve_tcp, serve_unix
from tokenproxy.admin.token import AdminToken
from tokenproxy.audit import AuditLog
from tokenproxy.config import Admin, Config, MetricsListener
from tokenproxy.core.interfaces import Accounts, Logins, Spool, Store
from tokenproxy.core.settings import Listen
from tokenproxy.errors import StoreError, TokenproxyError
from tokenproxy.metrics import Metrics
from tokenproxy.oauth import scheduler
from tokenproxy.oauth.accounts import OperatorAccounts
from tokenproxy.oauth.issuers import Issuers
from tokenproxy.oauth.signer import Prover
from tokenproxy.oauth.source import Source
from tokenproxy.oauth.state import LoginState
from tokenproxy.oauth.tasks import Tasks
from tokenproxy.proxy import (
    NONE_PASSED,
    Change,
    Passed,
    Plane,
    Refusal,
    RequestLog,
    ServerContext,
)
from tokenproxy.systemd import Notifier, take_sockets

if TYPE_CHECKING:
    from tokenproxy.doctor import Finding

_log = logging.getLogger("tokenproxy")

KEPT_FREE: Final = 4 * 2**20
"""Bytes of freed memory that are kept for the next bodies."""
YOUNG: Final = 20_000
"""Objects that may be new before a search for cycles: a thousand requests under way, which leave none, cause no search."""
RECOVERY_PATIENCE: Final = 40.0
"""Seconds after which the process counts as started although a renewal in doubt still waits for its provider."""


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
        self.clock = parts.SystemClock()
        self._environ = environ
        self._passed = passed
        self.notifier = notifier or Notifier({})
        self._stack = stack
        self._tasks = Tasks()
        self._admin_token: AdminToken
        self._audit: AuditLog | None = None
        self._by_tcp: dict[str, Running] = {}
        """The admin side's listeners that may speak TLS."""
        self._shown: dict[str, ServerContext | None] = {}
        """What these make handshakes with."""
        self._changing = asyncio.Lock()
        self.ending = asyncio.Event()
        """Somebody asked for the end."""
        self._recent = log.keep_recent()
        self._started = self.clock.monotonic()
        self.history = History(self.metrics, self.clock) if config.admin.dashboard else None
        self.store: Store
        self._spool: Spool
        self.source: Source
        self.accounts: Accounts
        self.state: LoginState
        self.logins: Logins
        self._plane: Plane
        self._issuers: Issuers

    # -- start ---------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        config = self.config
        log.count_into(self.metrics.log_events)
        if self.history is not None:
            self._stack.callback(log.listen(self.history.timeline.hear))
        parts.hide_secrets(config)
        self._use_audit(self._audit_of(config))
        parts.check_tls(config)
        parts.check_keys(config)
        self.store = await parts.open_store(config.store, self._environ, self.metrics)
        self._stack.push_async_callback(self.store.close)
        self._spool = await parts.open_spool(config.store, self._environ)
        self._take_admin_token(await asyncio.to_thread(parts.admin_token, config))
        tracing = await asyncio.to_thread(parts.tracing, config, self._environ)
        if tracing is not None:
            self._stack.push_async_callback(asyncio.to_thread, tracing.close)
        endpoint = parts.endpoint(config, self._environ)
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
            jitter=parts.jitter,
            lease=timedelta(seconds=config.store.shared.lease),
            watch=tracing.renewal if tracing is not None else None,
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
        logins = self.logins = parts.login_desk(
            lambda: self.config,
            source=self.source,
            store=self.store,
            endpoint=endpoint,
            clock=self.clock,
            accounts=self.accounts,
        )
        self._stack.push_async_callback(logins.close)
        self._issuers = parts.issuers(config, self._environ, endpoint, self.clock)
        self._stack.push_async_callback(self._issuers.close)
        self._issuers.configure(config.issuers)
        self._plane = Plane(
            parts.plane_settings(config),
            source=self.source,
            prover=Prover(self.clock),
            clock=self.clock,
            metrics=self.metrics,
            on_request=_request_log(config),
            recent=self.history.recent.rows if self.history is not None else None,
            values=self.state,
            passed=self._passed,
            tokens=self._issuers,
            tracing=tracing,
        )
        self._plane.on_refused = self._refusals()
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
        if self.history is not None:
            remembering = self._tasks.start(self.history.run(), name="history")
            self._stack.callback(remembering.cancel)
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
        )
        pages = parts.login_pages(lambda: self.config, self.logins)
        app = tcp_app(
            desk, parts.guard(config), pages, self._dashboard(), reads_freely=parts.admin_is_local(config)
        )
        self.health.checks = {
            "store": self._check_store,
            "tokens": self._check_unstored,
            "audit": self._check_audit,
        }
        await self._admin("socket", serve_unix(socket_app(desk), parts.socket_path(config)))
        await self._admin_by_tcp("admin", app, config.admin)
        if config.metrics.listen:
            await self._admin_by_tcp("metrics", metrics_app(desk), config.metrics)
        self._stack.push_async_callback(self._drain)
        await self._open(self._plane.prepared(_ways_in(config)))

    def _dashboard(self) -> Dashboard | None:
        if self.history is None:
            return None
        return Dashboard(
            Sight(
                accounts=self.accounts,
                logins=self.logins,
                operations=self,
                health=self.health,
                history=self.history,
                token=lambda: self._admin_token,
                clock=self.clock,
                routes=lambda: self.config.routes,
                tables=lambda: self.config.accounts,
                metrics=self.metrics,
                store=self.store,
                store_name=self.config.store.name,
                unstored=lambda: self.source.unstored,
                in_flight=lambda: self.in_flight,
                examine=self._examine,
                public_url=self.config.admin.public_url,
                insecure_http=self.config.admin.insecure_http,
            )
        )

    async def _open(self, change: Change) -> None:
        """Take callers where the config says now, and tell what that changes."""
        ways = ("proxy", "forward_auth")
        before = {name: address for name, address in self.addresses.items() if name.startswith(ways)}
        found = await self._plane.open(change)
        asked_at = self._plane.asked_at
        after = _numbered("proxy", [each for each in found if each not in asked_at])
        after |= _numbered("forward_auth", asked_at)
        for name, address in before.items():
            del self.addresses[name]
            if address not in after.values():
                log.event(_log, "listener_closed", name=name, address=address)
        self.addresses |= after
        for name, address in after.items():
            if address not in before.values():
                log.event(_log, "listening", name=name, address=address)

    async def _admin_by_tcp(self, name: str, app: Application, said: Admin | MetricsListener) -> None:
        context = self._shown[name] = parts.admin_contexts(self.config)[name]
        serving = serve_tcp(app, said.listen or "", key=f"{name}.listen", context=context)
        self._by_tcp[name] = await self._admin(name, serving)

    async def _admin(self, name: str, serving: Awaitable[Running]) -> Running:
        running = await serving
        self._stack.push_async_callback(running.close)
        self.addresses[name] = running.address
        log.event(_log, "listening", name=name, address=running.address)
        return running

    def _take_admin_token(self, token: AdminToken) -> None:
        log.register_secret(token.value, lasting=True)
        self._admin_token = token

    async def _examine(self, offline: bool) -> Sequence[Finding]:  # noqa: FBT001 - one question
        """What ``doctor`` finds, asked of the inside."""
        from tokenproxy import doctor  # hardly any process needs it

        @asynccontextmanager
        async def visit() -> AsyncIterator[doctor.House]:
            yield self

        case = doctor.Case(
            config=self.config,
            environ=self._environ,
            visit=visit,
            running=await self.info(),
            offline=offline,
            now=self.clock.now,
        )
        return await doctor.examine(case)

    @property
    def admin_token_place(self) -> str:
        """Where a person finds the admin token."""
        return self._admin_token.place

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

    async def _check_audit(self) -> str | None:
        why = audit.unavailable()
        return f"the audit log cannot be written: {why}" if why else None

    # -- the audit log -------------------------------------------------------------------------------------------

    def _audit_of(self, config: Config) -> AuditLog | None:
        """Raises ``TokenproxyError`` where its file cannot be opened."""
        if not config.audit.file:
            return None
        return AuditLog(config.audit, monotonic=self.clock.monotonic, counts=self.metrics.audit)

    def _use_audit(self, found: AuditLog | None) -> None:
        before, self._audit = self._audit, found
        audit.use(found)
        audit.record("audit_begun")
        if before is not None:
            before.close()

    def _refusals(self) -> Callable[[Refusal], None] | None:
        """What the data plane calls for each request that it refuses."""
        if self._audit is None:
            return None

        def tell(refusal: Refusal) -> None:
            audit.record("caller_refused", listener="proxy", **{**asdict(refusal), "actor": "caller"})

        return tell

    def end_audit(self) -> None:
        """After the last word."""
        self._use_audit(None)

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
        fresh = None
        if self._audit is not None:
            self._audit.reopen()  # also where the config has mistakes: logrotate knows nothing of those
        try:
            reading = configs.begin(self.config.path, self._environ)
            new = await asyncio.to_thread(reading.result)
            parts.check_tls(new)
            parts.check_keys(new)
            token = await asyncio.to_thread(parts.admin_token, new)
            contexts = parts.admin_contexts(new)
            fresh = self._audit_of(new) if new.audit != self.config.audit else None
            change = self._plane.prepared(_ways_in(new))
            try:
                self._plane.swap(parts.plane_settings(new))
            except BaseException:
                change.abandon()
                raise
        except TokenproxyError as error:
            if fresh is not None:
                fresh.close()
            self.metrics.reloads["failed"] += 1
            log.event(_log, "config_reload_failed", detail=error.message)
            raise
        for name, running in self._by_tcp.items():  # certificates as they lie there now
            before, context = self._shown[name], contexts[name]
            if before is not None and context is not None:
                running.show(context, anew=context.trusts != before.trusts)
                self._shown[name] = context
        self._issuers.configure(new.issuers)
        change.leave()  # before a caller of a listener that is gone sends anything under the new rules
        restart = parts.restart_needed(self._begun_with, new)
        if change.waiting:
            restart.insert(0, "server.listen")
        if new.audit != self.config.audit:
            self._use_audit(fresh)
            self._plane.on_refused = self._refusals()
        self.config = new
        parts.hide_secrets(new)
        self._take_admin_token(token)
        self.source.configure(new.accounts, new.renew)
        self._plane.tell_requests(_request_log(new))
        log.setup(new.log.level, new.log.format)
        await self._open(change)
        self.metrics.reloads["ok"] += 1
        self.metrics.last_reload_success = time.time()
        log.event(_log, "config_reloaded", routes=len(new.routes), restart_needed=restart)
        return {"routes": len(new.routes), "accounts": len(new.accounts), "restart_needed": restart}

    async def rotate_keys(self) -> dict[str, Any]:
        async with self._changing:
            return await parts.rotate_keys(self.store, self._spool, self.config.store, self._environ)

    async def backup(self, path: str) -> dict[str, Any]:
        found = {"path": path, "accounts": await stores.backup_store(self.store, Path(path))}
        log.event(_log, "store_copied", path=path)
        return found

    async def verify(self) -> dict[str, Any]:
        return await stores.verify_store(self.store)

    async def examine(self) -> dict[str, Any]:
        return {"findings": [asdict(each) for each in await self._examine(offline=False)]}

    async def stop(self) -> dict[str, Any]:
        self.ending.set()
        return {"pid": os.getpid(), "in_flight": self.in_flight}

    async def logs(self, *, after: int, wait: float) -> dict[str, Any]:
        loop, come = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # a thread's last line, when the loop is closed
                loop.call_soon_threadsafe(come.set)

        self._recent.tell(tell)
        try:
            lines, count, missed = self._recent.behind(after)
            if not lines and wait:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await come.wait()
                lines, count, missed = self._recent.behind(after)
        finally:
            self._recent.forget(tell)
        return {"lines": lines, "next": count, "missed": missed}

    async def info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(self.clock.monotonic() - self._started, 3),
            "listeners": dict(self.addresses),
            "config": str(self.config.path),
        }


def _ways_in(config: Config) -> tuple[Listen, ...]:
    return (*config.server.listen, *config.forward_auth.listen)


def _numbered(name: str, addresses: list[str]) -> dict[str, str]:
    return {
        f"{name}-{number}" if number > 1 else name: each for number, each in enumerate(addresses, start=1)
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
        app.end_audit()
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
    dumps.forbid_for_all()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    passed, notifier = take_sockets(environ), Notifier(environ)
    app = await start(config, environ=environ, passed=passed, notifier=notifier)
    stop, tasks = app.ending, Tasks()

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
        audit.ACTOR.set(audit.Actor("signal"))
        notifier.stopping()
        log.event(_log, "stopping", in_flight=app.in_flight)
    finally:
        await app.close()
        await tasks.finish(patience=0)
        notifier.close()
        log.event(_log, "stopped")
        app.end_audit()
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
    audit.ACTOR.set(audit.Actor("signal"))
    with suppress(TokenproxyError):  # told by ``reload`` itself
        await app.reload()


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.event(_log, "unexpected_error", error=error, where=context.get("message", ""))
