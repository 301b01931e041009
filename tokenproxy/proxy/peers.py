"""What a connection itself says about who is at its other end: a certificate, or a process of this machine."""

from __future__ import annotations

import socket
import struct
from asyncio import BaseTransport
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

_CREDENTIALS: Final = struct.Struct("iII")
_PEERGROUPS: Final = 59
"""SO_PEERGROUPS of Linux 4.13, which Python has no name for."""
_MOST_BYTES: Final = 1024
"""Of groups, 4 each: more than Python asks for. Who is in more of them is in none of these."""


@dataclass(frozen=True, slots=True)
class Process:
    """As it was when it connected (unix(7), SO_PEERCRED): who hands the socket on later changes nothing."""

    user: int
    groups: tuple[int, ...]
    """The first is the one that it runs as, the others are those that it is in as well."""


def process_of(transport: BaseTransport) -> Process | None:
    """None where the connection is no Unix socket's, or the system does not tell."""
    held = transport.get_extra_info("socket")
    if held is None or held.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    try:
        told = held.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    _, user, group = _CREDENTIALS.unpack(told)
    more = b""
    with suppress(OSError):
        more = held.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, _MOST_BYTES)
    return Process(user, (group, *struct.unpack(f"{len(more) // 4}I", more)))


def certificate_names(transport: BaseTransport) -> Iterator[tuple[str, str]]:
    """Kind and name of what the caller's certificate says, the subject's common name last; nothing without one."""
    inner = transport.get_extra_info("ssl_object")
    found: dict[str, Any] = (inner.getpeercert() if inner is not None else None) or {}
    for kind, name in found.get("subjectAltName", ()):
        if isinstance(name, str):
            yield kind, name.lower() if kind == "DNS" else name
    common = [value for part in found.get("subject", ()) for kind, value in part if kind == "commonName"]
    if len(common) == 1:  # of several nobody can say which one is meant
        yield "CN", common[0]
