"""The config, what lies beside the store, and the disks that they are on."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenproxy import config as configs
from tokenproxy import parts, stores
from tokenproxy.core.provider import AUTHORIZATION_CODE, LOGIN_GRANTS, CallbackPath
from tokenproxy.doctor.finding import Case, Finding, bad, good, warn
from tokenproxy.errors import Problem, StoreError, TokenproxyError

_VOLATILE: Final = {"tmpfs": "tmpfs", "ramfs": "ramfs", "overlay": "overlayfs", "aufs": "aufs"}
_ELSEWHERE: Final = re.compile(
    r"nfs\d?|cifs|smb\w*|ceph|glusterfs|9p|afs|lustre|fuse\.(?:sshfs|s3fs|gcsfuse|glusterfs|rclone|ceph\w*)"
)
_OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MIB: Final = 2**20
LEAST_FREE: Final = 8 * _MIB
"""Bytes without which SQLite's log and a backup soon do not fit."""
LITTLE_FREE: Final = 128 * _MIB


# -- the config --------------------------------------------------------------------------------------------------------


def config_file(case: Case) -> Iterator[Finding]:
    config = case.config
    routes = f"{len(config.routes)} route{'' if len(config.routes) == 1 else 's'}"
    accounts = f"{len(config.accounts)} account{'' if len(config.accounts) == 1 else 's'}"
    problems = list(beyond_the_file(config, case.environ))
    if not problems:
        yield good("config", f"{config.path.name}, {accounts}, {routes}")
    for code, problem in problems:
        yield bad(code, "config", str(problem), "correct it, then: tokenproxy check")
    for warning in (*config.warnings, *mixable(config)):
        yield warn("config_warning", "config", str(warning), "tokenproxy check")
    if config.path.stat().st_mode & _OTHERS_WRITE:
        yield warn(
            "config_writable",
            "config",
            f"others may write {config.path.name}, and so send your tokens where they like",
            f"chmod go-w {shlex.quote(str(config.path))}",
        )


def beyond_the_file(config: configs.Config, environ: Mapping[str, str]) -> Iterator[tuple[str, Problem]]:
    """What only shows when it is used: certificates, private keys, and the store's keys; each with a finding's code."""
    for code, check in (("tls_files", parts.check_tls), ("key_files", parts.check_keys)):
        try:
            check(config)
        except TokenproxyError as error:
            yield code, Problem("", error.message)
    path = config.store.keys[0].path
    if len(config.store.keys) == 1 and path is not None and not path.exists():
        if config.store.database:
            yield (
                "key_missing",
                Problem(
                    "store.key", f"there is no {path}; copy it from another replica, or: tokenproxy key new"
                ),
            )
        elif config.store.path.exists():
            yield (
                "key_missing",
                Problem("store.key", f"the store {config.store.path} is there, but its key {path} is not"),
            )
        return  # the first start makes it
    try:
        configs.read_keys(config.store, environ)
    except StoreError as error:
        yield "key_unusable", Problem("store.key", error.message.removeprefix("store.key "))


def mixable(config: configs.Config) -> Iterator[Problem]:
    """
    Providers that could be sent another one's code: all come back to one address, and nothing says whose it is.

    RFC 9700 section 4.4: an address for each account tells them apart, or ``iss`` in the answer does.
    """
    shared = {
        account.provider.name: account.provider
        for account in config.accounts.values()
        if account.grant == AUTHORIZATION_CODE and account.provider.callback.path is CallbackPath.SHARED
    }
    for name, provider in shared.items():
        if len(shared) > 1 and not (provider.callback.iss and provider.issuer):
            others = ", ".join(sorted(shared.keys() - {name}))
            yield Problem(
                f"providers.{name}.callback.path",
                f"is shared with {others}, whose codes {name} could be sent: use another path, or callback.iss",
            )


# -- secrets -----------------------------------------------------------------------------------------------------------


def key(case: Case) -> Iterator[Finding]:
    for spec in case.config.store.keys:
        if spec.path is None:
            yield good("key", f"from {spec.source.partition(':')[0]}:")
            continue
        if not spec.path.exists():
            yield good("key", f"there is no {spec.path.name} yet; the first start makes it")
            continue
        mode = stat.S_IMODE(spec.path.stat().st_mode)
        if mode & _OTHERS_READ:
            yield warn(
                "key_readable",
                "key",
                f"others may read {spec.path.name} (mode {mode:04o}): with the store it opens every login",
                f"chmod 600 {shlex.quote(str(spec.path))}",
            )
        else:
            yield good("key", f"file {spec.path.name}, mode {mode:04o}")


