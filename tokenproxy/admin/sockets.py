"""Paths of Unix sockets, which must be short where paths of files need not."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LONGEST_PATH: Final = 107
"""Bytes in ``sockaddr_un.sun_path`` on Linux, without the closing zero (unix(7))."""


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits into ``sockaddr_un``, through an open descriptor of its directory if need be."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def peer_pid(path: Path) -> int:
    """The process that listens there, as this one may name it (SO_PEERCRED, unix(7)); 0: it is not to be seen from here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, short_path(path) as short:
        sock.settimeout(1.0)
        sock.connect(short)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])
