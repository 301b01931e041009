"""
Where a token set goes that its provider has issued and the store does not take: a sealed file on another path.

Without it the only copy of a rotated refresh token is in memory, and a kill loses the login. Several places are tried in
turn, because what ails the store (a full disk, a mount that went read-only) often ails what lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.interfaces import Claim, Unstored
from tokenproxy.errors import SealError, StoreError
from tokenproxy.stores.cipher import Cipher, Place
from tokenproxy.stores.form import epoch, instant, tokens_from_json, tokens_to_json
from tokenproxy.stores.hanging import Mount
from tokenproxy.stores.keyfile import sync_directory

PATIENCE: Final = 1.0
"""Seconds for a write in one folder: a mount that hangs must not hold up the answer that waits for the token."""
PATIENCE_AT_START: Final = 5.0
"""Seconds to read what an earlier process left there."""
_SUFFIX: Final = ".sealed"


class FileSpool:
    """``core.interfaces.Spool`` in folders of ours, one file for each account."""

    def __init__(self, folders: Sequence[Path], keys: Sequence[bytes], *, store: str) -> None:
        """``folders`` in the order in which they are tried; ``store`` is bound into every seal."""
        self._folders = {
            folder: Mount(
                f"the spool {folder}",
                patience=PATIENCE,
                next_step="look whether that disk hangs, or name a folder on another one in store.spool",
            )
            for folder in folders
        }
        """Each with its own patience: where the first hangs as the store does, the second has to take it."""
        self._store = hashlib.sha256(store.encode()).hexdigest()[:16]
        self.use_keys(keys)

    def use_keys(self, keys: Sequence[bytes]) -> None:
        """Seal under the first of these from now on; all open."""
        self._cipher = Cipher(keys)

    async def put(self, kept: Unstored) -> None:
        name = _name(kept.claim.account)
        blob = self._cipher.seal(_to_json(kept), self._place(name))
        cause: Exception | None = None
        for folder, mount in self._folders.items():
            try:
                await mount.run(partial(_write, folder, name, blob))
            except (OSError, StoreError) as error:
                cause = error
            else:
                return
        where = ", ".join(str(folder) for folder in self._folders)
        raise StoreError(
            f"no folder of the spool takes a file ({where}): {_said(cause)}",
            next_step="name a folder that can be written in store.spool",
        ) from cause

    async def drop(self, account: str) -> None:
        failed: StoreError | None = None
        for folder, mount in self._folders.items():
            try:
                await mount.run(partial(_remove, folder / _name(account)))
            except StoreError as error:
                failed = error
            except OSError as error:
                failed = StoreError(
                    f"the spool {folder} cannot be emptied: {_said(error)}",
                    next_step="see that the folder is yours to write",
                )
        if failed is not None:
            raise failed

    async def waiting(self) -> Sequence[Unstored]:
        newest: dict[str, Unstored] = {}
        for folder, mount in self._folders.items():
            for kept in await mount.run(partial(self._read, folder), patience=PATIENCE_AT_START):
                other = newest.get(kept.claim.account)
                if other is None or other.tokens.generation < kept.tokens.generation:
                    newest[kept.claim.account] = kept
        return list(newest.values())

    async def reseal(self) -> int:
        kept = await self.waiting()
        for each in kept:
            await self.put(each)
        return len(kept)

    # in a thread

    def _read(self, folder: Path) -> Sequence[Unstored]:
        if not _is_ours(folder):
            return ()
        found = (self._opened(path) for path in sorted(folder.glob(f"*{_SUFFIX}")))
        return [each for each in found if each is not None]

    def _opened(self, path: Path) -> Unstored | None:
        """None: the store has taken it meanwhile."""
        try:
            return _from_json(self._cipher.open(path.read_bytes(), self._place(path.name)))
        except FileNotFoundError:
            return None
        except SealError as error:
            raise SealError(f"{path}: {error.message}", next_step=error.next_step) from error
        except OSError as error:
            raise StoreError(
                f"the spooled token set {path} cannot be read: {(error.strerror or 'unknown error').lower()}",
                next_step="see that the file is yours to read: it is the newest of its login",
            ) from error
        except (ValueError, KeyError, TypeError):
            # ``from None``: the cause may quote a token.
            raise StoreError(
                f"{path} was written by a tokenproxy that this one does not understand",
                next_step="run the newer tokenproxy that wrote it",
            ) from None

    def _place(self, name: str) -> Place:
        return Place(self._store, account="", generation=0, kind="spool", path=name)


def spool_folders(store: Path, named: Path | None) -> tuple[Path, ...]:
    """Those of a store's file: the one that the config names, else one beside it and one on another path."""
    if named is not None:
        return (named,)
    own = hashlib.sha256(str(store).encode()).hexdigest()[:12]
    return (
        store.with_name(f"{store.name}.spool"),
        Path("/var/tmp") / f"tokenproxy-{os.geteuid()}-{own}",  # noqa: S108 - survives a reboot; ``_is_ours`` checks it
    )


def _is_ours(folder: Path) -> bool:
    """Whether the folder is one that nobody else can have put there or can write to."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _said(cause: Exception | None) -> str:
    if isinstance(cause, StoreError):
        return cause.message
    if isinstance(cause, OSError):
        return (cause.strerror or "unknown error").lower()
    return "there is none"


def _remove(path: Path) -> None:
    if _is_ours(path.parent):
        path.unlink(missing_ok=True)


def _write(folder: Path, name: str, blob: bytes) -> None:
    """The whole file or none, and on the disk when it returns."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(0, f"{folder} is not ours alone")
    descriptor, part = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(folder / name)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    sync_directory(folder)


def _name(account: str) -> str:
    """No name of an account in a folder that others may list."""
    return hashlib.sha256(account.encode()).hexdigest()[:32] + _SUFFIX


def _to_json(kept: Unstored) -> bytes:
    claim, standing = kept.claim, kept.standing
    return json.dumps(
        {
            "claim": [claim.account, claim.generation, claim.fence],
            "bound_to": kept.bound_to,
            "tokens": tokens_to_json(kept.tokens).decode(),
            "generation": kept.tokens.generation,
            "previous": kept.previous,
            "standing": [
                standing.state.value,
                standing.reason.value,
                epoch(standing.since),
                standing.fails,
                standing.error,
                epoch(standing.retry_at),
            ],
        }
    ).encode()


def _from_json(data: bytes) -> Unstored:
    """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what no release wrote."""
    fields: dict[str, Any] = json.loads(data)
    account, generation, fence = fields["claim"]
    state, reason, since, fails, error, retry_at = fields["standing"]
    return Unstored(
        claim=Claim(account, generation, fence),
        bound_to=fields["bound_to"],
        tokens=tokens_from_json(fields["tokens"].encode(), fields["generation"]),
        previous=fields["previous"],
        standing=Standing(
            state=State(state),
            reason=Reason(reason),
            since=instant(since),
            fails=fails,
            error=error,
            retry_at=instant(retry_at),
        ),
    )
