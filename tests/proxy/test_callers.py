"""Named callers: how each proves itself over real sockets, what it may use, how often, and what goes no further."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.actors import Caller as Client
from tests.proxy.actors import Line, Stage, ok, route_to, stage, until
from tests.proxy.test_doors import ANY, authority, certificate, secure_caller, trusting
from tokenproxy.core.callers import Caller, Certificate, Login, Peer
from tokenproxy.core.passwords import PasswordHash
from tokenproxy.core.routes import Route
from tokenproxy.core.settings import Deadlines, Limits, Listen
from tokenproxy.proxy import register

__all__ = ["authority"]

KEY = "a-key-of-good-length"
PASSWORD = "pässword: with a colon"
SALT = b"0123456789abcdef"
WEAK = PasswordHash(10, 8, 1, SALT, PasswordHash(10, 8, 1, SALT, b"").digest_of(PASSWORD.encode(), 32))
"""Quick to check."""
STRANGE = PasswordHash(10, 8, 1, SALT, b"0" * 32)
"""Of a password that nobody knows."""


def basic(name: str, password: str = PASSWORD, *, field: bytes = b"Authorization") -> bytes:
    return field + b": Basic " + base64.b64encode(f"{name}:{password}".encode())


def by_password(name: str = "app", **changes: Any) -> Caller:
    return Caller(name=name, login=Login(username=name, passwords=(PASSWORD,)), **changes)


def by_hash(name: str = "app", **changes: Any) -> Caller:
    return Caller(name=name, login=Login(username=name, hashes=(WEAK,)), **changes)


def by_key(name: str = "app", key: str = KEY, **changes: Any) -> Caller:
    return Caller(name=name, keys=(key,), **changes)


def with_key(key: str = KEY) -> bytes:
    return b"Tokenproxy-Key: " + key.encode()


async def got(s: Stage, *fields: bytes, target: bytes = b"/books/x") -> Any:
    return await (await s.caller()).get(target, *fields)


def two_routes(**changes: Any) -> Any:
    def made(port: int) -> list[Route]:
        return [route_to(port, **changes), route_to(port, name="roster")]

    return made


# each way


@pytest.mark.parametrize("caller", [by_password(), by_hash()], ids=["password", "hash"])
async def test_a_user_name_and_password(caller: Caller) -> None:
    """RFC 7617; the answer to anything else names the way, and the credential goes no further."""
    async with stage(callers=(caller,)) as s:
        for _ in range(2):
            assert (await got(s, basic("app"))).status == 200
        head = s.upstream.seen[0].head
        assert b"Basic" not in head
        assert s.upstream.seen[0].token == b"token-1"
        for wrong in (
            (),
            (basic("app", "wrong"),),
            (basic("nobody"),),
            (basic("app"), basic("app")),
            (b"Authorization: Basic ?",),
            (b"Authorization: Basic " + base64.b64encode(b"app"),),
            (b"Authorization: Bearer abc",),
            (b"Authorization: " + PASSWORD.encode(),),
            (basic("app", field=b"Proxy-Authorization"),),
        ):
            answer = await got(s, *wrong)
            assert (answer.status, answer.code) == (401, "caller_unauthorized")
            assert answer.values(b"www-authenticate") == [b'Basic realm="tokenproxy", charset="UTF-8"']
            assert "Authorization: Basic" in answer.problem["next_step"]
        assert len(s.upstream.seen) == 2
        assert [each.caller for each in s.logged] == ["app", "app"] + [""] * 9
        assert s.metrics.callers["app"]["let_in"] == 2


async def test_a_key_with_a_name_beside_one_without() -> None:
    async with stage(callers=(by_key(),), caller_keys=("the-old-shared-key",)) as s:
        assert (await got(s, with_key())).status == 200
        assert (await got(s, with_key("the-old-shared-key"))).status == 200
        assert (await got(s, with_key("another"))).status == 401
        assert [each.caller for each in s.logged] == ["app", "", ""]
        assert b"tokenproxy-key" not in s.upstream.seen[0].head.lower()


async def test_a_certificate_says_who_it_is_once_per_connection(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """By any of its names; one of the same authority that names nobody is no caller."""
    clients = trustme.CA()
    callers = (
        Caller(name="dns", certificate=Certificate(dns=frozenset({"app.internal"}))),
        Caller(name="mail", certificate=Certificate(email=frozenset({"robot@example.com"}))),
        Caller(name="common", certificate=Certificate(cn=frozenset({"legacy"}))),
    )
    async with stage(callers=callers) as s:
        tls = certificate(authority, tmp_path, clients=clients)
        address = await s.plane.listen(Listen(address=ANY, tls=tls))
        for leaf, name in (
            (clients.issue_cert("App.internal"), "dns"),
            (clients.issue_cert("other.internal", "robot@example.com"), "mail"),
            (clients.issue_cert("x.internal", common_name="legacy"), "common"),
            (clients.issue_cert("stranger.internal", common_name="app.internal"), ""),
        ):
            client = await secure_caller(s, address, trusting(authority, own=leaf))
            for _ in range(2 if name else 1):
                answer = await client.get()
                assert answer.status == (200 if name else 401)
                assert s.logged[-1].caller == name
            if not name:
                assert answer.values(b"www-authenticate") == [b"Tokenproxy-Certificate"]
        assert (await got(s)).status == 401  # by the plain listener


async def test_a_certificate_where_it_is_optional(authority: trustme.CA, tmp_path: Path) -> None:
    """Who has none shows something else; a certificate of a stranger's authority is no way around that."""
    clients = trustme.CA()
    callers = (Caller(name="dns", certificate=Certificate(dns=frozenset({"app.internal"}))), by_key("app"))
    async with stage(callers=callers) as s:
        tls = certificate(authority, tmp_path, clients=clients)
        address = await s.plane.listen(Listen(address=ANY, tls=tls, client_optional=True))
        with_one = trusting(authority, own=clients.issue_cert("app.internal"))
        assert (await (await secure_caller(s, address, with_one)).get()).status == 200
        without = await secure_caller(s, address, trusting(authority))
        assert (await without.get(b"/books/x", with_key())).status == 200
        assert [each.caller for each in s.logged] == ["dns", "app"]
        without = await secure_caller(s, address, trusting(authority))
        assert (await without.get()).status == 401
        forged = trusting(authority, own=trustme.CA().issue_cert("app.internal"))
        with pytest.raises((OSError, ssl.SSLError, asyncio.IncompleteReadError)):
            await (await secure_caller(s, address, forged)).get()


