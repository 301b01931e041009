"""Our own TLS transport: what the loops' ones promise to a protocol, and what they do not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme

from tests.proxy.actors import PATIENCE, until
from tokenproxy.proxy import secure
from tokenproxy.proxy.secure import SecureTransport

AUTHORITY = trustme.CA()
RECORDS = [1, 100, 16_384, 16_385, 70_000, 1_000_000]


def trusting(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if version is not None:
        context.maximum_version = version
    return context


def proving(name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    AUTHORITY.issue_cert(name).configure_cert(context)
    return context


class Peer:
    """The other side, with its TLS in its hand: each byte of a record goes when it says so."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = proving().wrap_bio(self.incoming, self.outgoing, server_side=True)

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                await self._more()
            else:
                self.flush()
                return

    async def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            try:
                found += self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                await self._more()
        return found

    async def ended(self) -> bool:
        """Whether our side says goodbye before it closes."""
        while True:
            try:
                return not self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                await self._more()
            except ssl.SSLEOFError:
                return False

    async def _more(self) -> None:
        data = await self.reader.read(1 << 16)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def sealed(self, *pieces: bytes) -> bytes:
        """What goes over the wire for these, each in records of its own."""
        for piece in pieces:
            self.tls.write(piece)
        return self.outgoing.read()

    def goodbye(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def flush(self) -> None:
        self.writer.write(self.outgoing.read())


class Above(asyncio.Protocol):
    """A protocol that remembers what it was told."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.told: list[str] = []
        self.data = b""
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


@contextlib.asynccontextmanager
async def listening(serve: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[int]:
    """A server that does this with whoever connects; the port."""
    tasks: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await serve(Peer(reader, writer))
        except asyncio.CancelledError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def connect(port: int, name: str = "localhost") -> Above:
    return await secure.connected(Above, "127.0.0.1", port, context=trusting(), name=name)


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Above, Peer]]:
    """Both ends of one connection."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def serve(peer: Peer) -> None:
        await peer.shake_hands()
        peers.put_nowait(peer)
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE), listening(serve) as port:
        above = await connect(port)
        yield above, await peers.get()
        above.transport.abort()
        await until(lambda: above.lost)


