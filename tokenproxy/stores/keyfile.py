"""
The file with the store's keys: one a line in base64, the first seals, all open.

Made with 0600 and synced before anything is sealed with it; replaced by a rename, so that a crash leaves the old file or
the new one. A rotation is: ``rotate_key_file``, ``Store.use_keys``, ``Store.reseal``, ``finish_key_file``; broken off
anywhere, every row still opens with a key of the file, and starting over is right.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tokenproxy.errors import StoreError
from tokenproxy.stores.cipher import new_key, parse_keys


def create_key_file(path: Path) -> str:
    """Make a key file with one new key and give the key's text; ``StoreError`` if the file is there already."""
    key = new_key()
    with _explained(path, "made"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                _write(file, f"{key}\n")
        except BaseException:
            path.unlink()
            raise
        sync_directory(path.parent)
    return key


def read_key_file(path: Path) -> list[bytes]:
    """The keys in it, the sealing one first."""
    with _explained(path, "read"):
        return parse_keys(path.read_text(encoding="utf-8"))


def rotate_key_file(path: Path) -> str:
    """Put a new key before the others and give its text; the old ones stay until ``finish_key_file``."""
    key = new_key()
    with _explained(path, "replaced"):
        old = path.read_text(encoding="utf-8")
        parse_keys(old)
        _replace(path, f"{key}\n{old}")
    return key


def finish_key_file(path: Path) -> int:
    """Keep the first key only, once nothing is sealed with the others any more; how many keys were dropped."""
    with _explained(path, "replaced"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        parse_keys("\n".join(keys))
        if len(keys) > 1:
            _replace(path, f"{keys[0]}\n")
    return len(keys) - 1


def _replace(path: Path, text: str) -> None:
    """Keeps the owner and a group's read permission: a key rotated by root must still open for the service."""
    real = path.resolve()  # a rename onto a symbolic link would leave the keys where the link points
    before = real.stat()
    descriptor, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, 0o600 | before.st_mode & stat.S_IRGRP)
            _write(file, text)
        Path(name).replace(real)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(real.parent)


def _write(file: TextIO, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Until then a power cut may take the new name away (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """System errors as one sentence; undecodable bytes are a wrong file, and must not be quoted."""
    try:
        yield
    except FileExistsError as error:
        raise StoreError(
            f"the key file {path} is there already", next_step="tokenproxy key rotate makes a new key in it"
        ) from error
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise StoreError(
            f"the key file {path} cannot be {doing}: {reason}",
            next_step=f"see that {path.parent} is there and yours to write, then try again",
        ) from error
    except UnicodeError:
        raise StoreError(f"{path} is not a key file", next_step="point store.key at the right file") from None
