"""One caller on a blocking socket: what it costs is next to nothing, and it sees each byte."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final

PIECE: Final = bytes(2**20)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def get(path: str, host: str = "localhost") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def read(connection: socket.socket, seen: Callable[[], None] = lambda: None) -> int:
    """A whole answer, which must be a 200; ``seen`` is called about every 32 MiB. Bytes of its body."""
    head, blank, rest = b"", b"", b""
    while not blank:
        piece = connection.recv(65536)
        if not piece:
            raise SystemExit("the connection ended before an answer")
        head, blank, rest = (head + rest + piece).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit("the answer is not 200: " + head.decode("latin-1"))
    lower = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lower:
        while not rest.endswith(b"0\r\n\r\n"):
            rest += connection.recv(2**20)
        return len(rest)
    length = int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
    got, told, space = len(rest), 0, bytearray(2**20)
    while got < length:
        count = connection.recv_into(space)
        if not count:
            raise SystemExit(f"the answer ended after {got:,} of {length:,} bytes")
        got += count
        if got - told > 2**25:
            told = got
            seen()
    return got


def download(port: int, path: str, seen: Callable[[], None]) -> float:
    """Seconds for the whole of it."""
    with connect(port) as connection:
        began = time.perf_counter()
        connection.sendall(get(path))
        read(connection, seen)
        return time.perf_counter() - began


def upload(port: int, path: str, size: int, seen: Callable[[], None]) -> float:
    """Seconds until the answer to a request with so large a body."""
    with connect(port) as connection:
        began = time.perf_counter()
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        for number in range(size // len(PIECE)):
            connection.sendall(PIECE)
            if not number % 32:
                seen()
        read(connection)
        return time.perf_counter() - began


def ask(connection: socket.socket, path: str) -> float:
    """Seconds until the whole answer is there."""
    began = time.perf_counter()
    connection.sendall(get(path))
    read(connection)
    return time.perf_counter() - began
