"""
TLS with an upstream, as a transport over the connection's own.

The loops bring one for any program: it asks after each record whether there is another one, which an exception answers,
and on the standard loop it goes through backlogs and keeps 256 KiB for each connection. A proxy has a whole request to
write and mostly a whole answer to read: one call of OpenSSL for each. benchmarks/README.md says what that saves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

RECORD: Final = 16 * 1024
"""The most that a record holds (RFC 8446 section 5.1), and so what a read gives at once."""
LAST_WORDS: Final = 5.0
"""Seconds in which a peer that negotiates anew must let through what was written before a close."""

Kind = TypeVar("Kind", bound=asyncio.Protocol)


class SecureTransport(asyncio.Transport, asyncio.Protocol):
    """
    The transport of the protocol above, and the protocol of the transport below.

    The protocol above is connected when the peer has proven who it is, not earlier. ``get_extra_info("goodbye")`` says
    whether the peer has said that nothing more comes: whoever can cut the line can also send a FIN (RFC 8446 section 6.1).
    Nothing that was read is kept back: a protocol that pauses still gets what one read of the transport below gave.
    """

    __slots__ = (
        "_closing",
        "_decrypt",
        "_deliver",
        "_encrypt",
        "_failure",
        "_goodbye",
        "_handshake",
        "_incoming",
        "_leaving",
        "_outgoing",
        "_protocol",
        "_send",
        "_tls",
        "_transport",
        "_waiting",
    )

    _transport: asyncio.Transport
    _send: Callable[[bytes], None]

    def __init__(self, protocol: asyncio.Protocol, context: ssl.SSLContext, name: str) -> None:
        """``name``: whom the peer's certificate must be for."""
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._decrypt, self._encrypt = self._tls.read, self._tls.write
        self._handshake: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        """None: the peer has proven who it is, and the protocol is connected."""
        self._waiting: list[bytes] = []
        """What OpenSSL takes only when the peer has answered: TLS 1.2 lets it negotiate anew at any time."""
        self._goodbye = False
        self._closing = False
        self._leaving: asyncio.TimerHandle | None = None
        """Closed but for what waits; when it has gone, or the time is over, the rest follows."""
        self._failure: Exception | None = None
        self.set_protocol(protocol)

    async def established(self) -> None:
        """Wait until the protocol is connected; raises ``OSError``, of which ``ssl.SSLError`` is one."""
        try:
            if self._handshake is not None:
                await self._handshake
        except BaseException:
            if not self._closing:
                self.abort()
            raise

    # the side of the protocol above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.Protocol", protocol)
        self._deliver = self._protocol.data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if name == "goodbye":
            return self._goodbye
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """OpenSSL takes all of it, in as few records as may be, or nothing."""
        if self._closing or not data:
            return
        if self._waiting:
            if self._leaving is None:
                self._waiting.append(bytes(data))
            return
        try:
            self._encrypt(data)
        except ssl.SSLWantReadError:
            self._waiting.append(bytes(data))
            self._flush()
        except OSError as error:
            self._fail(error)
        else:
            self._send(self._outgoing.read())

    def can_write_eof(self) -> bool:
        """TLS 1.3 has halves that are closed; earlier ones, and many peers, end both."""
        return False

    def is_closing(self) -> bool:
        return self._closing or self._leaving is not None or self._transport.is_closing()

    def close(self) -> None:
        """
        Say goodbye behind what was written; the peer's is not waited for (RFC 8446 section 6.1). What waits for the peer
        goes first, if that answers within ``LAST_WORDS``.
        """
        if self._closing or self._leaving is not None:
            return
        if self._waiting:
            self._leaving = asyncio.get_running_loop().call_later(LAST_WORDS, self._leave)
            self.resume_reading()  # its answer
        else:
            self._leave()

    def _leave(self) -> None:
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(OSError):  # ours is written, the peer's is not here
            self._tls.unwrap()
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + sum(map(len, self._waiting))

    # the side of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send = self._transport.write
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._incoming.write(data)
        if self._handshake is not None and not self._shake_hands():
            return
        plain = b""
        try:
            plain = self._decrypt(RECORD)
            self._goodbye = not plain
        except ssl.SSLWantReadError:  # a part of a record, or one that holds nothing for the protocol
            pass
        except OSError as error:
            self._failure = error
        if plain and not (self._incoming.pending or self._outgoing.pending or self._waiting):
            self._deliver(plain)
        else:
            self._take(plain)

    def eof_received(self) -> None:
        """The transport below closes itself."""
        if self._handshake is None and not self._closing and self._leaving is None:
            self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._leaving is not None:
            self._leaving.cancel()
        protocol = self._protocol
        self.set_protocol(
            asyncio.Protocol()
        )  # else each would keep the other, and OpenSSL's memory, for a while
        if self._handshake is None:
            # After its goodbye nothing more can come: what becomes of the socket says nothing about the data.
            protocol.connection_lost(self._failure or (None if self._goodbye else exc))
        else:
            self._unproven(
                exc or ConnectionResetError("The peer closed the connection during the handshake.")
            )

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    # inside

    def _shake_hands(self) -> bool:
        """Go on with the handshake; whether it is through, which it is once."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except OSError as error:
            self._closing = True
            self._flush()  # the alert that tells the peer why
            self._transport.close()
            self._unproven(error)
            return False
        self._flush()
        if self._handshake is not None and not self._handshake.done():
            self._handshake.set_result(None)
            self._handshake = None
            self._protocol.connection_made(self)
        return not self._closing

    def _unproven(self, error: Exception) -> None:
        if self._handshake is not None and not self._handshake.done():
            self._handshake.set_exception(error)
            self._handshake.exception()  # whoever waited may have left

    def _take(self, plain: bytes) -> None:
        """What came, and whatever came with it: more records, what OpenSSL answers by itself, the end, a fault."""
        if self._incoming.pending and not self._goodbye and self._failure is None:
            plain = self._records(plain)
        self._flush()
        if plain and self._leaving is None:
            self._deliver(plain)
        if self._closing:
            return
        if self._failure is not None:
            self._fail(self._failure)
            return
        waiting, self._waiting = self._waiting, []
        self.write(b"".join(waiting))
        if self._leaving is not None:
            if self._goodbye or not self._waiting:
                self._leave()
        elif self._goodbye:
            self._protocol.eof_received()
            self.close()

    def _records(self, first: bytes) -> bytes:
        """With all others that are here whole."""
        pieces = [first]
        try:
            while not self._goodbye:
                piece = self._decrypt(RECORD)
                self._goodbye = not piece
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            self._failure = error
        return b"".join(pieces)

    def _flush(self) -> None:
        if self._outgoing.pending and not self._transport.is_closing():
            self._send(self._outgoing.read())

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.abort()


async def connected(
    protocol: Callable[[], Kind], host: str, port: int, *, context: ssl.SSLContext, name: str
) -> Kind:
    """A new connection, the peer's certificate verified for ``name``; raises ``OSError``."""
    above = protocol()
    loop = asyncio.get_running_loop()
    _, transport = await loop.create_connection(lambda: SecureTransport(above, context, name), host, port)
    await transport.established()
    return above


async def wrapped(
    protocol: asyncio.Protocol, transport: asyncio.Transport, *, context: ssl.SSLContext, name: str
) -> None:
    """The same over a connection that is there already."""
    secure = SecureTransport(protocol, context, name)
    transport.set_protocol(secure)
    secure.connection_made(transport)
    await secure.established()