async def test_the_process_at_the_other_end_of_a_unix_socket(tmp_path: Path) -> None:
    callers = (
        Caller(name="me", peer=Peer(users=frozenset({os.getuid()}))),
        Caller(name="else", peer=Peer(users=frozenset({os.getuid() + 1}))),
    )
    path = f"unix:{tmp_path}/p.sock"
    async with stage(callers=callers) as s:
        await s.plane.listen(Listen(address=path))
        client = await Client.connect(path)
        s.callers.append(client)
        for _ in range(2):
            assert (await client.get()).status == 200
        assert [each.caller for each in s.logged] == ["me", "me"]
        answer = await got(s)
        assert (answer.status, answer.values(b"www-authenticate")) == (401, [b"Tokenproxy-Peer"])
        s.swap(callers=callers[1:])
        assert (await client.get()).status == 401  # the open connection is looked at anew


AS_ANOTHER = """
import os, socket, sys
os.setgroups([4242]); os.setgid(4343); os.setuid(4444)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /books/x HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
print(s.makefile("rb").readline().decode().split()[1])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become other users")
@pytest.mark.parametrize(
    ("peer", "status"),
    [
        (Peer(users=frozenset({4444})), "200"),
        (Peer(groups=frozenset({4343})), "200"),
        (Peer(groups=frozenset({4242})), "200"),
        (Peer(users=frozenset({0}), groups=frozenset({0})), "401"),
    ],
)
async def test_other_users_and_groups(peer: Peer, status: str, tmp_path: Path) -> None:
    """The user, the group that it runs as, and the groups that it is in as well."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    async with stage(callers=(Caller(name="app", peer=peer),)) as s:
        await s.plane.listen(Listen(address=f"unix:{tmp_path}/p.sock", mode=0o666))
        found = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", AS_ANOTHER, f"{tmp_path}/p.sock"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == status


# which way counts where