async def test_data_both_ways() -> None:
    async with pair() as (above, peer):
        for size in RECORDS:
            data = bytes(range(256)) * (size // 256 + 1)
            above.transport.write(data[:size])
            assert await peer.read(size) == data[:size]
            above.data = b""
            peer.writer.write(peer.sealed(data[:size]))
            await until(lambda: len(above.data) >= size)  # noqa: B023 - awaited at once
            assert above.data == data[:size]
        above.transport.write(b"")
        assert above.told[0] == "made"


async def test_records_that_come_in_pieces() -> None:
    """A record ends where it ends, and not where a read does."""
    async with pair() as (above, peer):
        wire = peer.sealed(b"one", b"two" * 5000, b"three")
        for at in itertools.chain(range(1, 60), [len(wire) - 1]):
            above.data = b""
            peer.writer.write(wire[:at])
            await asyncio.sleep(0.001)
            peer.writer.write(wire[at:])
            await until(lambda: above.data.endswith(b"three"))
            assert above.data == b"one" + b"two" * 5000 + b"three"
            wire = peer.sealed(b"one", b"two" * 5000, b"three")


async def test_a_goodbye_is_told_from_a_fin() -> None:
    """RFC 8446 section 6.1: whoever sits on the way can end the connection, and not a message."""
    async with pair() as (above, peer):
        peer.writer.write(peer.sealed(b"all") + peer.goodbye())
        await until(lambda: above.lost)
        assert (above.data, above.told, above.lost) == (b"all", ["made", "eof", "lost"], [None])
        assert above.transport.get_extra_info("goodbye") is True
    async with pair() as (above, peer):
        peer.writer.write(peer.sealed(b"half"))
        peer.writer.close()
        await until(lambda: above.lost)
        assert (above.data, above.told, above.lost) == (b"half", ["made", "eof", "lost"], [None])
        assert above.transport.get_extra_info("goodbye") is False


async def test_a_reset_behind_a_goodbye_takes_nothing_back() -> None:
    """A peer that closes with bytes of ours unread resets the connection: all that it said has been said before."""
    async with pair() as (above, peer):
        peer.writer.write(peer.sealed(b"all") + peer.goodbye())
        await until(lambda: above.told[-1:] == ["eof"] or above.lost)
        below = above.transport
        if not above.lost:
            below.connection_lost(ConnectionResetError())  # type: ignore[attr-defined]
        assert (above.data, above.lost) == (b"all", [None])


@pytest.mark.parametrize("ours", ["close", "abort"])
async def test_ours_is_said_where_we_close(ours: str) -> None:
    async with pair() as (above, peer):
        peer.writer.write(
            peer.sealed(b"first")
        )  # behind its tickets: unread, they would make the close a reset
        await until(lambda: above.data)
        above.transport.write(b"last" * 100_000)
        getattr(above.transport, ours)()
        above.transport.write(b"too late")
        above.transport.close()
        assert above.transport.is_closing()
        if ours == "close":
            assert await peer.read(400_000) == b"last" * 100_000
        assert await peer.ended() is (ours == "close")
        await until(lambda: above.lost)
        assert "eof" not in above.told


async def test_after_a_close_nothing_is_delivered() -> None:
    async with pair() as (above, peer):
        above.transport.close()
        peer.writer.write(peer.sealed(b"late"))
        await until(lambda: above.lost)
        assert above.data == b""


async def test_a_record_that_was_changed_on_the_way_breaks_the_connection() -> None:
    """What came whole before it is given first."""
    async with pair() as (above, peer):
        good, bad = peer.sealed(b"good"), bytearray(peer.sealed(b"bad"))
        bad[-1] ^= 1
        peer.writer.write(good + bad)
        await until(lambda: above.lost)
        assert above.data == b"good"
        assert isinstance(above.lost[0], ssl.SSLError)
        assert above.transport.get_extra_info("goodbye") is False


async def test_writers_wait_for_a_peer_that_does_not_read() -> None:
    async with pair() as (above, peer):
        above.transport.set_write_buffer_limits(high=64 * 1024)
        piece, written = b"x" * 60_000, 0
        while "pause" not in above.told:
            above.transport.write(piece)
            written += len(piece)
            await asyncio.sleep(0)
        assert above.transport.get_write_buffer_size() > 64 * 1024
        await peer.read(written)
        await until(lambda: "resume" in above.told)
        assert above.transport.get_write_buffer_size() == 0


async def test_a_protocol_that_pauses_stops_the_peer() -> None:
    """But for what one read of the transport below gives, and what the kernel holds."""
    async with pair() as (above, peer):
        peer.writer.write(peer.sealed(b"x" * 1000))
        await until(lambda: above.data)
        above.transport.pause_reading()
        above.data = b""
        for _ in range(400):
            peer.writer.write(peer.sealed(b"x" * 60_000))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(peer.writer.drain(), 0.001)
        assert len(above.data) <= 300_000
        above.transport.resume_reading()
        await until(lambda: len(above.data) == 400 * 60_000)


@pytest.mark.parametrize(
    ("name", "error"),
    [("other.example", ssl.SSLCertVerificationError), ("127.0.0.1", ssl.SSLCertVerificationError)],
)
async def test_a_peer_that_is_somebody_else(name: str, error: type[Exception]) -> None:
    """It is told why, and the protocol never hears of it."""
    heard: list[str] = []

    async def serve(peer: Peer) -> None:
        try:
            await peer.shake_hands()
            await peer.read(1)
        except ssl.SSLError as alert:
            heard.append(alert.reason)

    async with asyncio.timeout(PATIENCE), listening(serve) as port:
        above = Above()
        with pytest.raises(error):
            await secure.connected(lambda: above, "127.0.0.1", port, context=trusting(), name=name)
        await until(lambda: heard)
    assert heard == ["SSLV3_ALERT_BAD_CERTIFICATE"]
    assert above.told == []


async def test_a_peer_that_speaks_no_tls_or_leaves() -> None:
    async def plain(peer: Peer) -> None:
        peer.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.reader.read()

    async def leaves(peer: Peer) -> None:
        await peer.reader.read(10)
        peer.writer.close()

    async with asyncio.timeout(PATIENCE), listening(plain) as port:
        with pytest.raises(ssl.SSLError):
            await connect(port)
    async with asyncio.timeout(PATIENCE), listening(leaves) as port:
        with pytest.raises(ConnectionError):
            await connect(port)


async def test_whoever_leaves_during_the_handshake_leaves_nothing_behind() -> None:
    gone = 0

    async def serve(peer: Peer) -> None:
        nonlocal gone
        try:
            with contextlib.suppress(OSError):
                await peer.shake_hands()
                await peer.ended()
        finally:
            gone += 1

    async with asyncio.timeout(PATIENCE), listening(serve) as port:
        begun = 0
        for steps in range(40):
            connecting = asyncio.create_task(connect(port))
            for _ in range(steps):
                await asyncio.sleep(0)
            begun += steps > 5
            connecting.cancel()
            await asyncio.wait((connecting,))
            if not connecting.cancelled():
                connecting.result().transport.abort()
        await until(lambda: gone >= begun)


async def test_tls_within_tls() -> None:
    """Through an ``https`` proxy: the transport below is one of ours."""

    async def serve(outer: Peer) -> None:
        await outer.shake_hands()
        inner = Peer(outer.reader, outer.writer)
        while True:
            inner.incoming.write(await outer.read(1))
            try:
                inner.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                outer.writer.write(outer.sealed(inner.outgoing.read()))
        outer.writer.write(outer.sealed(inner.outgoing.read() + inner.sealed(b"hello")))
        inner.incoming.write(await outer.read(1))
        with contextlib.suppress(ssl.SSLWantReadError):
            outer.writer.write(outer.sealed(inner.sealed(inner.tls.read(100) + b" too")))
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE), listening(serve) as port:
        below, above = await connect(port), Above()
        await secure.wrapped(above, below.transport, context=trusting(), name="localhost")
        above.transport.write(b"you")
        await until(lambda: above.data == b"helloyou too")
        assert isinstance(below.transport, SecureTransport)
        above.transport.abort()
        await until(lambda: above.lost)
        assert below.told == ["made"]


