"""Upgrades: what is asked, what is let through, and bytes both ways until one side ends (RFC 9110 section 7.8)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.proxy.actors import (
    PATIENCE,
    Answer,
    Caller,
    Line,
    Stage,
    dead,
    ok,
    post,
    route_to,
    stage,
    unless,
    until,
)
from tokenproxy.core.headers import HeaderChanges
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import MIB, Deadlines, Limits

LETS = {"upgrade": frozenset({b"websocket"})}
PIECE = b"x" * 65536


def asking(*fields: bytes, protocol: bytes = b"websocket", target: bytes = b"/books/ws") -> bytes:
    lines = [
        b"GET " + target + b" HTTP/1.1",
        b"Host: localhost",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: " + protocol,
        *fields,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def switch(*fields: bytes, protocol: bytes = b"websocket") -> bytes:
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Connection: Upgrade",
        b"Upgrade: " + protocol,
        *fields,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def echo(line: Line) -> None:
    """Agrees, and gives back what comes; ends when the other side does."""
    await line.send(switch())
    while piece := await line.reader.read(65536):
        await line.send(piece)
    line.close()


async def silent(line: Line) -> None:
    """Agrees, and waits for the end."""
    await line.send(switch())
    await line.reader.read()
    line.close()


async def opened(s: Stage, data: bytes = b"") -> Caller:
    """A caller in a tunnel."""
    caller = await s.caller()
    await caller.send(data or asking())
    assert (await caller.head()).status == 101
    return caller


async def refused(caller: Caller, data: bytes) -> Answer:
    await caller.send(data)
    return await caller.answer()


# the handshake


async def test_an_upgrade_that_the_route_allows_becomes_a_tunnel() -> None:
    """Only the protocol that is allowed goes on, with our token; of the answer, all that is not for one connection."""

    async def script(line: Line) -> None:
        fields = (b"Sec-WebSocket-Accept: yes", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Hop: 1")
        answer = switch(*fields, b"Keep-Alive: timeout=5", b"Proxy-Status: x", b"Content-Length: 5")
        await line.send(answer.replace(b"Connection: Upgrade", b"Connection: upgrade, x-hop"))
        await line.send(await line.reader.readexactly(5))

    async with stage(script, route=LETS) as s:
        caller = await s.caller()
        await caller.send(
            asking(b"Sec-WebSocket-Key: k", b"HTTP2-Settings: AAA", protocol=b"h2c, WebSocket, mqtt")
        )
        answer = await caller.head()
        await caller.send(b"\x00\xff\r\n\n")
        assert await caller.reader.readexactly(5) == b"\x00\xff\r\n\n"

        (seen,) = s.upstream.seen
        assert (seen.values(b"upgrade"), seen.values(b"connection")) == ([b"WebSocket"], [b"Upgrade"])
        assert (seen.token, seen.target) == (b"token-1", b"/ws")
        assert seen.values(b"sec-websocket-key") == [b"k"]
        assert not seen.values(b"http2-settings")
        assert answer.fields == [
            b"Sec-WebSocket-Accept: yes",
            b"Set-Cookie: a=1",
            b"Set-Cookie: b=2",
            b"Connection: Upgrade",
            b"Upgrade: WebSocket",
        ]
        metrics = s.metrics.routes["books"]
        assert (metrics.tunnels, metrics.in_flight, s.plane.in_flight) == (1, 0, 0)
        assert (metrics.bytes_up, metrics.bytes_down) == (5, 5)
        assert metrics.requests[1, "ok"] == 1
        assert s.source.confirmed == [("books", 1)]
        assert s.logged[0].status == 101
        caller.close()
        await until(lambda: not s.plane.tunnels)
        assert metrics.tunnels == 0
        assert metrics.requests[1, "ok"] == 1
        await until(lambda: not s.plane.callers)


async def test_what_either_side_says_ahead_arrives() -> None:
    """RFC 9931: the caller's first bytes go on after the 101, and not before; the upstream's come behind it."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        asked.set()
        await answer.wait()
        assert not line.reader._buffer  # type: ignore[attr-defined]
        await line.send(switch() + b"welcome")
        await line.send(await line.reader.readexactly(10))

    async with stage(script, route=LETS) as s:
        caller = await s.caller()
        await caller.send(asking() + b"early")
        await asked.wait()
        await caller.send(b"later")
        answer.set()
        assert (await caller.head()).status == 101
        assert await caller.reader.readexactly(17) == b"welcomeearlylater"


