"""TLS towards upstreams: verified, with authorities and a certificate of the route's own where it names them."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.actors import Line, ScriptedUpstream, chunked, ok, route_to, stage, unless, until
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import Deadlines, TLSFiles
from tokenproxy.proxy import TLSFileError, tls_context


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def server(authority: trustme.CA, *names: str, clients: trustme.CA | None = None) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return {"ssl": context}


def secure(ca_file: str = "", **files: str) -> dict[str, Any]:
    return {"scheme": "https", "to": "localhost", "tls": TLSFiles(ca_file=ca_file, **files)}


async def test_an_upstream_behind_tls(authority: trustme.CA, ca_file: str) -> None:
    """Handshake once, then kept; the replay works as well; HTTP/1.1 is agreed on, not h2."""
    agreed: set[str | None] = set()

    async def script(line: Line) -> None:
        agreed.add(line.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await unless(b"token-1")(line)

    how = server(authority, "localhost")
    async with stage(script, upstream_how=how, route=secure(ca_file)) as s:
        caller = await s.caller()
        assert (await caller.get()).body == b"hello"
        assert (await caller.post(b"x" * 300_000)).body == b"hello"
        assert s.upstream.seen[-1].body == b"x" * 300_000
        assert (s.upstream.connections, agreed) == (1, {"http/1.1"})


async def test_large_answers_behind_tls(authority: trustme.CA, ca_file: str) -> None:
    body = b"x" * 3_000_000
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body)
    async with stage(answer, upstream_how=server(authority, "localhost"), route=secure(ca_file)) as s:
        assert (await (await s.caller()).get()).body == body


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"X: until the close"])
async def test_a_cut_answer_behind_tls_is_never_whole(
    authority: trustme.CA, ca_file: str, framing: bytes
) -> None:
    """Without the closure alert it may have been anybody on the way who ended the body (RFC 9112 section 9.8)."""

    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\nhalf")
        await asyncio.sleep(0.02)
        line.writer.transport.abort()

    async with stage(script, upstream_how=server(authority, "localhost"), route=secure(ca_file)) as s:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await (await s.caller()).get()


async def test_an_answer_until_close_behind_tls(authority: trustme.CA, ca_file: str) -> None:
    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        line.close()

    async with stage(script, upstream_how=server(authority, "localhost"), route=secure(ca_file)) as s:
        assert (await (await s.caller()).get()).body == b"all of it"


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "no tls"])
async def test_a_certificate_that_proves_nothing_gets_no_token(
    authority: trustme.CA, ca_file: str, fault: str
) -> None:
    """Whoever sits between us and the upstream must not get the token."""
    how = {
        "unknown authority": server(trustme.CA(), "localhost"),
        "other name": server(authority, "other.example"),
        "no tls": {},
    }[fault]
    async with stage(upstream_how=how, route=secure(ca_file), deadlines=Deadlines(connect=0.5)) as s:
        answer = await (await s.caller()).get()
        assert not s.upstream.seen
        if not how:  # it waits for our HTTP as we wait for its TLS
            assert answer.code == "upstream_timeout"
        else:
            assert (answer.status, answer.code) == (502, "upstream_unreachable")
            assert "not trusted" in answer.problem["detail"]
            assert "ca_file" in answer.problem["next_step"]


async def test_the_systems_authorities_are_the_default(authority: trustme.CA) -> None:
    """An authority that nobody configured is unknown."""
    async with stage(upstream_how=server(authority, "localhost"), route=secure()) as s:
        assert (await (await s.caller()).get()).code == "upstream_unreachable"


async def test_a_client_certificate(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    own = authority.issue_cert("proxy.example")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    with (tmp_path / "cert.pem").open("wb") as file:
        for blob in own.cert_chain_pems:
            file.write(blob.bytes())
    files = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    how = server(authority, "localhost", clients=authority)
    async with stage(upstream_how=how, route=secure(ca_file, **files)) as s:
        assert (await (await s.caller()).get()).body == b"hello"
    async with stage(upstream_how=how, route=secure(ca_file)) as s:
        answer = await (await s.caller()).get()
        assert answer.status == 502
        assert not s.upstream.seen


async def test_routes_with_other_files_share_no_connection(authority: trustme.CA, ca_file: str) -> None:
    """Trust is the route's: a connection made under one route's authorities is not another's."""

    def routes(port: int) -> list[Any]:
        return [route_to(port, **secure(ca_file)), route_to(port, name="strict", **secure())]

    async with stage(routes=routes, upstream_how=server(authority, "localhost")) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 200
        assert (await caller.get(b"/strict/x")).code == "upstream_unreachable"