async def test_a_listener_and_a_route_choose_the_ways(tmp_path: Path) -> None:
    """A route's word wins over the listener's; ``none`` asks nobody, and tells nobody who it was."""

    def routes(port: int) -> list[Route]:
        return [
            route_to(port),
            route_to(port, name="strict", auth=frozenset({"basic"})),
            route_to(port, name="open", auth=frozenset()),
        ]

    path = f"unix:{tmp_path}/p.sock"
    callers = (by_key("key"), by_password("pass"))
    async with stage(routes=routes, callers=callers) as s:
        await s.plane.listen(Listen(address=path, auth=frozenset()))
        for address, target, fields, status in (
            (s.address, b"/books/x", (), 401),
            (s.address, b"/books/x", (with_key(),), 200),
            (s.address, b"/strict/x", (with_key(),), 401),
            (s.address, b"/strict/x", (with_key("wrong"), basic("pass")), 200),
            (s.address, b"/open/x", (), 200),
            (s.address, b"/open/x", (basic("pass", "wrong"),), 200),
            (path, b"/books/x", (), 200),
            (path, b"/strict/x", (), 401),
            (path, b"/strict/x", (basic("pass"),), 200),
            (s.address, b"/nowhere", (), 401),
            (s.address, b"/nowhere", (with_key(),), 404),
        ):
            client = await Client.connect(address)
            s.callers.append(client)
            answer = await client.get(target, *fields)
            assert (target, fields, answer.status) == (target, fields, status)
        assert (await got(s, target=b"/strict/x")).values(b"www-authenticate") == [
            b'Basic realm="tokenproxy", charset="UTF-8"'
        ]
        assert (await got(s)).values(b"www-authenticate") == [
            b"Tokenproxy-Key",
            b'Basic realm="tokenproxy", charset="UTF-8"',
        ]


async def test_to_a_forward_proxy_credentials_are_proxy_authorization() -> None:
    """RFC 9110 section 11.7: 407, and the app's own Authorization is for the upstream, where the route passes it."""

    def routes(port: int) -> list[Route]:
        return [
            route_to(
                port, host="api.example", prefix="/", header="X-Token", passed=frozenset({"authorization"})
            )
        ]

    own = b"Authorization: Basic " + base64.b64encode(b"app:for-the-upstream")
    async with stage(routes=routes, callers=(by_password(), by_key("key"))) as s:
        for fields, status, name in (
            ((basic("app", field=b"Proxy-Authorization"), own), 200, "app"),
            ((basic("x", KEY, field=b"Proxy-Authorization"),), 200, "key"),
            ((basic("app"),), 407, ""),
            ((basic("app", KEY, field=b"Proxy-Authorization"),), 407, ""),
            ((), 407, ""),
        ):
            answer = await got(s, *fields, target=b"http://api.example/x")
            assert (answer.status, s.logged[-1].caller) == (status, name)
            if status == 407:
                assert answer.values(b"proxy-authenticate") == [b'Basic realm="tokenproxy"']
        assert s.upstream.seen[0].values(b"authorization") == [own.partition(b": ")[2]]
        assert b"proxy-" not in s.upstream.seen[0].head.lower()
        # What counted there counts nowhere else.
        answer = await got(s, basic("x", KEY), b"Host: api.example")
        assert answer.status in {400, 401}


async def test_what_proves_goes_no_further_even_where_it_is_passed() -> None:
    """A caller with another proof keeps its own Authorization for the upstream."""
    route = {"header": "X-Token", "passed": frozenset({"authorization"})}
    own = b"Authorization: Bearer for-the-upstream"
    async with stage(route=route, callers=(by_password(), by_key("key"))) as s:
        assert (await got(s, basic("app"))).status == 200
        assert (await got(s, with_key(), own)).status == 200
        assert not s.upstream.seen[0].values(b"authorization")
        assert s.upstream.seen[1].values(b"authorization") == [b"Bearer for-the-upstream"]
        assert b"tokenproxy-key" not in s.upstream.seen[1].head.lower()


