"""TLS of the admin side's TCP listeners: what is shown to whom, who is kept out, and a renewed certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from tests.admin.program import TOKEN
from tests.simulators import free_port, write_config
from tests.simulators.provider import PlainProvider
from tests.stories.serving import command, imported, serving
from tokenproxy.admin import server
from tokenproxy.admin.api import Desk, metrics_app, tcp_app
from tokenproxy.admin.guard import Guard
from tokenproxy.admin.logins import LoginPages
from tokenproxy.admin.probe import probe
from tokenproxy.admin.server import Running, serve_tcp
from tokenproxy.errors import TokenproxyError

AUTHORITY = trustme.CA()
OTHERS = trustme.CA()
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def showing(*, clients: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def trusting(*, own: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if own is not None:
        own.issue_cert("operator@example.com").configure_cert(context)
    return context


async def talk(
    running: Running, context: ssl.SSLContext | None, sent: bytes = GET
) -> tuple[bytes, dict[str, Any]]:
    """What comes back, and the certificate that was shown."""
    host, port = running.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert() if context is not None else {}
    writer.write(sent)
    try:
        return await reader.read(), shown
    finally:
        writer.close()


async def test_beyond_this_machine_reading_needs_the_token_too(desk: Desk, pages: LoginPages) -> None:
    """Who has an account at which provider is nobody else's business; probes and the API's description stay open."""
    app = tcp_app(desk, Guard.of("https://tokens.example:8443"), pages, reads_freely=False)
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen", context=showing())
    shown = {"Authorization": f"Bearer {TOKEN}"}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting())) as session:
        for path in ("/api/accounts", "/api/accounts/books", "/api/overview", "/api/status"):
            async with session.get(f"https://{running.address}{path}") as answer:
                assert answer.status == 401
                assert "books" not in await answer.text()
            async with session.get(f"https://{running.address}{path}", headers=shown) as answer:
                assert answer.status == 200
        for path in ("/healthz", "/metrics", "/api/openapi.json"):
            async with session.get(f"https://{running.address}{path}") as answer:
                assert answer.status == 200
    await running.close()


async def test_the_admin_listener_speaks_tls(desk: Desk, pages: LoginPages) -> None:
    app = tcp_app(desk, Guard.of("https://tokens.example:8443"), pages)
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen", context=showing())

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting())) as session:
        async with session.get(f"https://{running.address}/api/accounts/books") as answer:
            assert (answer.status, (await answer.json())["account"]) == (200, "books")
        async with session.post(
            f"https://{running.address}/api/accounts/books/refresh",
            headers={"Authorization": f"Bearer {TOKEN}", "Origin": f"https://{running.address}"},
            json={},
        ) as answer:
            assert answer.status == 200
    assert await asyncio.to_thread(probe, f"https://{running.address}", path="/healthz") == (True, "ok")
    assert (await asyncio.to_thread(probe, running.address))[0] is False
    await running.close()
    with pytest.raises(OSError):
        await talk(running, trusting())


async def test_who_speaks_plain_http_is_told_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """And one line of the log says so."""
    caplog.set_level("DEBUG")
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen", context=showing())

    answer, _ = await talk(running, None)

    assert b"HTTP" not in answer
    assert (await talk(running, trusting()))[0].startswith(b"HTTP/1.1 200")
    told = [str(record.__dict__.get("fields")) for record in caplog.records]
    assert [said for said in told if "no TLS connection came about" in said]
    await running.close()


async def test_who_has_no_certificate_of_the_authority_is_kept_out(desk: Desk) -> None:
    context = showing(clients=OTHERS)
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen", context=context)

    assert (await talk(running, trusting(own=OTHERS)))[0].startswith(b"HTTP/1.1 200")
    for own in (None, AUTHORITY):
        with suppress(ssl.SSLError, ConnectionError):  # TLS 1.3 tells it with the first read, if at all
            assert (await talk(running, trusting(own=own)))[0] == b""
    await running.close()


async def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(desk: Desk) -> None:
    """Who is in stays in."""
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen", context=showing())
    host, port = running.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting())
    before = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]

    running.show(showing())

    _, shown = await talk(running, trusting())
    assert shown["serialNumber"] != before
    writer.write(GET)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await running.close()


async def test_handshakes_that_never_end_are_bounded_in_number_and_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    monkeypatch.setattr(server, "HANDSHAKE", 0.3)
    running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen", context=showing())
    host, port = running.address.rsplit(":", 1)
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(4)]

    assert await silent[3][0].read() == b""  # at once: there are three already
    for reader, _ in silent[:3]:
        assert await asyncio.wait_for(reader.read(), 5) == b""
    assert (await talk(running, trusting()))[0].startswith(b"HTTP/1.1 200")
    for _, writer in silent:
        writer.close()
    await running.close()


async def test_who_came_by_another_authority_leaves_after_the_call_under_way() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/slow":
            asked.set()
            await go.wait()
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_get("/{where}", handle)
    running = await serve_tcp(app, "127.0.0.1:0", key="admin.listen", context=showing(clients=OTHERS))
    host, port = running.address.rsplit(":", 1)

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(host, int(port), ssl=trusting(own=OTHERS))

    (idle, idle_writer), (slow, slow_writer) = await connected(), await connected()
    silent, silent_writer = await asyncio.open_connection(host, int(port))
    idle_writer.write(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await idle.readuntil(b"/a")).startswith(b"HTTP/1.1 200")
    running.show(showing(clients=OTHERS))
    idle_writer.write(b"GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await idle.readuntil(b"/b")).startswith(b"HTTP/1.1 200")
    slow_writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
    await asked.wait()

    running.show(showing(clients=trustme.CA()), anew=True)

    for reader in (idle, silent):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    go.set()
    answers = await asyncio.wait_for(slow.read(), 5)
    assert (answers.count(b"HTTP/1.1 "), answers[-5:]) == (1, b"/slow")
    for writer in (idle_writer, slow_writer, silent_writer):
        writer.close()
    await running.close()


async def test_a_port_in_use_is_one_sentence_with_tls_too(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TokenproxyError, match=r"^admin\.listen: .* is in use by another process\.$"):
            await serve_tcp(metrics_app(desk), address, key="admin.listen", context=showing())


def test_uvloop_does_the_same(desk: Desk) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

    async def run() -> None:
        running = await serve_tcp(metrics_app(desk), "127.0.0.1:0", key="metrics.listen", context=showing())
        assert (await talk(running, trusting()))[0].startswith(b"HTTP/1.1 200")
        running.show(showing())
        assert (await talk(running, trusting()))[0].startswith(b"HTTP/1.1 200")
        await talk(running, None)
        assert (await talk(running, trusting()))[0].startswith(b"HTTP/1.1 200")
        await running.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# -- the real program ------------------------------------------------------------------------------------------------------


def certificate(folder: Path) -> None:
    issued = AUTHORITY.issue_cert("127.0.0.1", "localhost")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key = folder / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    OTHERS.cert_pem.write_to_path(str(folder / "operators.pem"))


async def test_serve_with_tls_from_healthcheck_to_a_renewed_certificate(tmp_path: Path) -> None:
    """Commands go by the socket, operators show certificates, the metrics listener is open, all of it over TLS."""
    certificate(tmp_path)
    admin, metrics = free_port(), free_port()
    files = 'cert_file = "cert.pem"\nkey_file = "key.pem"\n'
    async with PlainProvider() as provider:
        config = write_config(tmp_path, provider, provider.url, admin_listen=f"127.0.0.1:{admin}")
        text = config.read_text().replace("[admin]\n", f'[admin]\n{files}client_ca_file = "operators.pem"\n')
        config.write_text(text)
        async with serving(config) as serve:
            await imported(config, "books", provider.new_grant())
            code, out, err = await command(config, "healthcheck")
            assert (code, out) == (0, "ok\n"), err
            code, _, err = await command(config, "status", "books")
            assert code == 0, err
            token = config.with_name("tokenproxy.db.admin-token").read_text().strip()
            connector = aiohttp.TCPConnector(ssl=trusting(own=OTHERS), force_close=True)
            async with aiohttp.ClientSession(connector=connector) as session:
                url = f"https://{serve.addresses['admin']}"
                async with session.post(
                    f"{url}/api/logins",
                    json={"account": "books"},
                    headers={"Authorization": f"Bearer {token}"},
                ) as answer:
                    login = await answer.json()
                assert login["start_url"].startswith(f"https://127.0.0.1:{admin}/login/")
                async with session.get(login["start_url"], allow_redirects=False) as answer:
                    assert "__Host-tokenproxy=" in answer.headers["Set-Cookie"]
                    assert "Secure" in answer.headers["Set-Cookie"]
                with pytest.raises(aiohttp.ClientError):
                    async with aiohttp.ClientSession() as nobody:
                        await nobody.get(f"{url}/healthz", ssl=trusting())

                open_still = await asyncio.open_connection("127.0.0.1", admin, ssl=trusting(own=OTHERS))
                before = await serial(serve.addresses["admin"])
                certificate(tmp_path)
                config.write_text(f'{text}\n[metrics]\nlisten = "127.0.0.1:{metrics}"\n{files}')
                code, out, err = await command(config, "reload")
                assert code == 0, err
                assert "metrics.listen" in out, "a new listener is for the next start"
                assert await serial(serve.addresses["admin"]) != before

                (tmp_path / "key.pem").write_text("-----BEGIN nothing")
                code, _, err = await command(config, "reload")
                assert code != 0
                assert "admin.cert_file" in err
                async with session.get(f"{url}/healthz") as answer:
                    assert answer.status == 200
                open_still[1].write(GET.replace(b"close", b"keep-alive"))
                assert (await open_still[0].readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")

                certificate(tmp_path)
                trustme.CA().cert_pem.write_to_path(str(tmp_path / "operators.pem"))
                code, _, err = await command(config, "reload")
                assert code == 0, err
                assert await asyncio.wait_for(open_still[0].read(), 5) == b""
                open_still[1].close()
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"{url}/healthz")
            assert await serve.stop() == 0

        certificate(tmp_path)
        async with serving(config) as serve:
            code, out, err = await command(config, "healthcheck", "--ready")
            assert (code, out) == (0, "ok\n"), err
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"https://127.0.0.1:{metrics}/metrics", ssl=trusting()) as answer,
            ):
                assert "tokenproxy_build_info" in await answer.text()


async def serial(address: str) -> str:
    """Of the certificate that is shown there."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting(own=OTHERS))
    shown: str = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    del reader
    return shown