async def test_a_certificate_replaced_under_its_name_is_seen_at_a_swap(tmp_path: Path) -> None:
    """Short-lived certificates are renewed in place; a reload must take the new one."""
    old, new = trustme.CA(), trustme.CA()
    path = tmp_path / "ca.pem"
    path.write_bytes(old.cert_pem.bytes())
    async with stage(upstream_how=server(old, "localhost"), route=secure(str(path))) as s:
        caller = await s.caller()
        assert (await caller.get()).status == 200
        s.swap()
        assert (await caller.get()).status == 200
        assert s.upstream.connections == 1
        path.write_bytes(new.cert_pem.bytes())
        s.swap()
        assert (await caller.get()).code == "upstream_unreachable"
        other = await ScriptedUpstream(ok(b"new")).start(**server(new, "localhost"))
        s.swap(routes=RouteTable.of([route_to(other.port, **secure(str(path)))]))
        assert (await caller.get()).body == b"new"
        await until(lambda: s.upstream.open == 0)
        await other.stop()


def test_files_that_cannot_be_used(tmp_path: Path, authority: trustme.CA, ca_file: str) -> None:
    """Each one sentence that names the key and the file, before the first request."""
    junk, key = tmp_path / "junk.pem", tmp_path / "key.pem"
    junk.write_text("no certificate")
    authority.issue_cert("x.example").private_key_pem.write_to_path(key)
    own = tmp_path / "own.pem"
    own.write_bytes(authority.issue_cert("y.example").cert_chain_pems[0].bytes())
    for files, message in (
        (TLSFiles(ca_file=str(tmp_path / "no.pem")), "here.ca_file: .*no.pem cannot be read: No such file"),
        (TLSFiles(ca_file=str(tmp_path)), "here.ca_file: .* cannot be read"),
        (TLSFiles(ca_file=str(junk)), "here.ca_file: .*junk.pem holds no certificates"),
        (
            TLSFiles(cert_file=str(junk), key_file=str(key)),
            "here.cert_file: .*do not make a client certificate",
        ),
        (
            TLSFiles(cert_file=str(own), key_file=str(key)),
            "here.cert_file: .*do not make a client certificate",
        ),
        (TLSFiles(cert_file=str(own)), "here.cert_file: .*do not make a client certificate"),
    ):
        with pytest.raises(TLSFileError, match=message) as caught:
            tls_context(files, where="here")
        assert caught.value.exit_code == 2
        assert caught.value.next_step
    context = tls_context(TLSFiles(ca_file=ca_file))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_an_encrypted_key_is_an_error_and_no_question(tmp_path: Path, authority: trustme.CA) -> None:
    """OpenSSL would ask for the password on the terminal, and a daemon would hang."""
    from cryptography.hazmat.primitives import serialization

    own = authority.issue_cert("x.example")
    plain = serialization.load_pem_private_key(own.private_key_pem.bytes(), None)
    (tmp_path / "key.pem").write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    (tmp_path / "cert.pem").write_bytes(own.cert_chain_pems[0].bytes())
    files = TLSFiles(cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / "key.pem"))
    with pytest.raises(TLSFileError, match="do not make a client certificate"):
        tls_context(files)


async def test_routes_with_the_same_files_share_one_context(ca_file: str) -> None:
    """Each takes 25 ms and a megabyte: 300 https routes would start for seconds, and stand still at each reload."""
    routes = [
        route_to(port, name=f"r{port}", prefix=f"/r{port}/", **secure(ca_file)) for port in range(8443, 8448)
    ]
    async with stage(routes=lambda _: routes) as s:
        contexts = {id(pool.tls) for pool in s.plane._pools.values()}
        s.plane.swap(s.settings)

        assert len(contexts) == 1
        assert {id(pool.tls) for pool in s.plane._pools.values()} == contexts


async def test_a_place_that_the_token_set_names_is_verified_by_its_name(
    authority: trustme.CA, ca_file: str
) -> None:
    """Under the route's authorities; one whose certificate is another's gets no token."""
    route = secure(ca_file) | {
        "template": "https://{host}",
        "hosts": ("localhost", "127.0.0.1"),
        "authority": "",
    }
    async with stage(upstream_how=server(authority, "localhost"), route=route) as s:
        caller = await s.caller()
        s.source.more = {"captured": {"host": f"localhost:{s.upstream.port}"}}
        s.source.tokens("books", 1)
        assert (await caller.get()).body == b"hello"
        s.swap(hosts=frozenset({"other.example"}))
        assert (await caller.get()).body == b"hello"
        assert s.upstream.connections == 1  # a reload keeps what is under the same files
        s.source.more = {"captured": {"host": f"127.0.0.1:{s.upstream.port}"}}
        s.source.tokens("books", 2)
        s.source.generations["books"] = 2
        assert (await caller.get()).code == "upstream_unreachable"
        assert len(s.upstream.seen) == 2