async def test_a_credential_never_goes_on_as_a_placeholder() -> None:
    """A route with placeholders passes fields that hold one: not the caller's proof."""

    class Values:
        async def values(self, account: str) -> Any:
            raise AssertionError(account)

    secret = "__x__"
    caller = Caller(name="app", login=Login(username="a", passwords=(secret,)))
    async with stage(route={"placeholders": True}, parts={"values": Values()}, callers=(caller,)) as s:
        assert (await got(s, basic("a", secret))).status == 200
        assert s.upstream.seen[0].token == b"token-1"


# what a caller may use


async def test_routes_of_a_caller() -> None:
    callers = (by_key(routes=frozenset({"roster"})),)
    async with stage(routes=two_routes(), callers=callers) as s:
        assert (await got(s, with_key(), target=b"/roster/x")).status == 200
        answer = await got(s, with_key())
        assert (answer.status, answer.code) == (403, "not_allowed")
        assert answer.problem["detail"] == "The caller app may not use the route books."
        assert "[callers.app]" in answer.problem["next_step"]
        assert (s.logged[-1].caller, s.logged[-1].route) == ("app", "books")
        assert s.metrics.callers["app"] == {"let_in": 1, "not_allowed": 1, "overloaded": 0}
        assert s.metrics.route("books").requests[4, "refused"] == 1


async def test_accounts_of_a_caller() -> None:
    """The header chooses among what is the caller's, and need not where there is one."""
    route = {"account": "crm/{header:x-user}", "mapped": True}
    callers = (
        by_key("anna", "key-of-anna-16-long", accounts=("crm/anna",)),
        by_key("desk", "key-of-desk-16-long", accounts=("crm/*",)),
        by_key("none", "key-of-none-16-long"),
    )
    async with stage(route=route, callers=callers, caller_keys=(KEY,)) as s:
        for key, fields, status in (
            ("key-of-anna-16-long", (), 200),
            ("key-of-anna-16-long", (b"X-User: anna",), 200),
            ("key-of-anna-16-long", (b"X-User: bert",), 403),
            ("key-of-desk-16-long", (b"X-User: bert",), 200),
            ("key-of-desk-16-long", (), 503),
            ("key-of-none-16-long", (b"X-User: anna",), 403),
            (KEY, (b"X-User: anna",), 403),
        ):
            answer = await got(s, with_key(key), *fields)
            assert (key, fields, answer.status) == (key, fields, status)
        assert [each.token for each in s.upstream.seen] == [b"token-anna1", b"token-anna1", b"token-bert1"]
        assert b"x-user" not in s.upstream.seen[1].head.lower()


# how often


async def test_requests_per_second() -> None:
    """503 with Retry-After, the connection stays; another caller notices nothing."""
    callers = (by_key(per_second=0.5, burst=2), by_key("other", "another-key-of-16-chars"))
    async with stage(callers=callers) as s:
        client = await s.caller()
        for _ in range(2):
            assert (await client.get(b"/books/x", with_key())).status == 200
        answer = await client.get(b"/books/x", with_key())
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.values(b"retry-after") == [b"2"]
        assert "per_second" in answer.problem["next_step"]
        assert (await client.get(b"/books/x", with_key("another-key-of-16-chars"))).status == 200
        assert len(s.upstream.seen) == 3
        assert s.metrics.callers["app"] == {"let_in": 2, "not_allowed": 0, "overloaded": 1}
        assert s.metrics.route("books").requests[5, "overload"] == 1
        s.swap(callers=(by_key(per_second=0.5, burst=2),))  # a reload gives nobody a new burst
        assert (await client.get(b"/books/x", with_key())).status == 503
        s.swap(callers=(by_key(),))
        assert (await client.get(b"/books/x", with_key())).status == 200


async def test_requests_in_flight() -> None:
    """A short wait for a turn, then 503; whoever leaves gives its turn back."""
    free = asyncio.Event()

    async def slow(line: Line) -> None:
        await free.wait()
        await line.send(ok(b"done"))

    callers = (by_key(in_flight=1), by_key("other", "another-key-of-16-chars"))
    async with stage(slow, callers=callers, limits=Limits(queue=0.05)) as s:
        first, gone = await s.caller(), await s.caller()
        await first.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n" + with_key() + b"\r\n\r\n")
        await until(lambda: len(s.upstream.seen) == 1)
        answer = await got(s, with_key())
        assert (answer.status, answer.code) == (503, "overloaded")
        assert "[callers.app]" in answer.problem["next_step"]
        await gone.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n" + with_key() + b"\r\n\r\n")
        gone.cut()
        free.set()
        assert (await first.answer()).status == 200
        assert (await got(s, with_key("another-key-of-16-chars"))).status == 200
        assert (await got(s, with_key())).status == 200
        member = s.plane.gate.register.members["app"]  # type: ignore[union-attr]
        assert member.turns.taken == 0


