"""
The admin token: what a call over TCP shows to be let change anything; the Unix socket needs none.

The config names it (``admin.token``), else a 0600 file beside the store holds it, made at the first start.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tokenproxy.errors import TokenproxyError

_BYTES: Final = 32
_LARGEST: Final = 4096
_TOKEN: Final = re.compile(rb"[!-~]{16,4096}")


@dataclass(frozen=True, slots=True)
class AdminToken:
    value: str = field(repr=False)
    place: str
    """Where a person finds it: a file, or the key of the config that names it."""

    def is_shown_by(self, authorization: Iterable[str]) -> bool:
        """Whether these ``Authorization`` fields are ``Bearer`` and the token (RFC 6750 section 2.1)."""
        lines = list(authorization)
        scheme, _, shown = lines[0].partition(" ") if len(lines) == 1 else ("", "", "")
        shown = shown.strip()
        same = hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self.value.encode())
        return same and scheme.lower() == "bearer"


def file_token(path: Path) -> AdminToken:
    """The token in this file, which is made where it is not there. Raises ``TokenproxyError``."""
    try:
        _make(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(path, f"cannot be made: {error.strerror}") from error
    return AdminToken(_read(path), place=f"the file {path}")


def _make(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _read(path: Path) -> str:
    """Whoever may write the file could make themselves the operator, so that such a one is refused."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_LARGEST + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise _unusable(path, "is no regular file")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TokenproxyError(
            f"the admin token's file {path} can be changed by others", next_step=f"chmod 600 {path}"
        )
    if not _TOKEN.fullmatch(data.strip()):
        raise _unusable(path, "holds no token of 16 or more printable characters")
    return data.strip().decode("ascii")


def _unusable(path: Path, why: str) -> TokenproxyError:
    return TokenproxyError(
        f"the admin token's file {path} {why}", next_step=f"move {path} away; the next start makes a new one"
    )