async def test_an_upgrade_behind_another_request() -> None:
    """Pipelined: the first is answered first, and the rest of the segment is the tunnel's."""

    async def script(line: Line) -> None:
        await (echo(line) if line.seen.values(b"upgrade") else line.send(ok(b"first")))

    async with stage(script, route=LETS) as s:
        caller = await s.caller()
        await caller.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n" + asking() + b"early")
        assert (await caller.answer()).body == b"first"
        assert (await caller.head()).status == 101
        assert await caller.reader.readexactly(5) == b"early"


async def test_a_second_server_field_in_a_101_is_no_fault() -> None:
    """Such heads take the second look, which must not lose what came behind them."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + switch(b"Server: a", b"Server: b") + b"first")

    async with stage(script, route=LETS) as s:
        caller = await s.caller()
        await caller.send(asking())
        assert (await caller.head()).status == 103
        assert (await caller.head()).status == 101
        assert await caller.reader.readexactly(5) == b"first"


async def test_a_dead_token_at_the_handshake_is_renewed_and_sent_again() -> None:
    """For a tunnel as for anything else; early bytes wait for the attempt that is taken."""

    async def script(line: Line) -> None:
        await (echo(line) if line.seen.token == b"token-2" else line.send(dead()))

    async with stage(script, route=LETS) as s:
        caller = await opened(s, asking() + b"early")
        assert await caller.reader.readexactly(5) == b"early"
        assert [seen.token for seen in s.upstream.seen] == [b"token-1", b"token-2"]
        assert [seen.values(b"upgrade") for seen in s.upstream.seen] == [[b"websocket"]] * 2
        assert s.upstream.connections == 1
        assert s.source.renewals == ["books"]
        assert s.metrics.routes["books"].retries["ok"] == 1


@pytest.mark.parametrize("kept", [True, False], ids=["live", "refused-again"])
async def test_a_401_that_no_renewal_heals_is_the_caller_s(*, kept: bool) -> None:
    async with stage(dead(), route=LETS) as s:
        s.source.keep = KeepAnswer.LIVE if kept else None
        caller = await s.caller()
        answer = await refused(caller, asking() + b"early")
        assert (answer.status, answer.body) == (401, b"expired")
        assert answer.values(b"connection") == [b"close"]
        assert await caller.rest() == b""
        assert len(s.upstream.seen) == (1 if kept else 2)


async def test_a_refusal_of_the_upstream_is_an_ordinary_answer() -> None:
    """And the caller's early bytes are neither the other protocol nor a request (RFC 9931 section 3)."""
    async with stage(ok(b"no sockets today", status=b"426 Upgrade Required"), route=LETS) as s:
        caller = await s.caller()
        hidden = b"GET /books/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await refused(caller, asking() + hidden)
        assert (answer.status, answer.body) == (426, b"no sockets today")
        assert answer.values(b"connection") == [b"close"]
        assert await caller.rest() == b""
        assert [seen.target for seen in s.upstream.seen] == [b"/ws"]
        assert (await (await s.caller()).get()).status == 426
        assert s.upstream.connections == 1  # which has seen nothing odd
        assert s.plane.tunnel_turns.taken == 0


async def test_a_websocket_that_the_route_does_not_allow_is_refused_with_a_word() -> None:
    """Before a token is touched; without the upgrade the request would mean nothing."""
    async with stage() as s:
        answer = await refused(await s.caller(), asking())
        assert (answer.status, answer.code) == (403, "not_allowed")
        assert 'upgrade = ["websocket"]' in answer.problem["next_step"]
        assert not s.upstream.seen


NO_UPGRADES = {
    "h2c": asking(b"HTTP2-Settings: AAA", protocol=b"h2c"),
    "other": asking(protocol=b"mqtt"),
    "1.0": asking().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "not-nominated": b"GET /books/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
    "bytes": asking(protocol=b"websocket\xff"),
    "body": post(b"abc", b"/books/ws", b"Connection: Upgrade", b"Upgrade: websocket"),
}


