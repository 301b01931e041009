"""Real WebSocket clients and servers at both ends of a tunnel, as an application has them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trustme
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType, web

from tests.proxy.actors import Stage, route_to, stage, until
from tokenproxy.core.settings import MIB, TLSFiles

LETS = frozenset({b"websocket"})


class Sockets:
    """A server that gives back every message, and remembers how each socket began and ended."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        self.dead = {"Bearer token-0"}
        self.closed: list[int | None] = []
        self.pings: list[bytes] = []
        self.open: set[web.WebSocketResponse] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        if self.tokens[-1] in self.dead:
            return web.Response(status=401)
        socket = web.WebSocketResponse(max_msg_size=0, protocols=("chat",), autoping=False)
        await socket.prepare(request)
        self.open.add(socket)
        async for message in socket:
            if message.type is WSMsgType.PING:
                self.pings.append(message.data)
                await socket.pong(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            elif message.data == "close":
                await socket.close(code=4001, message=b"enough")
            elif message.data == "die":
                assert request.transport is not None
                request.transport.abort()
            else:
                await socket.send_str(message.data)
        self.closed.append(socket.close_code)
        self.open.discard(socket)
        return socket


@asynccontextmanager
async def sockets(
    *, server_tls: ssl.SSLContext | None = None, **route: Any
) -> AsyncIterator[tuple[Sockets, Stage, ClientSession]]:
    server = Sockets()
    app = web.Application()
    app.router.add_get("/{rest:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with (
            stage(routes=lambda _: [route_to(port, upgrade=LETS, **route)]) as s,
            ClientSession(f"http://{s.address}", connector=TCPConnector(limit=0)) as client,
        ):
            yield server, s, client
    finally:
        await runner.cleanup()


async def connected(client: ClientSession, **how: Any) -> ClientWebSocketResponse:
    socket: ClientWebSocketResponse = await client.ws_connect("/books/live?room=1", max_msg_size=0, **how)
    return socket


async def test_messages_of_every_size() -> None:
    async with sockets() as (server, _, client), await connected(client, protocols=("chat",)) as socket:
        assert socket.protocol == "chat"
        for message in (b"", b"x", b"y" * 126, b"z" * 70_000, bytes(range(256)) * (8 * MIB // 256)):
            await socket.send_bytes(message)
            assert await socket.receive_bytes() == message
        await socket.send_str("grüezi")
        assert await socket.receive_str() == "grüezi"
        assert server.tokens == ["Bearer token-1"]


async def test_a_message_in_fragments() -> None:
    """Nobody joins them on the way: the tunnel knows no frames."""
    async with sockets() as (*_, client), await connected(client) as socket:
        for part, opcode, last in ((b"a" * 1000, 2, 0), (b"b" * 1000, 0, 0), (b"c" * 1000, 0, 0x80)):
            mask = b"\0\0\0\0"
            frame = bytes((opcode | last, 0x80 | 126)) + len(part).to_bytes(2, "big") + mask + part
            transport = socket._writer.transport
            assert transport is not None
            transport.write(frame)
        assert await socket.receive_bytes() == b"a" * 1000 + b"b" * 1000 + b"c" * 1000


async def test_ping_and_pong_are_the_peers_own() -> None:
    async with sockets() as (server, _, client), await connected(client, autoping=False) as socket:
        await socket.ping(b"are you there")
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.PONG, b"are you there")
        assert server.pings == [b"are you there"]


async def test_close_codes_arrive_as_they_were_said() -> None:
    async with sockets() as (server, s, client):
        socket = await connected(client)
        await socket.send_str("close")
        message = await socket.receive()
        assert (message.type, socket.close_code, message.extra) == (WSMsgType.CLOSE, 4001, "enough")
        socket = await connected(client)
        await socket.close(code=4002)
        await until(lambda: server.closed[-1:] == [4002])
        await until(lambda: not s.plane.tunnels)


async def test_the_death_of_one_end_is_the_end_of_the_other() -> None:
    async with sockets() as (server, s, client):
        socket = await connected(client)
        await socket.send_str("die")
        assert (await socket.receive(timeout=2)).type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        socket = await connected(client)
        transport = socket._writer.transport
        assert transport is not None
        transport.abort()
        await until(lambda: not server.open, within=2)
        await until(lambda: not s.plane.tunnels)


async def test_a_dead_token_costs_the_application_nothing() -> None:
    """No peer was found that renews at the handshake: elsewhere such a socket stays dead."""
    async with sockets() as (server, s, client):
        server.dead = {"Bearer token-1"}
        async with await connected(client) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
        assert server.tokens == ["Bearer token-1", "Bearer token-2"]
        assert s.source.renewals == ["books"]


async def test_a_hundred_applications_and_one_renewal() -> None:
    async with sockets() as (server, s, client):
        server.dead = {"Bearer token-1"}
        many = await asyncio.gather(*(connected(client) for _ in range(100)))
        assert s.source.renewals == ["books"]
        assert len(s.plane.tunnels) == 100
        for socket in many:
            await socket.send_str("hello")
        assert [await socket.receive_str() for socket in many] == ["hello"] * 100
        for socket in many:
            await socket.close()
        await until(lambda: not s.plane.tunnels)


async def test_over_tls(tmp_path_factory: Any) -> None:
    """There a half that is closed ends both, and what was said before it still arrives."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    files = TLSFiles(ca_file=str(path))
    async with sockets(server_tls=context, scheme="https", to="localhost", tls=files) as (server, s, client):
        socket = await connected(client)
        await socket.send_bytes(b"x" * (2 * MIB))
        assert await socket.receive_bytes() == b"x" * (2 * MIB)
        await socket.send_str("close")
        assert (await socket.receive()).extra == "enough"
        await socket.close()
        socket = await connected(client)
        await socket.send_str("die")
        assert (await socket.receive(timeout=2)).type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        await until(lambda: not s.plane.tunnels)
        assert len(server.tokens) == 2
