"""A route's allow list, at the gate: before a token is touched, on the bytes that go upstream."""

from __future__ import annotations

import pytest

from tests.proxy.actors import Stage, ok, route_to, stage
from tests.simulators import FakeClock
from tokenproxy.core.allow import Allow, Entry
from tokenproxy.core.provider import Account, Provider, Registration, Setting
from tokenproxy.oauth.state import LoginState
from tokenproxy.stores.memory import MemoryStore


def only(*entries: str) -> Allow:
    return Allow(tuple(map(Entry.of, entries)))


async def test_what_is_listed_goes_on_as_it_came() -> None:
    """The path behind the prefix is compared, and the upstream's own is put in front of it afterwards."""
    async with stage(ok(b"hello"), route={"allow": only("GET /users/*"), "path": "/v2"}) as s:
        caller = await s.caller()

        answer = await caller.get(b"/books/users/a%20b?x=/../%2F")
        head = await caller.get(b"/books/users/7", method=b"HEAD")

        assert (answer.status, head.status) == (200, 200)
        assert [seen.target for seen in s.upstream.seen] == [b"/v2/users/a%20b?x=/../%2F", b"/v2/users/7"]


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        (b"/books/admin", 403, "not_allowed"),
        (b"/books/users", 403, "not_allowed"),
        (b"/books", 403, "not_allowed"),
        (b"/books/users/..%2fadmin", 400, "bad_request"),
        (b"/books/users/a%2fb", 403, "not_allowed"),
        (b"/books/%75sers/7", 403, "not_allowed"),
        (b"/books/users//7", 403, "not_allowed"),
        (b"/books/users/7;x", 403, "not_allowed"),
        (b"/books/users/7\\x", 400, "bad_request"),
        (b"/books/users/%zz", 400, "bad_request"),
        (b"http://localhost/books/admin", 403, "not_allowed"),
    ],
)
async def test_all_else_is_refused_before_a_token_is_touched(target: bytes, status: int, code: str) -> None:
    async with stage(ok(b"hello"), route={"allow": only("* /users/*")}) as s:
        s.source.fresh = False
        asked: list[str] = []
        s.source.current = asked.append  # type: ignore[method-assign, assignment]
        caller = await s.caller()

        answer = await caller.get(target)

        assert (answer.status, answer.code) == (status, code)
        assert (s.upstream.connections, asked) == (0, [])


async def test_a_refusal_names_the_route_and_counts_there() -> None:
    async with stage(ok(b"hello"), route={"allow": only("GET /users")}) as s:
        answer = await (await s.caller()).post(b"x", b"/books/users")

        assert answer.problem["detail"] == "The entries of allow for this path do not have this method."
        assert answer.problem["next_step"] == "Add it to allow of [routes.books] if it may be asked."
        assert s.metrics.route("books").requests[4, "refused"] == 1
        assert s.metrics.refused == {}
        assert [(each.route, each.code) for each in s.logged] == [("books", "not_allowed")]


async def test_many_refusals_are_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tokenproxy")
    async with stage(ok(b"hello"), route={"allow": only("GET /users")}) as s:
        for _ in range(3):
            assert (await (await s.caller()).get(b"/books/x")).status == 403

    assert [record.getMessage() for record in caplog.records].count("caller_refused") == 1


@pytest.mark.parametrize("field", [b"X-HTTP-Method-Override: DELETE", b"x_original_url: /admin"])
async def test_a_header_that_means_another_request_is_refused(field: bytes) -> None:
    """Rails, Symfony and IIS among others believe it; WSGI reads underscores and hyphens alike."""

    def routes(port: int) -> list[object]:
        return [route_to(port, allow=only("POST /users")), route_to(port, name="free")]

    async with stage(ok(b"hello"), routes=routes) as s:  # type: ignore[arg-type]
        refused = await (await s.caller()).post(b"x", b"/books/users", field)
        free = await (await s.caller()).post(b"x", b"/free/users", field)

        assert (refused.status, free.status) == (403, 200)
        assert field in s.upstream.seen[0].fields


async def test_placeholders_are_replaced_before_the_path_is_judged() -> None:
    account = Account(
        name="books",
        provider=Provider(name="plain", token_url="https://login.example/token"),
        registration=Registration(client_id="c"),
        settings={"area": Setting(value="users"), "out": Setting(value="a/b")},
    )
    state = LoginState(MemoryStore(), clock=FakeClock(), accounts=lambda: {"books": account})
    route = {"allow": only("GET /users/**"), "placeholders": True}

    async def status(s: Stage, target: bytes) -> int:
        return (await (await s.caller()).get(target)).status

    async with stage(ok(b"hello"), route=route, parts={"values": state}) as s:
        assert await status(s, b"/books/__area__/7") == 200
        assert await status(s, b"/books/users/__out__") == 403
        assert await status(s, b"/books/admin") == 403
        assert [seen.target for seen in s.upstream.seen] == [b"/users/7"]