# finding out costs little and holds up nobody


async def test_a_hash_is_worked_out_once_for_all_who_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = counted_hashings(monkeypatch)
    async with stage(callers=(by_hash(),)) as s:
        answers = await asyncio.gather(*(got(s, basic("app")) for _ in range(20)))
        assert {each.status for each in answers} == {200}
        assert len(hashed) == 1
        for _ in range(3):  # a wrong one is not hashed again at once either
            assert (await got(s, basic("app", "wrong"))).status == 401
        assert len(hashed) == 2
        assert (await got(s, basic("nobody"))).status == 401  # takes as long as a wrong password
        assert len(hashed) == 3
        s.swap(callers=(by_hash(),))
        assert (await got(s, basic("app"))).status == 200  # a login that stays is not looked into anew
        assert len(hashed) == 3
        other = Login(username="app", hashes=(STRANGE,))
        s.swap(callers=(Caller(name="app", login=other),))
        assert (await got(s, basic("app"))).status == 401  # with another hash nothing of it counts
        assert len(hashed) == 4
        s.swap(callers=(by_hash("new"),))
        assert (await got(s, basic("app"))).status == 401


@pytest.mark.parametrize("flooded", ["app", "nobody-{number}"])
async def test_a_flood_of_wrong_passwords_holds_up_its_own_name_alone(
    flooded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are nobody's count as one; a caller that nobody has seen before comes in beside either."""
    free = threading.Event()
    matches = PasswordHash.matches

    def slow(self: PasswordHash, password: bytes) -> bool:
        free.wait(10)
        return matches(self, password)

    monkeypatch.setattr(PasswordHash, "matches", slow)
    async with stage(callers=(by_hash(), by_hash("other"))) as s:
        flood = [
            asyncio.create_task(got(s, basic(flooded.format(number=number), f"wrong-{number}")))
            for number in range(80)
        ]
        late = 80 - register.HASHING_EACH
        await until(lambda: sum(each.done() for each in flood) == late)
        assert {each.result().code for each in flood if each.done()} == {"overloaded"}
        right = asyncio.create_task(got(s, basic("other")))
        await until(lambda: s.plane.gate.register.queued["other"] == 1)  # type: ignore[union-attr]
        s.swap(callers=(by_hash(), by_hash("other")))  # a reload lets no second flood in
        assert (await got(s, basic(flooded.format(number=99), "wrong"))).code == "overloaded"
        free.set()
        assert (await right).status == 200
        assert {(await each).code for each in flood} == {"overloaded", "caller_unauthorized"}
        assert not s.plane.gate.register.queued  # type: ignore[union-attr]


async def test_who_is_known_is_not_held_up_by_a_flood() -> None:
    async with stage(callers=(by_hash(),)) as s:
        assert (await got(s, basic("app"))).status == 200
        known = await s.caller()
        flood = [asyncio.create_task(got(s, basic("app", f"wrong-{number}"))) for number in range(30)]
        assert (await known.get(b"/books/x", basic("app"))).status == 200
        codes = {(await each).code for each in flood}
        assert codes <= {"caller_unauthorized", "overloaded"}
        assert "caller_unauthorized" in codes
        assert (await known.get(b"/books/x", basic("app"))).status == 200


def counted_hashings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    hashed: list[bytes] = []
    matches = PasswordHash.matches

    def counted(self: PasswordHash, password: bytes) -> bool:
        hashed.append(password)
        return matches(self, password)

    monkeypatch.setattr(PasswordHash, "matches", counted)
    return hashed


async def test_no_caller_can_empty_what_is_believed_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One credential in many spellings is one, and a password that is cheap to check takes no room."""
    hashed = counted_hashings(monkeypatch)
    monkeypatch.setattr(register, "BELIEVED", 4)
    async with stage(callers=(by_hash(), by_hash("twin"), by_password("plain"))) as s:
        client = await s.caller()
        for name in ("app", "twin"):
            assert (await client.get(b"/books/x", basic(name))).status == 200
        for name in ("plain", "twin"):
            scheme, value = basic(name).split(b" ")[1:]
            for spaces in range(1, 6):
                for word in (scheme, b"bAsic", b"BASIC"):
                    spelled = b"Authorization: " + word + b" " * spaces + value
                    assert (await client.get(b"/books/x", spelled)).status == 200
        assert (await client.get(b"/books/x", basic("app"))).status == 200
        assert len(hashed) == 2


def test_what_is_believed_loses_the_oldest_alone() -> None:
    remembered = {bytes([number]): number for number in range(4)}
    register._make_room(remembered, 4)
    assert list(remembered.values()) == [1, 2, 3]


async def test_what_was_shown_to_a_proxy_cannot_be_written_as_authorization() -> None:
    """A scheme that is spelled ``proxy:Basic`` is none, also right after a proxied request was let in."""

    def routes(port: int) -> list[Route]:
        return [route_to(port), route_to(port, name="api", host="api.example", prefix="/")]

    async with stage(routes=routes, callers=(by_hash(),)) as s:
        shown = basic("app", field=b"Proxy-Authorization")
        assert (await got(s, shown, target=b"http://api.example/x")).status == 200
        assert (await got(s, b"Authorization: proxy:" + shown.partition(b": ")[2])).status == 401


async def test_a_caller_that_leaves_while_its_password_is_hashed() -> None:
    async with stage(callers=(by_hash(),), deadlines=Deadlines(drain=1)) as s:
        client = await s.caller()
        await client.send(b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n" + basic("app") + b"\r\n\r\n")
        await until(lambda: s.plane.callers)
        client.cut()
        await until(lambda: not s.plane.callers)
        assert (await got(s, basic("app"))).status == 200


async def test_a_body_that_comes_meanwhile_is_not_lost() -> None:
    async with stage(callers=(by_hash(),)) as s:
        client = await s.caller()
        assert (await client.post(b"x" * 300_000, b"/books/x", basic("app"))).status == 200
        assert s.upstream.seen[0].body == b"x" * 300_000


async def test_nothing_is_asked_where_no_caller_is_named() -> None:
    async with stage() as s:
        assert s.plane.gate.register is None
        answer = await got(s, b"Authorization: Basic eDp5")
        assert answer.status == 200
        assert s.logged[0].caller == ""


# nothing is told


async def test_secrets_of_callers_are_told_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Right and wrong ones, in answers, logs, what is kept and metrics; the log has one line in 10 s."""
    caplog.set_level(logging.DEBUG)
    planted = ["planted-password", "planted-key-of-16-chars", "planted-wrong", "planted-user"]
    callers = (
        Caller(name="app", login=Login(username="app", passwords=("planted-password",))),
        by_key("key", "planted-key-of-16-chars"),
        by_hash("hash"),
    )
    said = []
    async with stage(callers=callers, routes=two_routes()) as s:
        for fields in (
            (basic("app", "planted-password"),),
            (basic("app", "planted-wrong"),),
            (basic("hash", "planted-wrong"),),
            (basic("planted-user", "planted-wrong"),),
            (with_key("planted-key-of-16-chars"),),
            (with_key("planted-wrong"),),
            (basic("x", "planted-wrong", field=b"Proxy-Authorization"),),
            (b"Authorization: Bearer planted-wrong",),
        ):
            for target in (b"/books/x", b"/nope", b"http://localhost/books/x"):
                answer = await got(s, *fields, target=target)
                said.append(answer.head + answer.body)
        everything = (
            b"\n".join(said).decode()
            + caplog.text
            + repr([each.__dict__ for each in caplog.records])
            + repr(s.logged)
            + repr(vars(s.metrics))
            + repr(callers)
            + repr(s.settings)
        )
        for secret in planted:
            assert secret not in everything
            assert base64.b64encode(f"app:{secret}".encode()).decode() not in everything
        told = [each.__dict__["fields"] for each in caplog.records if each.message == "caller_refused"]
        assert [(each["code"], each["detail"]) for each in told] == [("caller_unauthorized", "no credential")]
