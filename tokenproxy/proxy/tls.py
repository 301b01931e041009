"""Whom we trust and who we are towards upstreams and callers, as an ``SSLContext``."""

from __future__ import annotations

import ssl
from hashlib import sha256
from pathlib import Path

from tokenproxy.core.settings import TLSFiles
from tokenproxy.errors import TokenproxyError


class TLSFileError(TokenproxyError):
    """A certificate or key file that cannot be used."""

    exit_code = 2


def tls_context(files: TLSFiles, *, where: str = "tls") -> ssl.SSLContext:
    """
    A context that verifies the peer's certificate and name; ``where`` names the config table in errors.

    Raises ``TLSFileError`` with one sentence; call it when the config is checked as well. A ``ca_file`` stands in
    the place of the system's authorities.
    """
    for key, path in (
        ("ca_file", files.ca_file),
        ("cert_file", files.cert_file),
        ("key_file", files.key_file),
    ):
        if path:
            _readable(path, f"{where}.{key}")
    try:
        context = ssl.create_default_context(cafile=files.ca_file or None)
    except ssl.SSLError as error:
        raise TLSFileError(
            f"{where}.ca_file: {files.ca_file} holds no certificates in PEM form.",
            next_step="Give a PEM file of the authorities that the upstream's certificate comes from.",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325 section 3.1.1
    context.set_alpn_protocols(["http/1.1"])
    if files.cert_file:
        try:
            # A password would be asked for on the terminal of a daemon; an encrypted key is an error instead.
            context.load_cert_chain(files.cert_file, files.key_file or None, password=lambda: b"")
        except (ssl.SSLError, ValueError) as error:
            raise TLSFileError(
                f"{where}.cert_file: {files.cert_file} and its key do not make a client certificate.",
                next_step="Give a PEM certificate and the unencrypted PEM key that belongs to it.",
            ) from error
    return context


class ServerContext(ssl.SSLContext):
    """What callers' handshakes are made with."""

    trusts: tuple[bytes, bool] | None = None
    """
    Who is asked for a certificate: the digest of the authorities' file, and whether one may have none; None: nobody is.
    Two contexts with the same one let in the same callers.
    """


def server_context(files: TLSFiles, *, where: str, optional: bool = False) -> ServerContext:
    """
    A context that shows callers our certificate; with a ``ca_file`` it lets in who has one of that authority, only.

    ``optional``: or who has none at all. ``where`` names the config table in errors. Raises ``TLSFileError`` with one sentence.
    """
    for key, path in (
        ("cert_file", files.cert_file),
        ("key_file", files.key_file),
        ("client_ca_file", files.ca_file),
    ):
        if path:
            _readable(path, f"{where}.{key}")
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9325 section 3.1.1
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert_file, files.key_file or None, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise TLSFileError(
            f"{where}.cert_file: {files.cert_file} and its key do not make a server certificate.",
            next_step="Give a PEM certificate with its chain, and the unencrypted PEM key that belongs to it.",
        ) from error
    if files.ca_file:
        context.trusts = sha256(Path(files.ca_file).read_bytes()).digest(), optional
        try:
            context.load_verify_locations(files.ca_file)
        except ssl.SSLError as error:
            raise TLSFileError(
                f"{where}.client_ca_file: {files.ca_file} holds no certificates in PEM form.",
                next_step="Give a PEM file of the authorities that callers' certificates come from.",
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
    return context


Stamp = tuple[tuple[str, int, int], ...]


def stamp(files: TLSFiles, *, where: str = "tls") -> Stamp:
    """
    Names, times and sizes: tells at a reload whether a file was replaced under its old name.

    Raises ``TLSFileError`` for a file that cannot be read.
    """
    found = []
    for key, path in (
        ("ca_file", files.ca_file),
        ("cert_file", files.cert_file),
        ("key_file", files.key_file),
    ):
        if path:
            _readable(path, f"{where}.{key}")
            status = Path(path).stat()
            found.append((path, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _readable(path: str, key: str) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise TLSFileError(
            f"{key}: {path} cannot be read: {error.strerror}.",
            next_step="Correct the path or its permissions.",
        ) from error
