"""Where token sets live: a store is opened from one string, whose scheme names the kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tokenproxy.core.interfaces import Spool, Store
from tokenproxy.errors import StoreError
from tokenproxy.metrics import StoreMetrics
from tokenproxy.stores.cipher import key_id, new_key, parse_keys
from tokenproxy.stores.keyfile import create_key_file, finish_key_file, read_key_file, rotate_key_file
from tokenproxy.stores.spool import FileSpool, spool_folders

__all__ = [
    "create_key_file",
    "finish_key_file",
    "key_id",
    "new_key",
    "open_spool",
    "open_store",
    "parse_keys",
    "read_key_file",
    "rotate_key_file",
    "spool_folders",
    "store_exists",
    "store_path",
]


async def open_store(url: str, keys: Sequence[bytes], *, metrics: StoreMetrics | None = None) -> Store:
    """
    ``sqlite:PATH`` or ``memory:``; ``keys`` of 32 bytes, the first seals, all open (``memory:`` needs none).

    Raises ``StoreError``; of its kinds ``StoreLockedError`` while another process has it open, ``SealError`` when no
    key fits.
    """
    scheme, _, rest = url.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None:
        known = " and ".join(f"{each}:" for each in _OPENERS)
        raise StoreError(
            f"there is no store of the kind {scheme or 'without a name'!r}; known are {known}",
            next_step="set store.url, for example to sqlite:tokenproxy.db",
        )
    return await opener(rest, keys, metrics or StoreMetrics())


def open_spool(url: str, keys: Sequence[bytes], folders: Sequence[Path]) -> Spool:
    """Beside the store of this url, which is bound into what it keeps; a store in memory has one in memory."""
    if url.startswith("memory:"):
        from tokenproxy.stores.memory import MemorySpool

        return MemorySpool()
    return FileSpool(folders, keys, store=url)


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


async def _open_sqlite(rest: str, keys: Sequence[bytes], metrics: StoreMetrics) -> Store:
    from tokenproxy.stores.sqlite import open_sqlite

    return await open_sqlite(_path(rest), keys, metrics=metrics)


async def _open_memory(rest: str, keys: Sequence[bytes], metrics: StoreMetrics) -> Store:  # noqa: ARG001 - one shape
    from tokenproxy.stores.memory import MemoryStore

    return MemoryStore()


_OPENERS: Final[Mapping[str, Callable[[str, Sequence[bytes], StoreMetrics], Awaitable[Store]]]] = {
    "sqlite": _open_sqlite,
    "memory": _open_memory,
}
