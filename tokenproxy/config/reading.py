"""What the readers of all tables share: the report, the folder, and the secrets."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenproxy.config.lines import Keys
from tokenproxy.config.models import TLS
from tokenproxy.config.secrets import SecretError, Secrets
from tokenproxy.config.words import Report, shown
from tokenproxy.core.settings import TLSFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One config file while it is read."""

    report: Report
    base: Path
    secrets: Secrets
    literals: list[Keys] = field(default_factory=list)
    """Where the file itself holds a secret."""

    def tables(self, raw: Mapping[str, Any], section: str) -> dict[str, Any]:
        """``[accounts.*]`` and its like: the tables by name, as raw as they came."""
        found = raw.get(section, {})
        if isinstance(found, dict):
            return found
        self.report.problem((section,), f"must hold tables [{section}.NAME], got {shown(found)}")
        return {}

    def secret(self, source: str, keys: Keys) -> str:
        """The secret, or "" when it cannot be had, which is told then."""
        if source.startswith("literal:") and self.report.in_file(keys):
            self.literals.append(keys)
        before = set(self.secrets.readable)
        try:
            return self.secrets.open(source)
        except SecretError as failed:
            self.report.problem(keys, str(failed))
            return ""
        finally:
            self._tell_readable(self.secrets.readable - before, keys)

    def guarded(self, path: Path, keys: Keys) -> None:
        """A file with a secret that somebody else will read: nobody may change it, and better nobody see it."""
        before = set(self.secrets.readable)
        try:
            self.secrets.check_file(path)
        except SecretError as failed:
            self.report.problem(keys, str(failed))
        self._tell_readable(self.secrets.readable - before, keys)

    def _tell_readable(self, paths: Iterable[Path], keys: Keys) -> None:
        for path in sorted(paths):
            name = shlex.quote(str(path))
            self.report.warning(keys, f"{path} can be read by others on this machine: chmod 600 {name}")

    def tls(self, table: TLS, keys: Keys) -> TLSFiles:
        """The files of a ``tls`` table, which must exist; what is in them is the TLS code's business."""
        for name in ("ca_file", "cert_file"):
            given = getattr(table, name)
            if given and not (self.base / given).is_file():
                self.report.problem((*keys, name), f"no such file: {self.base / given}")
        if table.key_file:
            self.guarded(self.base / table.key_file, (*keys, "key_file"))
        if table.key_file and not table.cert_file and self.report.sound(*keys, "cert_file"):
            self.report.problem((*keys, "key_file"), "needs cert_file beside it")
        return tls_files(table, self.base)


def tls_files(table: TLS, base: Path) -> TLSFiles:
    """Absolute paths; empty stays empty."""
    return TLSFiles(
        **{
            name: str(base / getattr(table, name)) if getattr(table, name) else ""
            for name in ("ca_file", "cert_file", "key_file")
        }
    )
