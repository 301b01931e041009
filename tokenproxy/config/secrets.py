"""
Where a secret is kept, said in one word: ``file:``, ``env:``, ``systemd:``, ``cmd:`` or ``literal:``.

No sentence raised here holds a secret, nor what a command printed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import selectors
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tokenproxy.config.values import KeySpec, StoreSettings
from tokenproxy.config.words import either, quoted
from tokenproxy.errors import StoreError

WORDS: Final = ("file:", "env:", "systemd:", "cmd:", "literal:")
MUST_BEGIN: Final = f"must begin with {either(WORDS)}"
KEY_MUST_BEGIN: Final = f"must begin with {either(WORDS[:-1])}"
KEY_BYTES: Final = 32
_LARGEST: Final = 1024 * 1024
_COMMAND_SECONDS: Final = 10.0


class SecretError(ValueError):
    """A secret that cannot be had; its text continues a sentence that began with the key's name."""


@dataclass(slots=True, kw_only=True)
class Secrets:
    """Opens secrets; remembers what a command said, so that one load asks it once."""

    base: Path
    """Relative files and commands start here: the config file's folder."""
    environ: Mapping[str, str] = field(repr=False)
    readable: set[Path] = field(default_factory=set)
    """Files that others on this machine can read, seen so far."""
    _said: dict[str, str] = field(default_factory=dict, repr=False)

    def open(self, source: str) -> str:
        """The secret; raises ``SecretError``."""
        word, _, rest = source.partition(":")
        opener = self._openers().get(word)
        if opener is None:
            raise SecretError(MUST_BEGIN)
        if not rest.strip():
            raise SecretError(f"has nothing after {word}:")
        if source not in self._said:
            self._said[source] = opener(rest)
        if not self._said[source]:
            raise SecretError("is empty")
        return self._said[source]

    def _openers(self) -> Mapping[str, Callable[[str], str]]:
        return {
            "file": self._file,
            "env": self._env,
            "systemd": self._systemd,
            "cmd": self._cmd,
            "literal": str,
        }

    def check_file(self, path: Path) -> None:
        """Refuse a file that others may write; remember one that they may read."""
        try:
            self._judge(path, path.stat().st_mode)
        except OSError as failed:
            raise SecretError(f"cannot read {path}: {failed.strerror}") from failed

    def _judge(self, path: Path, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise SecretError(f"{path} is not a regular file")
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SecretError(f"{path} can be changed by others: chmod go-w {shlex.quote(str(path))}")
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            self.readable.add(path)

    def _file(self, rest: str) -> str:
        path = self.base / rest
        return self._contents(path, judge=lambda mode: self._judge(path, mode))

    def _systemd(self, rest: str) -> str:
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise SecretError("needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=")
        if "/" in rest or rest in {".", ".."}:
            raise SecretError("names a credential of systemd, not a path")
        return self._contents(Path(folder) / rest, judge=lambda _mode: None)  # systemd guards that folder

    def _contents(self, path: Path, *, judge: Callable[[int], None]) -> str:
        try:
            # Non-blocking, so that a pipe put in the file's place cannot stop us for good.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                judge(os.fstat(file.fileno()).st_mode)
                return _text(file.read(_LARGEST + 1))
        except OSError as failed:
            raise SecretError(f"cannot read {path}: {failed.strerror}") from failed

    def _env(self, rest: str) -> str:
        if rest not in self.environ:
            raise SecretError(f"environment variable {rest} is not set")
        return self.environ[rest]

    def _cmd(self, rest: str) -> str:
        try:
            words = shlex.split(rest)
        except ValueError as failed:
            raise SecretError("has a quote without its other half") from failed
        if not words:
            raise SecretError("names no command")
        return _text(self._output(words))

    def _output(self, words: list[str]) -> bytes:
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command, and no shell
                words,
                cwd=self.base,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as failed:
            reason = failed.strerror if isinstance(failed, OSError) else "not a command"
            raise SecretError(f"cannot run {quoted(words[0])}: {reason}") from failed
        with process:
            try:
                output = _printed(process)
            except subprocess.TimeoutExpired as late:
                raise SecretError(f"{quoted(words[0])} took longer than 10 s") from late
            finally:
                # The whole group: a grandchild that keeps the pipe open would keep us waiting too.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        if len(output) > _LARGEST:
            raise SecretError(f"{quoted(words[0])} printed more than 1 MiB")
        if process.returncode != 0:
            raise SecretError(
                f"{quoted(words[0])} ended with status {process.returncode}; run it by hand to see why"
            )
        return output


def _printed(process: subprocess.Popen[bytes]) -> bytes:
    """
    What it prints until it ends, cut just past ``_LARGEST``: one that never stops must not take all memory.

    Raises ``TimeoutExpired`` after ``_COMMAND_SECONDS``.
    """
    deadline = time.monotonic() + _COMMAND_SECONDS
    output = bytearray()
    assert process.stdout is not None  # noqa: S101 - it was asked for
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while len(output) <= _LARGEST:
            if not waiting.select(max(0.0, deadline - time.monotonic())):
                raise subprocess.TimeoutExpired(process.args, _COMMAND_SECONDS)
            piece = os.read(process.stdout.fileno(), 64 * 1024)
            if not piece:
                process.wait(max(0.0, deadline - time.monotonic()))
                break
            output += piece
    return bytes(output)


def resolve(source: str, *, base: Path, environ: Mapping[str, str]) -> str:
    """One secret, without what a load remembers; raises ``SecretError``."""
    return Secrets(base=base, environ=environ).open(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Satisfies ``core.interfaces.TokenOrigins``: secrets that are opened again and again while we run."""

    base: Path
    environ: Mapping[str, str] = field(repr=False)

    def read(self, origin: str) -> str:
        return resolve(origin, base=self.base, environ=self.environ)

    def stamp(self, origin: str) -> object:
        word, _, rest = origin.partition(":")
        if word != "file":
            return None
        try:
            found = (self.base / rest).stat()
        except OSError:
            return None
        # The inode as well: the usual way to write a token anew is to put another file in its place.
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _text(data: bytes) -> str:
    if len(data) > _LARGEST:
        raise SecretError("is longer than 1 MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise SecretError("is not UTF-8 text") from None  # the error would carry the bytes
    return text.removesuffix("\n").removesuffix("\r")


def read_keys(settings: StoreSettings, environ: Mapping[str, str]) -> list[bytes]:
    """The store's keys, 32 bytes each: the first seals, all open. Raises ``StoreError``."""
    secrets = Secrets(base=settings.base, environ=environ)
    return [key for spec in settings.keys for key in _keys_of(spec, secrets)]


def _keys_of(spec: KeySpec, secrets: Secrets) -> Iterable[bytes]:
    # A command line may hold a secret of its own; only its word is told.
    name = "cmd:" if spec.source.startswith("cmd:") else spec.source
    try:
        lines = secrets.open(spec.source).split("\n")
    except SecretError as failed:
        raise StoreError(f"store.key ({name}): {failed}") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise StoreError(f"store.key ({name}): is empty")
    for number, line in numbered:
        yield _key(line, f"store.key ({name}), line {number}" if len(numbered) > 1 else f"store.key ({name})")


def _key(line: str, name: str) -> bytes:
    step = (
        "put the right key back from its backup; where no store was sealed with it yet, move the file away, "
        "then: tokenproxy key new"
    )
    try:
        key = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        raise StoreError(f"{name}: is not base64; a key is 32 bytes in base64", next_step=step) from None
    if len(key) != KEY_BYTES:
        raise StoreError(f"{name}: has {len(key)} bytes; a key is 32 bytes in base64", next_step=step)
    return key