@pytest.mark.parametrize("data", NO_UPGRADES.values(), ids=NO_UPGRADES)
async def test_any_other_upgrade_is_dropped(data: bytes) -> None:
    """RFC 9110 section 7.8: whoever does not want to switch ignores it; HTTP/1.0 knows none."""
    async with stage(route=LETS) as s:
        caller = await s.caller()
        answer = await refused(caller, data)
        assert (answer.status, answer.body) == (200, b"hello")
        (seen,) = s.upstream.seen
        assert not seen.values(b"upgrade") + seen.values(b"connection") + seen.values(b"http2-settings")


WRONG_SWITCHES = {
    "other": switch(protocol=b"mqtt"),
    "several": switch(protocol=b"websocket, mqtt"),
    "not-nominated": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "1.0": switch().replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("answer", WRONG_SWITCHES.values(), ids=WRONG_SWITCHES)
async def test_a_101_that_was_not_asked_for_is_a_502(answer: bytes) -> None:
    """RFC 9110 section 7.8: a server must not switch to a protocol that was not offered."""
    async with stage(answer + b"bytes", route=LETS) as s:
        caller = await s.caller()
        got = await refused(caller, asking())
        assert (got.status, got.code) == (502, "upstream_invalid")
        assert await caller.rest() == b""
        assert (s.plane.tunnel_turns.taken, s.plane.in_flight) == (0, 0)
        await until(lambda: not s.upstream.open)


async def test_another_protocol_than_websocket() -> None:
    """The parser knows only WebSocket, and would take what follows any other for HTTP, or lose it."""

    async def script(line: Line) -> None:
        await line.send(switch(protocol=b"mqtt/5"))
        await line.send(await line.reader.readexactly(10))

    async with stage(script, route={"upgrade": frozenset({b"mqtt/5"})}) as s:
        head = asking(protocol=b"MQTT/5")
        for parts in ((head[:-2], head[-2:]), (head,), (head + b"early",), (head[:-2], head[-2:] + b"early")):
            caller = await s.caller()
            for part in parts:
                await caller.send(part)
            assert (await caller.head()).values(b"upgrade") == [b"MQTT/5"]
            await caller.send(b"hello" if b"early" in parts[-1] else b"earlyhello")
            assert await caller.reader.readexactly(10) == b"earlyhello"


@pytest.mark.parametrize(
    "fields", [(b"Origin: https://evil.example",), (b"Sec-Fetch-Site: cross-site",)], ids=["origin", "site"]
)
async def test_a_web_page_of_others_opens_no_tunnel(fields: tuple[bytes, ...]) -> None:
    """RFC 6455 section 10.2: browsers ask nobody before they open a WebSocket anywhere."""
    async with stage(echo, route={**LETS, "origins": frozenset({"https://ours.example"})}) as s:
        answer = await refused(await s.caller(), asking(*fields))
        assert (answer.status, answer.code) == (403, "origin_refused")
        assert not s.upstream.seen
        await opened(s, asking(b"Origin: https://ours.example", b"Sec-Fetch-Site: cross-site"))


async def test_a_route_with_placeholders_lets_upgrades_through() -> None:
    async with stage(echo, route={**LETS, "placeholders": True}) as s:
        caller = await opened(s, asking() + b"early")
        assert await caller.reader.readexactly(5) == b"early"
        assert s.upstream.seen[0].values(b"upgrade") == [b"websocket"]
        assert s.upstream.seen[0].token == b"token-1"


async def test_changed_headers_are_changed_in_a_101_too() -> None:
    changes = HeaderChanges(added=(("X-Added", "1"),), removed=("X-Gone",))

    async def script(line: Line) -> None:
        await line.send(switch(b"X-Gone: 1", b"X-Kept: 1"))
        await line.reader.read()

    async with stage(script, route={**LETS, "answer_headers": changes}) as s:
        caller = await s.caller()
        await caller.send(asking())
        answer = await caller.head()
        assert answer.values(b"x-added") + answer.values(b"x-kept") == [b"1", b"1"]
        assert not answer.values(b"x-gone")


async def test_a_caller_that_leaves_at_the_handshake_takes_no_tunnel_with_it() -> None:
    asked = asyncio.Event()

    async def script(line: Line) -> None:
        asked.set()
        await line.reader.read()
        line.close()

    async with stage(script, route=LETS) as s:
        caller = await s.caller()
        await caller.send(asking())
        await asked.wait()
        caller.cut()
        await until(lambda: not s.upstream.open)
        assert (s.plane.tunnel_turns.taken, s.plane.in_flight) == (0, 0)


# its life


async def test_a_token_that_is_renewed_leaves_tunnels_alone() -> None:
    """It was good at the handshake; what the upstream makes of its end is the upstream's business."""

    async def script(line: Line) -> None:
        await (echo(line) if line.seen.values(b"upgrade") else unless(b"token-1")(line))

    async with stage(script, route=LETS) as s:
        caller = await opened(s)
        assert (await (await s.caller()).get()).status == 200
        assert s.source.renewals == ["books"]
        await caller.send(b"still there")
        assert await caller.reader.readexactly(11) == b"still there"


async def test_a_reload_leaves_tunnels_alone() -> None:
    async with stage(echo, route=LETS) as s:
        caller = await opened(s)
        s.swap(routes=RouteTable.of([route_to(1, name="other")]))
        await caller.send(b"still there")
        assert await caller.reader.readexactly(11) == b"still there"


@pytest.mark.parametrize("who", ["caller", "upstream"])
async def test_a_reader_that_stops_stops_the_writer(who: str) -> None:
    """Bounded memory: what one side does not take is not read from the other."""
    sent, go = 0, asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 64 * MIB:
            writer.write(PIECE)
            await writer.drain()
            sent += len(PIECE)
        writer.close()

    async def swallow(reader: asyncio.StreamReader) -> int:
        await go.wait()
        total = 0
        while piece := await reader.read(1 << 20):
            total += len(piece)
        return total

    taken = asyncio.get_running_loop().create_future()

    async def script(line: Line) -> None:
        await line.send(switch())
        if who == "caller":
            await flood(line.writer)
        else:
            taken.set_result(await swallow(line.reader))

    async with stage(script, route=LETS) as s:
        caller = await opened(s)
        writing = asyncio.create_task(flood(caller.writer)) if who == "upstream" else None
        last = -1
        while sent != last or not sent:
            last = sent
            await asyncio.sleep(0.1)
        (tunnel,) = s.plane.tunnels
        held = [end.transport.get_write_buffer_size() for end in (tunnel.up, tunnel.down)]
        assert 0 < sum(held) <= MIB
        go.set()
        assert await (swallow(caller.reader) if who == "caller" else taken) == 64 * MIB
        if writing is not None:
            await writing


async def test_a_caller_that_has_said_all_still_hears_the_answer() -> None:
    """Its FIN goes on behind its bytes, and the other direction ends in its own time."""

    async def script(line: Line) -> None:
        await line.send(switch())
        everything = await line.reader.read()
        await line.send(b"%d bytes" % len(everything))
        line.close()

    async with stage(script, route=LETS) as s:
        caller = await opened(s)
        await caller.send(PIECE * 32)
        caller.writer.write_eof()
        assert await caller.rest() == b"%d bytes" % (len(PIECE) * 32)
        await until(lambda: not s.plane.tunnels)


async def test_an_upstream_that_has_said_all_still_hears_the_caller() -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(line: Line) -> None:
        await line.send(switch() + b"bye")
        line.writer.write_eof()
        heard.set_result(await line.reader.read())

    async with stage(script, route=LETS) as s:
        caller = await opened(s)
        assert await caller.rest() == b"bye"
        await caller.send(b"and you")
        caller.close()
        assert await heard == b"and you"
        await until(lambda: not s.plane.tunnels)


async def test_half_a_tunnel_does_not_live_for_ever() -> None:
    async with stage(silent, route=LETS, deadlines=Deadlines(body_idle=0.1, tunnel=0)) as s:
        ended = asyncio.Event()

        async def script(line: Line) -> None:
            await line.send(switch())
            line.writer.write_eof()
            await line.reader.read()
            ended.set()

        s.upstream.script = script
        caller = await opened(s)
        assert await caller.rest() == b""
        await until(lambda: not s.plane.tunnels)


@pytest.mark.parametrize("who", ["caller", "upstream"])
async def test_a_reset_of_one_side_is_a_reset_for_the_other(who: str) -> None:
    """Nobody may take it for a proper end."""
    up: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def script(line: Line) -> None:
        await line.send(switch())
        up.set_result(line)
        if who == "caller":
            try:
                await line.reader.read()
            except ConnectionError:
                seen.set_result("reset")
            else:
                seen.set_result("end")
        else:
            await asyncio.sleep(PATIENCE)

    async with stage(script, route=LETS) as s:
        caller = await opened(s)
        line = await up
        if who == "caller":
            caller.cut()
            assert await seen == "reset"
        else:
            line.cut()
            with pytest.raises(ConnectionError):
                await caller.reader.read()
        await until(lambda: not s.plane.tunnels)


async def test_a_tunnel_in_which_nothing_moves_is_cut() -> None:
    async with stage(echo, route=LETS, deadlines=Deadlines(tunnel=0.2)) as s:
        quiet, busy = await opened(s), await opened(s)
        reading = asyncio.create_task(quiet.reader.read())
        while not reading.done():
            await busy.send(b"x")
            assert await busy.reader.readexactly(1) == b"x"
            await asyncio.sleep(0.02)
        with pytest.raises(ConnectionError):
            await reading
        assert len(s.plane.tunnels) == 1


async def test_a_tunnel_without_a_limit_stays() -> None:
    """And the limits of requests are none of its: here all of them pass."""
    deadlines = Deadlines(
        head=0.05, body_idle=0.05, first_byte=0.05, upstream_idle=0.05, keep_alive=0.05, tunnel=0
    )
    async with stage(echo, route=LETS, deadlines=deadlines) as s:
        caller = await opened(s)
        await asyncio.sleep(0.3)
        await caller.send(b"x")
        assert await caller.reader.readexactly(1) == b"x"


async def test_tunnels_have_a_limit_of_their_own() -> None:
    """They would hold the turns of requests for hours."""

    async def script(line: Line) -> None:
        await (echo(line) if line.seen.values(b"upgrade") else line.send(ok(b"hello")))

    async with stage(script, route=LETS, limits=Limits(in_flight=1, tunnels=2, queue=0)) as s:
        first = await opened(s)
        await opened(s)
        answer = await refused(await s.caller(), asking())
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.values(b"retry-after") == [b"1"]
        assert "tunnels" in answer.problem["next_step"]
        assert (await (await s.caller()).get()).body == b"hello"
        first.close()
        await until(lambda: len(s.plane.tunnels) == 1)
        await opened(s)


async def test_the_drain_waits_for_tunnels_and_then_cuts_them(caplog: pytest.LogCaptureFixture) -> None:
    async with stage(echo, route=LETS) as s:
        ends, stays = await opened(s), await opened(s)
        closing = asyncio.create_task(s.plane.close(drain=0.5))
        await until(lambda: s.plane.draining)
        await ends.send(b"last words")
        assert await ends.reader.readexactly(10) == b"last words"
        ends.close()
        await until(lambda: len(s.plane.tunnels) == 1)
        with pytest.raises(ConnectionError):
            await stays.reader.read()
        await closing
        assert not s.plane.tunnels
        (told,) = [each for each in caplog.records if each.message == "drain_cut"]
        assert (told.__dict__["fields"]["requests"], told.__dict__["fields"]["tunnels"]) == (0, 1)


async def test_a_drain_ends_with_the_last_tunnel() -> None:
    async with stage(echo, route=LETS) as s:
        caller = await opened(s)
        closing = asyncio.create_task(s.plane.close(drain=PATIENCE))
        await until(lambda: s.plane.draining)
        caller.close()
        await asyncio.wait_for(closing, 2)


async def test_a_thousand_tunnels_at_once() -> None:
    async with stage(echo, route=LETS, limits=Limits(tunnels=1000)) as s:
        callers: list[Caller] = []
        for _ in range(20):
            callers += await asyncio.gather(*(opened(s) for _ in range(50)))
        assert s.metrics.routes["books"].tunnels == 1000
        assert not any(caller.task for caller in s.plane.callers)
        for number, caller in enumerate(callers):
            caller.writer.write(b"%04d" % number)
        for number, caller in enumerate(callers):
            assert await caller.reader.readexactly(4) == b"%04d" % number
        for caller in callers:
            caller.close()
        await until(lambda: not s.plane.tunnels)
        await until(lambda: not s.upstream.open)
        assert s.plane.tunnel_turns.taken == 0


# CONNECT

PLACE = b"api.example"


def connecting(port: int, tail: bytes = b"", host: bytes = PLACE) -> bytes:
    return b"CONNECT %b:%d HTTP/1.1\r\nHost: %b:%d\r\n\r\n" % (host, port, host, port) + tail


@contextlib.asynccontextmanager
async def greeter() -> Any:
    """A server that speaks no HTTP: gives back the first five bytes, twice."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi " + 2 * await reader.readexactly(5))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def allowing(port: int, **changes: Any) -> dict[str, Any]:
    return {"routes": lambda _: [route_to(port, host=PLACE.decode(), prefix="/", connect=True, **changes)]}


@pytest.mark.parametrize("ahead", [True, False], ids=["ahead", "after"])
async def test_connect_where_a_route_allows_it(*, ahead: bool) -> None:
    """RFC 9110 section 9.3.6: nothing but bytes after the 200, which has no body; no token is near it."""
    async with greeter() as port, stage(**allowing(port)) as s:
        caller = await s.caller()
        await caller.send(connecting(port, b"hello" if ahead else b"", PLACE.upper()))
        answer = await caller.head()
        assert answer.status == 200
        assert not answer.values(b"content-length") + answer.values(b"transfer-encoding")
        if not ahead:
            await caller.send(b"hello")
        assert await caller.reader.readexactly(13) == b"hi hellohello"
        metrics = s.metrics.routes["books"]
        assert (metrics.tunnels, metrics.in_flight, metrics.requests[2, "ok"]) == (1, 0, 1)
        assert (metrics.bytes_up, metrics.bytes_down) == (5, 13)
        assert not s.source.confirmed
        caller.close()
        await until(lambda: not s.plane.tunnels)
        assert (s.logged[0].method, s.logged[0].path, s.logged[0].status) == ("CONNECT", "", 200)


async def test_connect_leads_to_the_route_s_own_port_alone() -> None:
    async with greeter() as port, stage(**allowing(port)) as s:
        for data in (
            connecting(port + 1),
            connecting(port, host=b"other.example"),
            connecting(port, host=b"localhost"),
        ):
            answer = await refused(await s.caller(), data)
            assert (answer.status, answer.code) == (403, "not_allowed")


async def test_connect_never_leads_into_our_own_network() -> None:
    """Unless the config names the address: a name's owner says what it means today, and this machine has more to hide."""

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    async with greeter() as port:
        how = allowing(port, to="api.example")
        how["parts"] = {"resolve": resolve}
        async with stage(**how) as s:
            answer = await refused(await s.caller(), connecting(port))
            assert (answer.status, answer.code) == (403, "not_allowed")
            assert "public" in answer.problem["detail"]
            assert s.plane.tunnel_turns.taken == 0


async def test_connect_to_an_upstream_that_is_not_there() -> None:
    async with greeter() as port:
        pass
    async with stage(**allowing(port)) as s:
        caller = await s.caller()
        answer = await refused(caller, connecting(port, b"hello"))
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        assert answer.values(b"connection") == [b"close"]
        assert await caller.rest() == b""
        assert s.plane.tunnel_turns.taken == 0


async def test_a_server_that_speaks_first_and_ends() -> None:
    """A banner and a FIN that are there before the tunnel is."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"busy, come back")
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with stage(**allowing(port)) as s:
            caller = await s.caller()
            await caller.send(connecting(port))
            assert (await caller.head()).status == 200
            assert await caller.rest() == b"busy, come back"
            caller.close()
            await until(lambda: not s.plane.tunnels)
