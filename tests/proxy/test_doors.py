"""Listeners: who comes in by which, what they say to who knocks in the wrong way, and how a reload changes them."""

from __future__ import annotations

import asyncio
import errno
import grp
import logging
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.actors import PATIENCE, QUICK, Caller, Line, Source, Stage, dead, ok, stage, until
from tokenproxy.audit import ACTOR, BY_ITSELF, Actor
from tokenproxy.core.interfaces import KeepAnswer
from tokenproxy.core.settings import Deadlines, Limits, Listen, TLSFiles
from tokenproxy.core.tokens import Sendable, TokenSet
from tokenproxy.proxy import ListenError, TLSFileError, server_context

ANY = "127.0.0.1:0"
GET = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(authority: trustme.CA, folder: Path, *, clients: trustme.CA | None = None) -> TLSFiles:
    """Files for a listener, written over what was there."""
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert("localhost")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    if clients is not None:
        clients.cert_pem.write_to_path(str(folder / "ca.pem"))
    return TLSFiles(
        cert_file=str(folder / "cert.pem"),
        key_file=str(folder / "key.pem"),
        ca_file=str(folder / "ca.pem") if clients is not None else "",
    )


def trusting(authority: trustme.CA, *, own: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if own is not None:
        own.configure_cert(context)
    return context


async def secure_caller(s: Stage, address: str, context: ssl.SSLContext) -> Caller:
    host, _, port = address.rpartition(":")
    caller = Caller(*await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost"))
    s.callers.append(caller)
    return caller


async def caller_at(s: Stage, address: str) -> Caller:
    caller = await Caller.connect(address)
    s.callers.append(caller)
    return caller


def serial(caller: Caller) -> int:
    found: dict[str, Any] = caller.writer.get_extra_info("ssl_object").getpeercert()
    return int(found["serialNumber"], 16)


async def change(s: Stage, *ways: Listen | str) -> list[str]:
    """What a reload does."""
    return await s.plane.open(
        s.plane.prepared([Listen(address=way) if isinstance(way, str) else way for way in ways])
    )


async def refused(address: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        await Caller.connect(address)


# TLS


async def test_requests_over_tls(authority: trustme.CA, tmp_path: Path) -> None:
    """Both ways of bodies, kept alive, pipelined; HTTP/1.1 is agreed on, and at least TLS 1.2."""
    async with stage(ok(b"y" * 300_000), listen=ANY) as s:
        address = await s.plane.listen(Listen(address=ANY, tls=certificate(authority, tmp_path)))
        caller = await secure_caller(s, address, trusting(authority))
        inner = caller.writer.get_extra_info("ssl_object")
        assert (inner.selected_alpn_protocol(), inner.version()) == ("http/1.1", "TLSv1.3")
        assert (await caller.post(b"x" * 300_000)).body == b"y" * 300_000
        assert s.upstream.seen[0].body == b"x" * 300_000
        await caller.send(GET + GET)
        assert [(await caller.answer()).status for _ in range(2)] == [200, 200]
        assert (await (await s.caller()).get()).status == 200  # the plain one beside it
        old = trusting(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await (await secure_caller(s, address, old)).get()).status == 200


async def test_a_page_of_a_tls_listener_is_no_stranger(authority: trustme.CA, tmp_path: Path) -> None:
    """Its origin begins with https://; that of the plain listener's does not."""
    async with stage() as s:
        address = await s.plane.listen(Listen(address=ANY, tls=certificate(authority, tmp_path)))
        for origin, status in ((b"https://localhost", 200), (b"http://localhost", 403)):
            caller = await secure_caller(s, address, trusting(authority))
            assert (await caller.get(b"/books/x", b"Origin: " + origin)).status == status


async def test_plain_http_to_a_tls_port_is_told_so(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A person who forgot one letter, and not an empty answer; nothing of the request is done."""
    caplog.set_level(logging.INFO)
    async with stage() as s:
        address = await s.plane.listen(Listen(address=ANY, tls=certificate(authority, tmp_path)))
        for _ in range(2):
            caller = await caller_at(s, address)
            await caller.send(GET)
            answer = await caller.answer()
            assert (answer.status, answer.code) == (400, "bad_request")
            assert "https://" in answer.problem["next_step"]
            assert await caller.rest() == b""
        assert not s.upstream.seen
        told = [each.__dict__["fields"] for each in caplog.records if each.message == "caller_refused"]
        assert told == [
            {
                "code": "bad_request",
                "listener": address,
                "detail": "plain HTTP where TLS is spoken",
                "times": 1,
            }
        ]


async def test_tls_to_a_plain_port_is_told_so(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller sees only that this is no TLS; the log says what it was."""
    caplog.set_level(logging.INFO)
    async with stage() as s:
        with pytest.raises(ssl.SSLError):
            await secure_caller(s, s.address, trusting(authority))
        caller = await s.caller()
        await caller.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        answer = await caller.answer()
        assert answer.code == "bad_request"
        assert "http://" in answer.problem["next_step"]
        assert [
            each.__dict__["fields"]["detail"] for each in caplog.records if each.message == "caller_refused"
        ] == ["TLS where plain HTTP is spoken"]
        assert (await (await s.caller()).get()).status == 200


async def test_only_who_has_a_certificate_of_the_authority_comes_in(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``client_ca_file``; before a request is read."""
    caplog.set_level(logging.INFO)
    clients = trustme.CA()
    async with stage() as s:
        tls = certificate(authority, tmp_path, clients=clients)
        address = await s.plane.listen(Listen(address=ANY, tls=tls))
        good = await secure_caller(s, address, trusting(authority, own=clients.issue_cert("app@example.com")))
        assert (await good.get()).status == 200
        for own in (None, trustme.CA().issue_cert("app@example.com")):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                # With TLS 1.3 the caller learns of it when it reads.
                await (await secure_caller(s, address, trusting(authority, own=own))).get()
        assert len(s.upstream.seen) == 1
        told = [each.__dict__["fields"] for each in caplog.records if each.message == "caller_refused"]
        assert len(told) == 1
        assert told[0]["detail"].startswith("no TLS connection came about: ")


async def test_a_handshake_that_does_not_end_is_ended(authority: trustme.CA, tmp_path: Path) -> None:
    """``deadlines.head``, from the connect on: before the first byte, and in the middle of it."""
    async with stage(deadlines=QUICK) as s:
        address = await s.plane.listen(Listen(address=ANY, tls=certificate(authority, tmp_path)))
        for beginning in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            caller = await caller_at(s, address)
            await caller.send(beginning)
            assert await caller.rest() == b""
        assert not s.plane.callers


async def test_handshakes_count_as_callers(authority: trustme.CA, tmp_path: Path) -> None:
    """Who never speaks must not take all descriptors."""
    async with stage(limits=Limits(connections=3), deadlines=Deadlines(head=30)) as s:
        address = await s.plane.listen(Listen(address=ANY, tls=certificate(authority, tmp_path)))
        silent = [await caller_at(s, address) for _ in range(3)]
        late = await caller_at(s, address)
        assert await late.rest() == b""
        for each in silent:
            each.cut()


async def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """What certbot does, and a reload; who is in stays in. A broken one leaves the old one serving, and is told."""
    async with stage() as s:
        way = Listen(address=ANY, tls=certificate(authority, tmp_path))
        address = await s.plane.listen(way)
        before = await secure_caller(s, address, trusting(authority))
        assert (await before.get()).status == 200

        certificate(authority, tmp_path)
        assert await change(s, ANY, way) == [s.address, address]
        after = await secure_caller(s, address, trusting(authority))
        assert serial(after) != serial(before)

        (tmp_path / "key.pem").write_text("-----BEGIN nothing")
        with pytest.raises(TLSFileError, match=r"server\.listen\[1\]\.cert_file"):
            await change(s, ANY, way)
        third = await secure_caller(s, address, trusting(authority))
        assert serial(third) == serial(after)
        for caller in (before, after, third):
            assert (await caller.get()).status == 200


@pytest.mark.parametrize("what", ["replaced", "gone", "required", "begins"])
async def test_other_authorities_count_for_connections_that_are_open_too(
    authority: trustme.CA, tmp_path: Path, what: str
) -> None:
    """Who came by an earlier one leaves after the answer under way; what is in a handshake must begin anew."""
    go, asked = asyncio.Event(), asyncio.Event()

    async def script(line: Line) -> None:
        if line.seen.target == b"/slow":
            asked.set()
            await go.wait()
        await line.send(ok(b"hello"))

    first, second = trustme.CA(), trustme.CA()
    files = certificate(authority, tmp_path, clients=first)
    if what == "begins":
        files = replace(files, ca_file="")
    before = Listen(address=ANY, tls=files, client_optional=what == "required")
    one = first.issue_cert("app@example.com")
    async with stage(script) as s:
        address = await s.plane.listen(before)
        idle, busy, halfway = [
            await secure_caller(s, address, trusting(authority, own=one)) for _ in range(3)
        ]
        assert (await idle.get()).status == 200
        assert await change(s, ANY, before) == [
            s.address,
            address,
        ]  # other files of ours, the same authorities
        assert (await idle.get()).status == 200
        await halfway.send(GET[:20])
        shaking = await caller_at(s, address)
        await shaking.send(b"\x16\x03\x01\x02\x00\x01\x00")
        await busy.send(GET.replace(b"/x", b"/slow") + GET)
        await asked.wait()

        after = certificate(authority, tmp_path, clients=first if what == "required" else second)
        if what == "gone":
            after = replace(after, ca_file="")
        assert await change(s, ANY, Listen(address=ANY, tls=after)) == [s.address, address]
        for caller in (idle, halfway, shaking):
            assert await caller.rest() == b""
        go.set()
        assert (await busy.answer()).body == b"hello"
        assert await busy.rest() == b""
        assert [each.target for each in s.upstream.seen] == [b"/x", b"/x", b"/slow"]
        own = (
            None
            if what == "gone"
            else (first if what == "required" else second).issue_cert("app@example.com")
        )
        assert (await (await secure_caller(s, address, trusting(authority, own=own))).get()).status == 200
        if what == "replaced":
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await (await secure_caller(s, address, trusting(authority, own=one))).get()
        assert (await (await s.caller()).get()).status == 200


async def test_authorities_that_begin_to_count_with_tls(authority: trustme.CA, tmp_path: Path) -> None:
    """A port that spoke plain HTTP a moment ago."""
    clients = trustme.CA()
    async with stage() as s:
        plain = await s.caller()
        assert (await plain.get()).status == 200
        await change(s, Listen(address=ANY, tls=certificate(authority, tmp_path, clients=clients)))
        assert await plain.rest() == b""
        own = clients.issue_cert("app@example.com")
        assert (await (await secure_caller(s, s.address, trusting(authority, own=own))).get()).status == 200


async def test_a_port_goes_over_to_tls_and_back(authority: trustme.CA, tmp_path: Path) -> None:
    """Without a moment in which it is closed."""
    async with stage() as s:
        plain, tls = Listen(address=ANY), Listen(address=ANY, tls=certificate(authority, tmp_path))
        early = await s.caller()
        assert await change(s, tls) == [s.address]
        caller = await secure_caller(s, s.address, trusting(authority))
        assert (await caller.get()).status == 200
        assert (await early.get()).status == 200
        assert await change(s, plain) == [s.address]
        assert (await (await s.caller()).get()).status == 200
        assert (await caller.get()).status == 200


def test_files_that_make_no_server(authority: trustme.CA, tmp_path: Path) -> None:
    good = certificate(authority, tmp_path)
    (tmp_path / "empty.pem").touch()
    for files, key, words in (
        (TLSFiles(cert_file=str(tmp_path / "no.pem")), "cert_file", "cannot be read"),
        (TLSFiles(cert_file=good.cert_file), "cert_file", "do not make a server certificate"),
        (
            TLSFiles(cert_file=good.cert_file, key_file=good.key_file, ca_file=str(tmp_path / "empty.pem")),
            "client_ca_file",
            "holds no certificates",
        ),
    ):
        with pytest.raises(TLSFileError) as caught:
            server_context(files, where="here")
        assert caught.value.message.startswith(f"here.{key}: ")
        assert words in caught.value.message
        assert caught.value.next_step


# Unix sockets


async def test_a_socket_may_be_shared_with_a_group(tmp_path: Path) -> None:
    """A reload changes it under who is connected."""
    path = tmp_path / "proxy.sock"
    group = os.getgroups()[0] if os.getgroups() else os.getgid()
    way = Listen(address=f"unix:{path}", mode=0o660, group=str(group))
    async with stage() as s:
        assert await s.plane.listen(way) == f"unix:{path}"
        assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (0o660, group)
        caller = await caller_at(s, f"unix:{path}")
        await change(s, ANY, Listen(address=f"unix:{path}", mode=0o666))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert (await caller.get()).status == 200
    assert not path.exists()


async def test_a_group_by_name(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with stage() as s:
        await s.plane.listen(Listen(address=f"unix:{path}", group=grp.getgrgid(os.getgid()).gr_name))
        with pytest.raises(ListenError, match="there is no group nobody-has-this-one"):
            await s.plane.listen(Listen(address=f"unix:{tmp_path}/other", group="nobody-has-this-one"))


async def test_a_socket_without_a_file() -> None:
    """Linux's abstract sockets: nothing is left behind, and a second one is refused."""
    name = f"unix:@tokenproxy-{os.getpid()}"
    async with stage(listen=name) as s:
        assert s.address == name
        calling = socket.socket(socket.AF_UNIX)
        calling.connect(f"\0{name.removeprefix('unix:@')}")
        s.callers.append(Caller(*await asyncio.open_unix_connection(sock=calling)))
        assert (await s.callers[0].get()).status == 200
        with pytest.raises(ListenError, match=r"[Aa]ddress already in use"):
            await s.plane.listen(name)


# systemd: what it passes are sockets that listen already


def listening(where: str = "127.0.0.1") -> socket.socket:
    found = socket.socket()
    found.bind((where, 0))
    found.listen()
    return found


async def test_sockets_of_systemd_by_name_and_the_others_without() -> None:
    """A reload may close such an entry and open it again; the sockets themselves are not ours to close."""
    web, api, more = listening(), listening(), listening()
    ports = {name: each.getsockname()[1] for name, each in (("web", web), ("api", api), ("more", more))}
    passed = {"web": [web], "unknown": [api, more]}
    with web, api, more:
        async with stage(parts={"passed": passed}) as s:
            for ways, names in (
                (("systemd:web",), ["web"]),
                (("systemd:",), ["web", "api", "more"]),
                (("systemd:web", "systemd:"), ["web", "api", "more"]),
            ):
                found = await change(s, *ways)
                assert found == [f"127.0.0.1:{ports[name]}" for name in names]
                for address in found:
                    assert (await (await caller_at(s, address)).get()).status == 200
        (await Caller.connect(f"127.0.0.1:{ports['web']}")).close()  # waits in the queue for who comes next


async def test_sockets_of_systemd_that_cannot_be_used() -> None:
    everywhere, deaf = listening("0.0.0.0"), socket.socket()
    deaf.bind(("127.0.0.1", 0))
    with everywhere, deaf:
        async with stage(parts={"passed": {"all": [everywhere], "deaf": [deaf]}}) as s:
            for way, words in (
                (Listen(address="systemd:web"), "no such socket (it passed all, deaf)"),
                (Listen(address="systemd:deaf"), "no listening socket"),
                (Listen(address="systemd:all", local=True), "can be reached from other machines"),
            ):
                with pytest.raises(ListenError) as caught:
                    await s.plane.listen(way)
                assert words in caught.value.message
                assert caught.value.next_step
            await s.plane.listen(Listen(address="systemd:all"))


# a reload


async def test_listeners_come_and_go(tmp_path: Path) -> None:
    async with stage() as s:
        found = await change(s, ANY, f"unix:{tmp_path}/a", ANY)
        assert (found[0], found[1]) == (s.address, f"unix:{tmp_path}/a")
        for address in found:
            caller = await caller_at(s, address)
            assert (await caller.get()).status == 200
        assert await change(s, ANY) == [s.address]
        assert not (tmp_path / "a").exists()
        await refused(found[2])
        assert (await (await s.caller()).get()).status == 200


async def test_who_came_by_a_listener_that_is_gone_leaves_after_the_answer() -> None:
    """Idle callers at once: a listener may be taken away because of who is on it."""
    go = asyncio.Event()

    async def script(line: Line) -> None:
        await go.wait()
        await line.send(ok(b"done"))

    async with stage(script) as s:
        idle, busy = await s.caller(), await s.caller()
        await busy.send(GET + GET)
        await until(lambda: s.upstream.seen)
        await change(s, "localhost:0")
        assert await idle.rest() == b""
        go.set()
        assert (await busy.answer()).body == b"done"
        assert await busy.rest() == b""
        assert len(s.upstream.seen) == 1


async def test_a_listener_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with stage() as s:
            with pytest.raises(ListenError, match=r"[Aa]ddress already in use"):
                await change(s, f"unix:{tmp_path}/a", f"127.0.0.1:{taken.getsockname()[1]}")
            assert not (tmp_path / "a").exists()
            assert (await (await s.caller()).get()).status == 200


async def test_an_address_that_its_own_predecessor_holds_waits_for_a_restart() -> None:
    """The kernel gives a port of every address to nobody while one address of it is taken."""
    async with stage() as s:
        port = s.address.rpartition(":")[2]
        planned = s.plane.prepared([Listen(address=f"0.0.0.0:{port}")])
        assert planned.waiting
        assert await s.plane.open(planned) == [s.address]
        assert (await (await s.caller()).get()).status == 200


async def test_nobody_who_knocks_meanwhile_is_turned_away(authority: trustme.CA, tmp_path: Path) -> None:
    """Forty changes under callers that connect for each request."""
    way = Listen(address=ANY, tls=certificate(authority, tmp_path))
    async with stage() as s:
        address = await s.plane.listen(way)
        context = trusting(authority)
        statuses: list[int] = []

        async def knock() -> None:
            while len(statuses) < 60:
                both = await caller_at(s, s.address), await secure_caller(s, address, context)
                statuses.extend([(await caller.get()).status for caller in both])

        knocking = [asyncio.create_task(knock()) for _ in range(3)]
        for number in range(40):
            more: Sequence[Listen | str] = [ANY] if number % 2 else []
            await change(s, ANY, way, *more)
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*knocking)
        assert set(statuses) == {200}


async def test_without_descriptors_it_goes_on_later(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asyncio does for plain listeners; without the pause the loop would do nothing else."""
    monkeypatch.setattr("tokenproxy.proxy.doors.BREATH", 0.02)
    async with stage() as s:
        address = await s.plane.listen(Listen(address=ANY, tls=certificate(authority, tmp_path)))
        door = s.plane._doors[-1]
        real, failures = door._sockets[0], 2

        class Poor:
            def fileno(self) -> int:
                return real.fileno()

            def accept(self) -> tuple[socket.socket, Any]:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return real.accept()

        poor: Any = Poor()
        loop = asyncio.get_running_loop()
        loop.remove_reader(real.fileno())
        loop.add_reader(real.fileno(), door._take, loop, poor)
        assert (await (await secure_caller(s, address, trusting(authority))).get()).status == 200
        assert not failures


async def test_whoever_opened_a_door_is_not_who_comes_in_by_it() -> None:
    """A renewal belongs to a request, whoever set off the reload that opened the listener or a connection to the upstream."""
    renewals_of = []

    async def script(line: Line) -> None:
        await line.send(
            dead() if line.seen.token == b"token-1" and line.seen.target == b"/dead" else ok(b"fine")
        )

    class Noting(Source):
        async def renew(self, account: str, rejected: Sendable, *, route: str) -> TokenSet | KeepAnswer:
            renewals_of.append(ACTOR.get())
            return await super().renew(account, rejected, route=route)

    async with stage(script) as s:
        s.plane.source = Noting()
        operator = copy_context()
        operator.run(ACTOR.set, Actor("dashboard"))
        opened = await asyncio.get_running_loop().create_task(s.plane.listen(ANY), context=operator)
        by_it, by_the_first = await Caller.connect(opened), await s.caller()
        s.callers.append(by_it)
        assert (await by_it.get(b"/books/warm")).status == 200
        assert (await by_the_first.get(b"/books/dead")).status == 200
        assert (await by_it.get(b"/books/dead")).status == 200
        assert renewals_of == [BY_ITSELF]