def admin_token(case: Case) -> Iterator[Finding]:
    path = parts.admin_token_path(case.config)
    if case.config.admin.token:
        yield good("admin token", "given by admin.token of the config")
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        yield good("admin token", "none yet; the first start of serve makes it")
        return
    if mode & (_OTHERS_READ | _OTHERS_WRITE):
        yield warn(
            "admin_token_readable",
            "admin token",
            f"others may read or write {path.name} (mode {mode:04o}), and so log accounts in and out",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    else:
        yield good("admin token", f"file {path.name}, mode {mode:04o}")


def secrets(case: Case) -> Iterator[Finding]:
    """Whoever may look at the process, and whatever it starts, sees its environment."""
    found = sorted({*_env_words(case.config.path), *_env_values(case.environ)})
    if found:
        yield warn(
            "secret_in_environment",
            "secrets",
            f"in the environment, which child processes and crash reports show: {', '.join(found[:8])}"
            + (f" and {len(found) - 8} more" if len(found) > 8 else ""),
            "keep them in files (file:, mode 0600) or credentials (systemd:)",
        )
    else:
        yield good("secrets", "none in the environment")


def _env_words(path: Path) -> Iterator[str]:
    """The variables that ``env:`` names in the file."""
    raw = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    for text in _texts(raw):
        if text.startswith("env:"):
            yield text.removeprefix("env:")


def _env_values(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if name.upper().startswith("TOKENPROXY_") and value.startswith(("literal:", "env:")):
            yield name if value.startswith("literal:") else value.removeprefix("env:")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


# -- where the store lies ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    """As the kernel calls the file system: ``ext4``, ``overlay``, ``nfs4``."""


def mounts(text: str) -> list[Mount]:
    """Of ``/proc/self/mountinfo`` (proc(5)); what is mounted last counts."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) > 4 and kinds:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            found.append(Mount(point, kinds[0]))
    return found


def mount_of(path: Path, found: list[Mount]) -> Mount | None:
    """The one that a path lies on: the deepest, and of the same depth the last."""
    best: Mount | None = None
    for each in found:
        inside = path == Path(each.point) or Path(each.point) in path.parents
        if inside and (best is None or len(each.point) >= len(best.point)):
            best = each
    return best


def store_place(case: Case) -> Iterator[Finding]:
    settings = case.config.store
    if settings.database:
        return
    folder = settings.path.parent
    if not folder.is_dir():
        remedy = f"mkdir -m 700 {shlex.quote(str(folder))}, or set store.url"
        yield bad("store_folder", "store", f"there is no folder {folder}, and serve does not make it", remedy)
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = f"give the user that runs serve the right to write {folder}"
        yield bad(
            "store_folder", "store", f"this user may not write to the folder {folder}, as SQLite must", remedy
        )
    try:
        found = mount_of(folder.resolve(), mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8")))
    except OSError:  # another system than Linux, or a very narrow sandbox
        return
    if found is not None:
        yield from judge_place(case, found)


def judge_place(case: Case, mount: Mount) -> Iterator[Finding]:
    """What the file system under the store means for its logins."""
    name = case.config.store.path.name
    if mount.kind in _VOLATILE:
        lost = _lost_with_the_store(case)
        kind = _VOLATILE[mount.kind]
        when = "the machine restarts" if kind in {"tmpfs", "ramfs"} else "the container is replaced"
        sentence = f"{name} lies on {kind}: gone when {when}."
        if lost:
            yield warn(
                "store_volatile",
                "store",
                f"{sentence}\n{lost}",
                "Mount a volume at the store's folder, or use PostgreSQL.",
            )
        else:
            yield good("store", f"{sentence} No account needs a person's login, so that nothing is lost.")
    elif _ELSEWHERE.fullmatch(mount.kind):
        yield warn(
            "store_network",
            "store",
            f"{name} lies on a network file system ({mount.kind}), whose locks may let a second serve in.",
            "Keep the file on a local disk, or use PostgreSQL.",
        )
    else:
        yield good("store", f"{name} lies on {mount.kind}")


def _lost_with_the_store(case: Case) -> str:
    """Whose login it would cost; "" where nobody logs in."""
    logins = [each for each in case.config.accounts.values() if each.grant in LOGIN_GRANTS]
    rotating = [each.name for each in logins if each.provider.rotation in {"always", "sometimes"}]
    if rotating:
        some = _some(rotating)
        verb, lost = ("rotates its", "the login") if len(rotating) == 1 else ("rotate their", "the logins")
        return f"{some} {verb} refresh token, so {lost} would be lost."
    return f"The login of {_some([each.name for each in logins])} would be lost with it." if logins else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# -- disks -------------------------------------------------------------------------------------------------------------


def disks(case: Case) -> Iterator[Finding]:
    """Where tokens and kept bodies go; each disk once."""
    seen: set[int] = set()
    for what, folder in _folders(case):
        try:
            device = folder.stat().st_dev
            free = os.statvfs(folder)
        except OSError:  # told by whoever needs it
            continue
        if device in seen:
            continue
        seen.add(device)
        yield judge_disk(
            what, folder, free=free.f_bavail * free.f_frsize, whole=free.f_blocks * free.f_frsize
        )


def _folders(case: Case) -> Iterator[tuple[str, Path]]:
    settings = case.config.store
    if not settings.database:
        yield "the store", settings.path.parent
    for folder in stores.spool_folders(settings.path, settings.spool):
        yield "the spool", folder if folder.is_dir() else folder.parent
    directory = case.config.replay.directory or case.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - asked, not written
    yield "bodies kept for a replay", Path(directory)


def judge_disk(what: str, folder: Path, *, free: int, whole: int) -> Finding:
    shown = f"{free // _MIB:,} MiB free for {what} ({folder})"
    remedy = f"make room on the disk of {folder}"
    if free < LEAST_FREE:
        return bad("disk_full", "disk", f"{shown}: a renewed token soon cannot be stored", remedy)
    if free < LITTLE_FREE or free * 50 < whole:
        return warn("disk_nearly_full", "disk", shown, remedy)
    return good("disk", shown)
