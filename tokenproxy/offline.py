"""What a command works with: a running ``serve`` over its socket, or the store itself where there is none."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tokenproxy import audit, log, parts, stores
from tokenproxy import config as configs
from tokenproxy.admin.api import pages_app
from tokenproxy.admin.client import AdminClient, LoginClient
from tokenproxy.admin.operations import LoginOperations
from tokenproxy.admin.server import answers, serve_tcp
from tokenproxy.admin.sockets import peer_pid
from tokenproxy.audit import AuditLog
from tokenproxy.config import Config
from tokenproxy.core.interfaces import Accounts, Logins, Spool, Store
from tokenproxy.errors import NotRunningError, TokenproxyError
from tokenproxy.metrics import Metrics
from tokenproxy.oauth.accounts import OperatorAccounts
from tokenproxy.oauth.source import Source

_log = logging.getLogger("tokenproxy")


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
        return await parts.rotate_keys(self._store, self._spool, self._config.store, self._environ)

    async def backup(self, path: str) -> dict[str, Any]:
        """``{"path", "accounts"}``. Raises ``StoreError``."""
        if self._client is not None:
            return await self._client.backup(path)
        assert self._store is not None  # noqa: S101 - one of the two is there
        found = {"path": path, "accounts": await stores.backup_store(self._store, Path(path))}
        log.event(_log, "store_copied", path=path)
        return found

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

    async def logs(self, *, after: int, wait: float) -> dict[str, Any]:
        """Raises ``NotRunningError`` without a ``serve``."""
        return await self._running_one().logs(after=after, wait=wait)

    async def stop(self, *, patience: float) -> dict[str, Any]:
        """
        Let ``serve`` end, and wait until it has: ``{"pid", "in_flight", "ended": whether it did within ``patience``}``.

        Raises ``NotRunningError`` without one.
        """
        client, path = self._running_one(), parts.socket_path(self._config)
        handle = await asyncio.to_thread(_handle_of, path)
        try:
            told = await client.stop()
            ended = await asyncio.to_thread(_ended, handle, path, patience)
        finally:
            if handle is not None:
                os.close(handle)
        return {**told, "ended": ended}

    @asynccontextmanager
    async def callbacks(self) -> AsyncIterator[None]:
        """
        Let browsers come back from a login for as long as the block lasts; a running ``serve`` lets them anyway.

        Raises ``TokenproxyError`` where ``admin.listen`` cannot be listened on.
        """
        if self._desk is None:
            yield
            return
        app = pages_app(parts.guard(self._config), parts.login_pages(lambda: self._config, self._desk))
        admin = self._config.admin
        context = parts.admin_contexts(self._config)["admin"]
        running = await serve_tcp(app, admin.listen, key="admin.listen", context=context)
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


async def running(config: Config, *, patience: float) -> dict[str, Any] | None:
    """What ``serve`` says of itself, with its listeners; None where none runs or it does not answer in time."""
    try:
        return await AdminClient(parts.socket_path(config), patience=patience).info()
    except TokenproxyError:
        return None


def _handle_of(path: Path) -> int | None:
    """A descriptor that tells when the process behind a socket has ended (pidfd_open(2)); None where it is not to be seen."""
    with suppress(OSError):
        pid = peer_pid(path)
        return os.pidfd_open(pid) if pid else None
    return None


def _ended(handle: int | None, path: Path, patience: float) -> bool:
    if handle is not None:
        return bool(select.select([handle], [], [], patience)[0])
    # In another namespace of processes: then its socket is what there is to see.
    deadline = time.monotonic() + patience
    while answers(path):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


@asynccontextmanager
async def operations(
    config: Config, *, environ: Mapping[str, str], create: bool = True
) -> AsyncIterator[OperatorFace]:
    """
    A running ``serve`` over its socket, else the store opened here, for as long as the block lasts.

    ``create``: make store and key where there are none; a command that only looks leaves nothing behind.
    """
    client = AdminClient(parts.socket_path(config))
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
    metrics, clock = Metrics(), parts.SystemClock()
    written = None
    if config.audit.file:
        written = AuditLog(config.audit, monotonic=clock.monotonic, late=not config.audit.required)
        audit.ACTOR.set(audit.Actor(f"command:uid={os.getuid()}"))
    audit.use(written)
    try:
        async with _opened(config, environ, create=create, metrics=metrics, clock=clock) as face:
            yield face
    finally:
        audit.use(None)
        if written is not None:
            written.close()


@asynccontextmanager
async def _opened(
    config: Config, environ: Mapping[str, str], *, create: bool, metrics: Metrics, clock: parts.SystemClock
) -> AsyncIterator[OperatorFace]:
    if create or config.store.database or stores.store_exists(config.store.url):
        store = await parts.open_store(config.store, environ, metrics)
        spool = await parts.open_spool(config.store, environ)
    else:
        store = await stores.open_store("memory:", [])
        spool = stores.open_spool("memory:", [], [])
    try:
        endpoint = parts.endpoint(config, environ)
        source = Source(
            config.accounts,
            store=store,
            spool=spool,
            endpoint=endpoint,
            clock=clock,
            metrics=metrics,
            policy=config.renew,
            jitter=parts.jitter,
            lease=timedelta(seconds=config.store.shared.lease),
        )
        accounts = OperatorAccounts(
            source, store=store, endpoint=endpoint, clock=clock, accounts=lambda: config.accounts
        )
        logins = parts.login_desk(
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


async def migrate(config: Config, to: str, *, environ: Mapping[str, str]) -> dict[str, Any]:
    """
    Move every login to the store ``to``, as ``store.url`` would name it; ``{"to", "accounts"}``.

    Nothing may use either store meanwhile. Raises ``StoreError``, ``ConfigError``.
    """
    there = await asyncio.to_thread(configs.store_at, config, to, environ)
    parts.hide_secrets(replace(config, store=there))
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
