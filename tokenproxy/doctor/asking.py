"""
One GET without any credential, and what the way there shows: TLS, certificates, the clock.

GET is safe (RFC 9110 section 9.2.1): whoever answers does nothing for it. By hand on a fresh connection, since it is the
handshake that is looked at.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import socket
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from tokenproxy import __version__
from tokenproxy.core.outgoing import OutgoingProxy, Way
from tokenproxy.core.settings import TLSFiles
from tokenproxy.proxy import tls_context

MOST: Final = 64 * 1024
"""Bytes of an answer that are read."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r|$)")
_BLANK_LINE: Final = b"\r\n\r\n"
_PORTS: Final = {"http": 80, "https": 443}


class AskFailedError(Exception):
    """``code`` of a finding, a sentence's rest, and the remedy."""

    def __init__(self, code: str, sentence: str, remedy: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """Whom to ask, and how to get there."""

    scheme: str
    host: str
    port: int
    way: Way

    @property
    def authority(self) -> str:
        """For people and for ``Host``: the port only where it is not the scheme's own."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS.get(self.scheme) else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    seconds: float
    """From the request to the head of the answer."""
    asked_at: datetime
    date: datetime | None
    """Of the answer's ``Date``."""
    location: str = field(repr=False)
    body: str = field(repr=False)
    certificate_ends: datetime | None


def place_and_target(url: str, way: Way) -> tuple[Place, str]:
    """Of an absolute address; raises ``ValueError``."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in _PORTS:
        raise ValueError(url)
    place = Place(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme], way)
    return place, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


async def ask(place: Place, target: str, *, patience: float, host: str = "") -> Answered:
    """Raises ``AskFailedError``."""
    try:
        async with asyncio.timeout(patience):
            return await _asked(place, target, host or place.authority)
    except TimeoutError:
        raise AskFailedError(
            "unreachable",
            f"did not answer within {patience:g} s",
            "see whether a firewall or a proxy is in between, and whether it is slow today",
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(error) from None
    except ssl.SSLError as error:
        raise AskFailedError(
            "tls_untrusted",
            f"did not agree on TLS ({(error.reason or 'handshake failed').lower().replace('_', ' ')})",
            "see that it speaks TLS 1.2 or newer at this port, and whether it wants a client certificate (tls.cert_file)",
        ) from None
    except socket.gaierror:
        raise AskFailedError(
            "unreachable", "has a name that cannot be resolved", "see the name and the machine's DNS"
        ) from None
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or "it closed the connection"
        raise AskFailedError(
            "unreachable", f"cannot be reached: {why.lower()}", "see that it runs, and the way there"
        ) from None


def _untrusted(error: ssl.SSLCertVerificationError) -> AskFailedError:
    """By what OpenSSL found (X509_V_ERR_...)."""
    if error.verify_code == 10:
        return AskFailedError(
            "certificate_ends", "has a certificate that has ended", "its operator must renew it"
        )
    if error.verify_code == 9:
        return AskFailedError(
            "tls_untrusted", "has a certificate that is not good yet", "see this machine's clock: date -u"
        )
    if error.verify_code in {62, 64}:
        return AskFailedError(
            "tls_untrusted", "has a certificate for another name", "see the address in the config"
        )
    return AskFailedError(
        "tls_untrusted",
        f"has a certificate that nobody here vouches for ({error.verify_message})",
        "name its authority in tls.ca_file; where a proxy opens TLS, name that proxy's",
    )


async def _asked(place: Place, target: str, host: str) -> Answered:
    reader, writer = await _connected(place)
    try:
        form = f"http://{place.authority}" if place.way.proxy is not None and place.scheme == "http" else ""
        lines = [
            f"GET {form}{target} HTTP/1.1",
            f"Host: {host}",
            f"User-Agent: tokenproxy/{__version__} doctor",
            "Accept: */*",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        login = place.way.proxy.line if form and place.way.proxy is not None else b""
        began, asked_at = perf_counter(), datetime.now(UTC)
        writer.write("\r\n".join([*lines, ""]).encode() + login + b"\r\n")
        head = await _head(reader)
        seconds = perf_counter() - began
        certificate_ends = _certificate_ends(writer)
        body = await _body(reader)
    finally:
        writer.transport.abort()
    first, _, fields = head.partition(b"\r\n")
    found = _STATUS.match(first)
    if found is None:
        raise AskFailedError("answer_odd", "answers with something that is no HTTP", "see the address")
    headers = http.client.parse_headers(io.BytesIO(fields))
    return Answered(
        status=int(found[1]),
        seconds=seconds,
        asked_at=asked_at,
        date=_date(headers.get("Date")),
        location=str(headers.get("Location", "")),
        body=body,
        certificate_ends=certificate_ends,
    )


async def _connected(place: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = await _context(place.way.tls) if place.scheme == "https" else None
    proxy = place.way.proxy
    if proxy is None:
        return await asyncio.open_connection(
            place.host,
            place.port,
            ssl=tls,
            server_hostname=place.host if tls is not None else None,
            limit=MOST,
        )
    reader, writer = await _to_proxy(proxy)
    if tls is not None:
        await _tunnel(reader, writer, place, proxy)
        await writer.start_tls(tls, server_hostname=place.host)
    return reader, writer


async def _to_proxy(proxy: OutgoingProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = await _context(TLSFiles(ca_file=proxy.ca_file)) if proxy.scheme == "https" else None
    try:
        return await asyncio.open_connection(
            proxy.host,
            proxy.port,
            ssl=tls,
            server_hostname=proxy.host if tls is not None else None,
            limit=MOST,
        )
    except OSError:
        raise AskFailedError(
            "unreachable",
            f"lies behind the outgoing proxy {proxy.authority}, which cannot be reached",
            "see that the proxy runs, and proxy in the config",
        ) from None


async def _tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: Place, proxy: OutgoingProxy
) -> None:
    """CONNECT (RFC 9110 section 9.3.6)."""
    name = f"[{place.host}]" if ":" in place.host else place.host
    target = f"{name}:{place.port}"
    writer.write(b"".join((f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode(), proxy.line, b"\r\n")))
    found = _STATUS.match(await _head(reader))
    if found is None or not 200 <= int(found[1]) < 300:
        writer.transport.abort()
        said = f" ({int(found[1])})" if found is not None else ""
        raise AskFailedError(
            "unreachable",
            f"lies behind the outgoing proxy {proxy.authority}, which does not let us through{said}",
            "see username and password of proxy, and what it allows",
        )


async def _context(files: TLSFiles) -> ssl.SSLContext:
    return await asyncio.to_thread(tls_context, files)


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Of the final answer; interim ones (RFC 9110 section 15.2) are passed over."""
    while True:
        try:
            head = await reader.readuntil(_BLANK_LINE)
        except asyncio.LimitOverrunError:
            raise AskFailedError(
                "answer_odd", "answers with a head of more than 64 KiB", "see the address"
            ) from None
        except asyncio.IncompleteReadError as cut:
            if cut.partial:
                raise AskFailedError(
                    "answer_odd", "answers with something that is no HTTP", "see the address"
                ) from None
            raise
        found = _STATUS.match(head)
        if found is None or not found[1].startswith(b"1"):
            return head


async def _body(reader: asyncio.StreamReader) -> str:
    body = b""
    while len(body) < MOST and (piece := await _piece(reader)):
        body += piece
    return body.decode("utf-8", "replace")


async def _piece(reader: asyncio.StreamReader) -> bytes:
    """A body that breaks off, or takes its time, has said enough."""
    try:
        async with asyncio.timeout(1.0):
            return await reader.read(MOST)
    except (OSError, TimeoutError):
        return b""


def _certificate_ends(writer: asyncio.StreamWriter) -> datetime | None:
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    ends = (tls.getpeercert() or {}).get("notAfter") if tls is not None else None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(ends)), UTC) if ends else None


def _date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)