@contextlib.asynccontextmanager
async def talking_to_openssl(
    tmp_path: Path, *words: str
) -> AsyncIterator[tuple[Above, asyncio.subprocess.Process]]:
    """A connection to OpenSSL's own server, which does on a letter what Python's ``ssl`` cannot ask for."""
    pem = tmp_path / "server.pem"
    AUTHORITY.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        "openssl",
        "s_server",
        *("-accept", f"127.0.0.1:{port}", "-cert", str(pem), "-key", str(pem), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )
    assert server.stdout is not None
    try:
        await server.stdout.readuntil(b"ACCEPT\n")
        above = await connect(port)
        above.transport.write(b"before\n")
        await server.stdout.readuntil(b"before\n")
        yield above, server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.communicate()


WITH_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@WITH_OPENSSL
@pytest.mark.parametrize("letter", [b"K", b"k"])
async def test_keys_that_change_in_the_middle(tmp_path: Path, letter: bytes) -> None:
    """RFC 8446 section 4.6.3, with and without the question for ours."""
    async with asyncio.timeout(PATIENCE), talking_to_openssl(tmp_path, "-tls1_3") as (above, server):
        assert server.stdin is not None
        assert server.stdout is not None
        number = refused = 0
        for _ in range(5):
            server.stdin.write(letter + b"\n")
            above.data = b""
            while not above.data.endswith(b"answer\n"):  # what it reads at once with the letter it drops
                for _ in range(100):
                    above.transport.write(b"line %d\n" % number)
                    number += 1
                    await asyncio.sleep(0)
                server.stdin.write(b"answer\n")
                await asyncio.sleep(0.01)
            refused += (
                letter + b"\n" in above.data
            )  # while it is still at the last one, a letter is data to it
        above.transport.write(b"after\n")
        heard = await server.stdout.readuntil(b"after\n")
        lines = [line for line in heard.splitlines() if line.startswith(b"line ")]
        assert lines == [b"line %d" % at for at in range(number)]
        assert refused < 5
        assert above.lost == []


@WITH_OPENSSL
async def test_a_peer_that_negotiates_anew(tmp_path: Path) -> None:
    """TLS 1.2 (RFC 5246 section 7.4.1.1): what is written meanwhile waits until OpenSSL takes it, and goes in order."""
    async with asyncio.timeout(PATIENCE), talking_to_openssl(tmp_path, "-tls1_2") as (above, server):
        assert server.stdin is not None
        assert server.stdout is not None
        transport = above.transport
        assert isinstance(transport, SecureTransport)
        below, waited = transport._send, 0

        def send(data: bytes) -> None:
            nonlocal waited
            transport._send = below
            below(data)  # our part of the new handshake
            transport.write(b"meanwhile 1\n")
            transport.write(b"meanwhile 2\n")
            waited = transport.get_write_buffer_size() - transport._transport.get_write_buffer_size()

        for round_number in range(1, 4):
            transport._send = send
            server.stdin.write(b"r\n")
            await server.stdout.readuntil(b"meanwhile 1\nmeanwhile 2\n")
            assert waited == 24
            assert transport.get_write_buffer_size() == 0
            server.stdin.write(b"answer\n")
            await until(lambda: above.data == b"answer\n" * round_number)  # noqa: B023 - awaited at once
        assert above.lost == []


@WITH_OPENSSL
@pytest.mark.parametrize("answers", [True, False], ids=["answers", "hangs"])
async def test_a_close_while_a_peer_negotiates_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    """What waits for the peer goes first, and nothing more is taken or given; a peer that hangs is not waited for."""
    monkeypatch.setattr(secure, "LAST_WORDS", PATIENCE if answers else 0.1)
    async with asyncio.timeout(PATIENCE), talking_to_openssl(tmp_path, "-tls1_2") as (above, server):
        assert server.stdin is not None
        assert server.stdout is not None
        transport = above.transport
        assert isinstance(transport, SecureTransport)
        below = transport._send

        def send(data: bytes) -> None:
            transport._send = below
            if not answers:
                server.send_signal(signal.SIGSTOP)
            below(data)  # our part of the new handshake
            transport.write(b"last words\n")
            transport.pause_reading()
            transport.close()
            assert transport.is_closing()
            transport.write(b"too late\n")
            transport.close()

        transport._send = send
        server.stdin.write(b"r\n")
        await until(lambda: above.lost)
        assert (above.told, above.lost, above.data) == (["made", "lost"], [None], b"")
        if answers:
            heard = await server.stdout.readuntil(b"last words\n")
            server.kill()
            assert b"too late" not in heard + await server.stdout.read()
