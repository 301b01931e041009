"""Ask a listener whether it is well; imports nothing heavy, since ``healthcheck`` starts a process every few seconds."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tokenproxy.admin.sockets import short_path

_ANSWER: Final = 64 * 1024
_ANY: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where one connects to what listens on every address."""


def probe(address: str, timeout: float = 3.0, *, path: str = "/readyz") -> tuple[bool, str]:
    """
    Whether ``address`` answers 200, and what it says.

    ``address`` is ``host:port``, an ``http://`` or ``https://`` URL (whose path, if it has one, is asked for) or
    ``unix:/path``; nobody's certificate is checked, since nothing is sent but the question (as kubelets do it);
    ``timeout`` in seconds, for the connection and for each read.
    """
    try:
        connection, path = _connection(address, timeout, path)
    except ValueError:
        return False, f"{address} is not an address; it must look like 127.0.0.1:9100"
    try:
        connection.request("GET", path, headers={"Accept": "text/plain", "Connection": "close"})
        answer = connection.getresponse()
        text = answer.read(_ANSWER).decode(errors="replace").strip()
    except TimeoutError:
        return False, f"{address} did not answer within {timeout:g} s"
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        return False, f"nothing that speaks HTTP answers at {address} ({why})"
    finally:
        connection.close()
    return answer.status == 200, text or f"status {answer.status}"


def _connection(address: str, timeout: float, path: str) -> tuple[http.client.HTTPConnection, str]:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), timeout), path
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.scheme not in ("", "http", "https") or parts.port is None:
        raise ValueError(address)
    host = parts.hostname or ""
    asked = path if parts.path in ("", "/") else parts.path
    host = _ANY.get(host, host)
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, parts.port, timeout=timeout), asked
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context), asked


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(Path(self._path)) as short:
            self.sock.connect(short)
