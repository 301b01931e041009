"""
Reads a config in a process of its own, for ``serve``.

pydantic and its models take 10 MB that no process gives back, and ``serve`` needs them for a moment in months. The
child begins before the parent's own imports and is done when they are, so that it costs no time either.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenproxy import dumps
from tokenproxy.config.values import Config
from tokenproxy.errors import ConfigError


class Reading:
    """A config file that is being read."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._path = path
        self._environ = dict(environ)
        # The parent's sys.path as it is: neither the folder that we stand in nor PYTHON* variables may change it.
        code = f"import sys; sys.path[:] = {sys.path!r}; from tokenproxy.config import apart; apart.main()"
        self._process = _started([sys.executable, "-I", "-S", "-c", code, str(path)], self._environ)

    def result(self) -> Config:
        """Wait for it; raises ``ConfigError``. What the child could not do is done here, with its own error."""
        said = b""
        if self._process is not None:
            said, _ = self._process.communicate()
        if self._process is None or self._process.returncode != 0:
            from tokenproxy.config import reader

            return reader.load(self._path, self._environ)
        found = pickle.loads(said)  # noqa: S301 - from our own child, by a pipe that nobody else has
        if isinstance(found, Config):
            return found
        source, problems, next_step = found
        error = ConfigError(source, problems)
        error.next_step = next_step
        raise error


def _started(words: list[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """None where no process may be made: too many of them, or a sandbox."""
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
            words,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None


def main() -> None:
    """The child: the config, or what is wrong with it, pickled on standard output."""
    dumps.forbid()
    from tokenproxy.config import reader

    found: Config | tuple[Any, ...]
    try:
        found = reader.load(Path(sys.argv[1]), os.environ)
    except ConfigError as error:
        found = (error.source, error.problems, error.next_step)
    sys.stdout.buffer.write(pickle.dumps(found))


def _rebuilt(items: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(items)


copyreg.pickle(MappingProxyType, lambda proxy: (_rebuilt, (dict(proxy),)))
