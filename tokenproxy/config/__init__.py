"""TOML -> frozen dataclasses; every mistake at once, each with its key path and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokenproxy.config.secrets import Origins, SecretError, read_keys, resolve
from tokenproxy.config.starter import starter
from tokenproxy.config.values import (
    Admin,
    Config,
    KeySpec,
    LogSettings,
    MetricsListener,
    PresetInfo,
    Server,
    StoreSettings,
)

if TYPE_CHECKING:
    from tokenproxy.config.apart import Reading

__all__ = [
    "Admin",
    "Config",
    "KeySpec",
    "LogSettings",
    "MetricsListener",
    "Origins",
    "PresetInfo",
    "SecretError",
    "Server",
    "StoreSettings",
    "begin",
    "load",
    "parse",
    "preset",
    "preset_names",
    "presets",
    "read_keys",
    "resolve",
    "starter",
    "store_at",
]

# pydantic costs more to import than everything else here, and most commands read no config: hence the late imports.


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """
    Read a config file; raises ``ConfigError`` with all that is wrong with it.

    Reads the files that secrets lie in and runs ``cmd:`` sources (10 s at most each): call it from a thread while
    a loop runs.
    """
    from tokenproxy.config import reader

    return reader.load(path, environ)


def begin(path: Path, environ: Mapping[str, str]) -> Reading:
    """``load`` in a process of its own, which ends with ``result``: what it needed is not kept in memory here."""
    from tokenproxy.config.apart import Reading

    return Reading(path, environ)


def parse(text: str, *, source: str, base: Path, environ: Mapping[str, str]) -> Config:
    """The same for a text; ``source`` names it in errors, ``base`` is where relative paths start."""
    from tokenproxy.config import reader

    return reader.parse(text, source=source, base=base, environ=environ)


def store_at(config: Config, url: str, environ: Mapping[str, str]) -> StoreSettings:
    """The store of the config as it would be with another ``store.url``; raises ``ConfigError``."""
    from tokenproxy.config import reader

    return reader.store_at(config, url, environ)


def preset_names() -> tuple[str, ...]:
    """What we ship, by the names of the files; none is read."""
    from tokenproxy.config import providers

    return providers.preset_names()


def preset(name: str) -> PresetInfo:
    """One of them; raises ``KeyError`` for an unknown name."""
    from tokenproxy.config import providers

    return providers.preset(name)


def presets() -> Mapping[str, PresetInfo]:
    """The providers that we ship, by name."""
    from tokenproxy.config import providers

    return MappingProxyType({name: providers.preset(name) for name in providers.preset_names()})
