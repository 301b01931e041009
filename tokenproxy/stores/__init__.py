"""Where token sets live: a store is opened from one string, whose scheme names the kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenproxy.core.interfaces import Spool, Store
from tokenproxy.core.settings import SharedStore
from tokenproxy.errors import StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import key_id, new_key, parse_keys
from tokenproxy.stores.keyfile import create_key_file, finish_key_file, read_key_file, rotate_key_file
from tokenproxy.stores.spool import FileSpool, spool_folders

if TYPE_CHECKING:
    from tokenproxy.stores.engine import ServerFacts
    from tokenproxy.stores.rows import RowStore

__all__ = [
    "backup_store",
    "create_key_file",
    "finish_key_file",
    "key_id",
    "look_at_server",
    "migrate_store",
    "new_key",
    "open_spool",
    "open_store",
    "parse_keys",
    "read_key_file",
    "rotate_key_file",
    "spool_folders",
    "store_exists",
    "store_path",
    "verify_store",
]


async def open_store(
    url: str,
    keys: Sequence[bytes],
    *,
    metrics: StoreMetrics | None = None,
    shared: SharedStore | None = None,
    retired: bool = False,
) -> Store:
    """
    ``sqlite:PATH``, ``postgresql://...`` or ``memory:``; ``keys`` of 32 bytes, the first seals, all open.

    ``memory:`` needs no key. ``shared`` is for a store that several processes have open; ``retired``: also one whose
    logins were moved elsewhere.

    Raises ``StoreError``; of its kinds ``StoreLockedError`` while another process has it open, ``SealError`` when no
    key fits.
    """
    scheme = url.partition(":")[0]
    opener = _OPENERS.get(scheme)
    if opener is None:
        known = "sqlite:PATH, postgresql://HOST/DATABASE and memory:"
        raise StoreError(
            f"there is no store of the kind {scheme or 'without a name'!r}; known are {known}",
            next_step="set store.url, for example to sqlite:tokenproxy.db",
        )
    return await opener(url, keys, metrics or StoreMetrics(), shared or SharedStore(), retired)


def open_spool(url: str, keys: Sequence[bytes], folders: Sequence[Path]) -> Spool:
    """Beside the store of this url, which is bound into what it keeps; a store in memory has one in memory."""
    if url.startswith("memory:"):
        from tokenproxy.stores.memory import MemorySpool

        return MemorySpool()
    return FileSpool(folders, keys, store=url)


async def backup_store(store: Store, path: Path) -> int:
    """A SQLite file that the same keys open; how many accounts are in it. Raises ``StoreError``."""
    from tokenproxy.stores import moving

    return await moving.backup(_rows(store), path)


async def verify_store(store: Store) -> dict[str, Any]:
    """
    Whether every row opens, and how many there are; nothing is changed.

    Keys: ok, accounts, with_tokens, in_doubt, values, unreadable (names), damage (a sentence or "").
    """
    from tokenproxy.stores import moving

    return (await moving.verify(_rows(store))).as_dict()


async def look_at_server(url: str, shared: SharedStore) -> ServerFacts:
    """What a database server keeps of what it confirms; nothing is changed there. Raises ``StoreError``."""
    try:
        from tokenproxy.stores import postgres
    except ModuleNotFoundError as missing:
        raise _not_installed(missing) from None
    return await postgres.look_at(url, shared)


async def migrate_store(source: Store, target: Store, *, to: str) -> int:
    """Move all logins; see ``moving.migrate``."""
    from tokenproxy.stores import moving

    return await moving.migrate(_rows(source), _rows(target), to=to)


def _rows(store: Store) -> RowStore:
    from tokenproxy.stores.rows import RowStore

    if not isinstance(store, RowStore):
        raise StoreError("there is no store yet", next_step="tokenproxy serve makes it")
    return store


def store_path(url: str) -> Path | None:
    """The file of ``sqlite:PATH``; None for a store without one. ``StoreError`` for what cannot be meant."""
    scheme, _, rest = url.partition(":")
    return _path(rest) if scheme == "sqlite" else None


def store_exists(url: str) -> bool:
    """Whether there is something in it that a new key would not open; ``StoreError`` when nobody can tell."""
    path = store_path(url)
    if path is None:
        return False
    try:
        return path.exists() and path.stat().st_size > 0
    except OSError as error:
        raise StoreError(
            f"the store {path} cannot be looked at: {(error.strerror or 'unknown error').lower()}",
            next_step=f"see that the directory {path.parent} is yours to read",
        ) from error


def _path(rest: str) -> Path:
    # Elsewhere sqlite:///x is a relative path or an absolute one, depending on whom you ask; here it is neither.
    if not rest or rest.startswith("//") or rest == ":memory:":
        raise StoreError(
            f"sqlite:{rest} does not name a file",
            next_step="write sqlite:PATH, for example sqlite:tokenproxy.db or sqlite:/var/lib/tokenproxy/store.db",
        )
    return Path(rest)


async def _open_sqlite(
    url: str,
    keys: Sequence[bytes],
    metrics: StoreMetrics,
    _: SharedStore,
    retired: bool,  # noqa: FBT001 - one shape
) -> Store:
    from tokenproxy.stores.sqlite import open_sqlite

    return await open_sqlite(_path(url.partition(":")[2]), keys, metrics=metrics, retired=retired)


async def _open_postgres(
    url: str,
    keys: Sequence[bytes],
    metrics: StoreMetrics,
    shared: SharedStore,
    retired: bool,  # noqa: FBT001 - one shape
) -> Store:
    try:
        from tokenproxy.stores.postgres import open_postgres
    except ModuleNotFoundError as missing:
        raise _not_installed(missing) from None

    return await open_postgres(url, keys, metrics=metrics, settings=shared, retired=retired)


def _not_installed(missing: ModuleNotFoundError) -> Exception:
    if missing.name != "asyncpg":
        return missing
    return StoreError(
        "store.url is a PostgreSQL database, and the package for it is not installed",
        next_step="pip install 'tokenproxy[postgres]'",
    )


async def _open_memory(
    url: str,  # noqa: ARG001 - one shape
    keys: Sequence[bytes],  # noqa: ARG001
    metrics: StoreMetrics,  # noqa: ARG001
    _: SharedStore,
    retired: bool,  # noqa: ARG001, FBT001
) -> Store:
    from tokenproxy.stores.memory import MemoryStore

    return MemoryStore()


_OPENERS: Final[
    Mapping[str, Callable[[str, Sequence[bytes], StoreMetrics, SharedStore, bool], Awaitable[Store]]]
] = {
    "sqlite": _open_sqlite,
    "postgresql": _open_postgres,
    "postgres": _open_postgres,
    "memory": _open_memory,
}
