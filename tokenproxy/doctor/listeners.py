"""Where callers, operators and browsers come in: whether the addresses are free, and whether they fit together."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from tokenproxy.admin.server import answers
from tokenproxy.config import Config
from tokenproxy.core.login import callback_address
from tokenproxy.core.provider import AUTHORIZATION_CODE, IMPLICIT
from tokenproxy.core.templates import is_loopback
from tokenproxy.doctor.finding import Case, Finding, bad, good, warn

SOON: Final = timedelta(days=14)
"""Before a certificate's end; Let's Encrypt's clients renew at 30 days."""
_LISTEN: Final = "0A"
"""TCP_LISTEN in ``/proc/net/tcp`` (proc_pid_net(5))."""
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


# -- listeners ---------------------------------------------------------------------------------------------------------


def taken(case: Case) -> Iterator[Finding]:
    """Tried by binding for a moment; what the running ``serve`` has is its own."""
    ours = set(case.listeners.values())
    for listener, address, shared in _configured(case.config):
        if address.startswith("systemd:"):
            yield good("listener", f"{listener}: systemd opens it")
        elif address in ours or (address.endswith(":0") and case.running is not None):
            yield good("listener", f"{listener}: {address}, serve has it")
        else:
            yield _free(case, listener, address, shared=shared)


def _configured(config: Config) -> Iterator[tuple[str, str, bool]]:
    """Key, address (``host:port`` with IPv6 in brackets, or ``unix:...``), whether others may have it too."""
    for number, listen in enumerate(config.server.listen):
        key = "server.listen" if len(config.server.listen) == 1 else f"server.listen[{number}]"
        yield key, listen.address, listen.shared
    yield "admin.listen", config.admin.listen, False
    if config.metrics.listen:
        yield "metrics.listen", config.metrics.listen, False


def _free(case: Case, key: str, address: str, *, shared: bool) -> Finding:
    if address.startswith("unix:"):
        return _free_socket(key, address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    try:
        _bind(host.strip("[]"), int(port), shared=shared)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return bad(
                "listener_unusable",
                "listener",
                f"{address} cannot be listened on: {os.strerror(error.errno) if error.errno else error}",
                f"Set {key} to an address of this machine and a port that this user may take.",
            )
        pid = (case.running or {}).get("pid")
        holder = holder_of(int(port))
        if pid is not None and holder.startswith(
            f"process {pid} "
        ):  # bound as another spelling of the address
            return good("listener", f"{key}: {address}, serve has it")
        by = f" by {holder}" if holder else ""
        return bad("listener_taken", "listener", f"{address} is in use{by}.", f"Set {key}, or stop it.")
    return good("listener", f"{key}: {address} is free")


def _bind(host: str, port: int, *, shared: bool) -> None:
    """As ``serve`` does it; nobody is let in, since it never listens."""
    for family, kind, protocol, _, place in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)


def _free_socket(key: str, path: str) -> Finding:
    if path.startswith("@"):
        return good("listener", f"{key}: unix:{path}")
    where = Path(path)
    if not where.parent.is_dir():
        return bad(
            "listener_unusable",
            "listener",
            f"there is no folder {where.parent} for {where.name}",
            f"mkdir -p {shlex.quote(str(where.parent))}, or set {key}",
        )
    if where.is_socket() and answers(where):
        return bad(
            "listener_taken", "listener", f"somebody answers at {path} already.", f"Set {key}, or stop it."
        )
    return good("listener", f"{key}: unix:{path} is free")


def holder_of(port: int) -> str:
    """Who listens on a TCP port here: ``process 4711 (nginx)``, else whose it is; "" where that cannot be seen."""
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes[fields[9]] = int(fields[7])
    for inode in inodes:
        for process in Path("/proc").glob("[0-9]*"):
            if _holds(process, inode):
                return f"process {process.name} ({_name_of(process)})"
    for uid in inodes.values():
        with suppress(KeyError):
            return f"a process of {pwd.getpwuid(uid).pw_name}"
    return ""


def _holds(process: Path, inode: str) -> bool:
    try:
        for each in (process / "fd").iterdir():
            with suppress(OSError):
                found = _SOCKET.fullmatch(str(each.readlink()))
                if found is not None and found[1] == inode:
                    return True
    except OSError:  # another user's, or ended meanwhile
        return False
    return False


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "ended meanwhile"


# -- the way back of browsers ------------------------------------------------------------------------------------------


def callback_addresses(config: Config) -> dict[str, str]:
    """Account -> the address to register at its provider, where a browser logs it in and the address is known."""
    if config.admin.public_url.endswith(":0"):  # any free port, known when it is taken
        return {}
    return {
        name: callback_address(config.admin.public_url, account)
        for name, account in config.accounts.items()
        if account.grant in {AUTHORIZATION_CODE, IMPLICIT}
        and (account.provider.authorize_url or account.provider.issuer)
    }


def redirect(case: Case) -> Iterator[Finding]:
    addresses = callback_addresses(case.config)
    if not addresses:
        return
    url = case.config.admin.public_url
    public = urlsplit(url)
    listen = case.listeners.get("admin", case.config.admin.listen)
    port = listen.rpartition(":")[2]
    local = is_loopback(public.hostname or "")
    if local and port.isdigit() and port != "0" and public.port not in {int(port), None}:
        yield bad(
            "public_url_mismatch",
            "redirect",
            f"browsers come back to {url}, and the admin listener is at {listen}",
            "set admin.public_url to where browsers reach admin.listen, and register the new address",
        )
    elif public.scheme == "http" and not local:
        yield warn(
            "public_url_plain",
            "redirect",
            f"browsers come back to {url} without TLS, so that codes can be read on the way",
            "put a front with TLS before it and set admin.public_url to its https address",
        )
    else:
        for account, address in sorted(addresses.items())[:20]:
            yield good("redirect", f"{account}: registered at its provider must be {address}")


# -- our own certificates ----------------------------------------------------------------------------------------------


def certificates(case: Case) -> Iterator[Finding]:
    """Those that we show: of listeners to callers, and of clients to providers and upstreams."""
    files = {listen.tls.cert_file: "callers" for listen in case.config.server.listen}
    files |= {each.tls.cert_file: "operators" for each in (case.config.admin, case.config.metrics)}
    files |= {route.upstream.tls.cert_file: "the upstream" for route in case.config.routes}
    files |= {account.provider.tls.cert_file: "the provider" for account in case.config.accounts.values()}
    for path, whom in sorted(files.items()):
        if not path:
            continue
        try:
            ends = x509.load_pem_x509_certificates(Path(path).read_bytes())[0].not_valid_after_utc
        except (OSError, ValueError):  # told by the check of the config
            continue
        yield judge_certificate("certificate", f"{path}, shown to {whom},", ends, case.now())


def judge_certificate(name: str, what: str, ends: datetime, now: datetime) -> Finding:
    remedy = "renew it; tokenproxy reload reads it again"
    if ends <= now:
        return bad("certificate_ends", name, f"{what} ended on {ends:%Y-%m-%d}", remedy)
    if ends - now < SOON:
        days = (ends - now).days
        return warn("certificate_ends", name, f"{what} ends on {ends:%Y-%m-%d}, in {days} days", remedy)
    return good(name, f"{what} is good until {ends:%Y-%m-%d}")
