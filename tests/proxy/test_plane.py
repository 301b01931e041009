"""The whole: listening, limits, reloading and the orderly end."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.actors import PATIENCE, QUICK, Caller, Line, Source, WallClock, ok, route_to, stage, until
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.settings import Limits, TLSFiles
from tokenproxy.core.tokens import TokenSet
from tokenproxy.metrics import Metrics
from tokenproxy.oauth.signer import Prover
from tokenproxy.proxy import ListenError, Plane, PlaneSettings, TLSFileError, side
from tokenproxy.proxy.lane import Lane, Turns
from tokenproxy.proxy.problem import ProblemError

GET = b"GET /books/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Held:
    """A script that answers only when it may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, line: Line) -> None:
        await self.go.wait()
        await line.send(ok(b"done"))


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
async def test_tcp_addresses(address: str) -> None:
    if "[" in address and not Path("/proc/net/if_inet6").exists():
        pytest.skip("This machine has no IPv6.")
    async with stage(listen=address) as s:
        assert not s.address.endswith(":0")
        assert (await (await s.caller()).get()).status == 200


async def test_a_unix_socket_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with stage(listen=f"unix:{path}") as s:
        assert s.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await (await s.caller()).get()).status == 200
    assert not path.exists()


async def test_a_socket_left_behind_is_taken_over_and_a_living_one_is_not(tmp_path: Path) -> None:
    """After a crash nobody should have to remove files; two processes must not steal from each other."""
    path = tmp_path / "proxy.sock"
    async with stage(listen=f"unix:{path}") as s:
        with pytest.raises(ListenError, match="Cannot listen"):
            await s.plane.listen(f"unix:{path}")
        os.link(path, tmp_path / "left")
    (tmp_path / "left").rename(path)
    async with stage(listen=f"unix:{path}") as s:
        assert (await (await s.caller()).get()).status == 200


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "nowhere.invalid:80", "192.0.2.1:80"]
)
async def test_addresses_that_cannot_be(address: str) -> None:
    async with stage() as s:
        with pytest.raises(ListenError) as caught:
            await s.plane.listen(address)
        assert caught.value.message.startswith(f"Cannot listen on {address}: ")
        assert caught.value.next_step


async def test_a_port_in_use_is_one_sentence() -> None:
    async with stage() as s:
        with pytest.raises(ListenError, match=r"[Aa]ddress already in use"):
            await s.plane.listen(s.address)


async def test_each_way_not_to_listen_has_its_own_next_step(tmp_path: Path) -> None:
    """ "Stop the other program" helps nobody where a file is in the way."""
    (tmp_path / "config.toml").write_text("")
    async with stage() as s:
        for address, step in (
            (f"unix:{tmp_path}/config.toml", "Move the file away"),
            (f"unix:{tmp_path}/nowhere/socket", "Make the folder"),
            ("192.0.2.1:80", "not this machine's"),
            (s.address, "Stop the other program"),
        ):
            with pytest.raises(ListenError) as caught:
                await s.plane.listen(address)
            assert step in caught.value.next_step
    assert (tmp_path / "config.toml").exists()


async def test_requests_beyond_the_limit_wait_and_are_then_refused() -> None:
    """503 with Retry-After, instead of a pile that makes everybody slow."""
    held = Held()
    async with stage(held, limits=Limits(in_flight=2, queue=0.1)) as s:
        callers = [await s.caller() for _ in range(3)]
        for caller in callers[:2]:
            await caller.send(GET)
        await until(lambda: s.plane.in_flight == 2)
        answer = await callers[2].get()
        assert (answer.status, answer.code, answer.values(b"retry-after")) == (503, "overloaded", [b"1"])
        held.go.set()
        assert (await callers[0].answer()).body == b"done"
        assert (await callers[2].get()).body == b"done"
        assert s.metrics.routes["books"].requests[5, "overload"] == 1
    assert s.plane.in_flight == 0


async def test_a_turn_goes_to_who_waited_longest() -> None:
    held = Held()
    async with stage(held, limits=Limits(in_flight=1, queue=5)) as s:
        callers = [await s.caller() for _ in range(4)]
        for number, caller in enumerate(callers):
            await caller.send(GET)
            await until(lambda number=number: s.plane.turns.taken + len(s.plane.turns.waiting) == number + 1)  # type: ignore[misc]
        callers[1].cut()  # leaves the queue
        await until(lambda: len(s.plane.callers) == 3)
        held.go.set()
        for caller in (callers[0], callers[2], callers[3]):
            assert (await caller.answer()).body == b"done"
        await until(lambda: s.plane.in_flight == 0)


async def test_a_turn_handed_to_somebody_who_is_leaving_is_not_lost() -> None:
    """Both in one turn of the loop: each lost turn would make the proxy smaller for ever."""
    turns = Turns(1)
    assert turns.enter()
    waiting = asyncio.create_task(turns.wait(5))
    await until(lambda: turns.waiting)
    turns.leave()
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert turns.taken == 0
    assert turns.enter()


async def test_one_route_cannot_take_all_turns() -> None:
    held = Held()

    def routes(port: int) -> list[object]:
        return [route_to(port, in_flight=1), route_to(port, name="other")]

    async with stage(held, routes=routes, limits=Limits(queue=0.05)) as s:  # type: ignore[arg-type]
        first, second = await s.caller(), await s.caller()
        await first.send(GET)
        await until(lambda: s.upstream.seen)
        assert (await second.get()).code == "overloaded"
        await second.send(GET.replace(b"books", b"other"))
        await until(lambda: len(s.upstream.seen) == 2)
        held.go.set()
        assert (await second.answer()).body == b"done"


async def test_callers_beyond_the_limit_are_told_so() -> None:
    async with stage(limits=Limits(connections=2)) as s:
        first, second = await s.caller(), await s.caller()
        await first.get()
        await second.get()
        third = await s.caller()
        answer = await third.answer()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert await third.rest() == b""
        first.close()
        await until(lambda: len(s.plane.callers) == 1)
        assert (await (await s.caller()).get()).status == 200
        assert s.metrics.callers_connected == 2


async def test_a_drain_lets_requests_end() -> None:
    """Idle callers go at once, nobody new comes in, and who waits for an answer gets it, with ``close``."""
    held = Held()
    async with stage(held) as s:
        idle, busy = await s.caller(), await s.caller()
        await until(lambda: len(s.plane.callers) == 2)
        await busy.send(GET)
        await until(lambda: s.upstream.seen)
        closing = asyncio.create_task(s.plane.close(drain=5))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            await Caller.connect(s.address)
        assert not closing.done()
        held.go.set()
        answer = await busy.answer()
        assert (answer.body, answer.values(b"connection")) == (b"done", [b"close"])
        await closing
        assert not s.plane.callers


async def test_a_drain_lets_the_last_bytes_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is over when its answer is written, which is not when the caller has it."""
    monkeypatch.setattr(side, "WRITE_HIGH", 1 << 30)
    size = 20 << 20
    async with stage(ok(b"x" * size)) as s:
        caller = await s.caller()
        await caller.send(GET)
        await until(lambda: s.logged)
        closing = asyncio.create_task(s.plane.close(drain=5))
        assert (await caller.answer()).body == b"x" * size
        await closing


async def test_a_drain_ends_when_its_time_is_up() -> None:
    held = Held()
    async with stage(held) as s:
        busy = await s.caller()
        await busy.send(GET)
        await until(lambda: s.upstream.seen)
        await asyncio.wait_for(s.plane.close(drain=0.1), 2)
        assert await busy.rest() == b""
        assert s.plane.in_flight == 0


async def test_a_swap_changes_the_routes_and_nothing_else() -> None:
    """Requests under way keep their route; connections to an origin that stays are kept."""
    held = Held()
    async with stage(held) as s:
        under_way, other = await s.caller(), await s.caller()
        await under_way.send(GET)
        await until(lambda: s.upstream.seen)
        s.swap(routes=RouteTable.of([route_to(s.upstream.port, name="new", account="new")]))
        assert (await other.get()).code == "no_route"
        held.go.set()
        assert (await under_way.answer()).body == b"done"
        assert (await under_way.get(b"/new/x")).body == b"done"
        assert s.upstream.connections == 1
        assert s.source.confirmed == [("books", 1), ("new", 1)]


async def test_connections_that_no_route_needs_any_more_are_closed() -> None:
    held = Held()
    held.go.set()
    async with stage(held) as s:
        first, second = await s.caller(), await s.caller()
        await first.get()
        held.go.clear()
        await second.send(GET)
        await until(lambda: len(s.upstream.seen) == 2)
        s.swap(routes=RouteTable.of([]))
        held.go.set()
        assert (await second.answer()).body == b"done"
        await until(lambda: s.upstream.open == 0)


async def test_limits_change_with_a_swap() -> None:
    held = Held()
    async with stage(held, limits=Limits(in_flight=1, queue=0.05)) as s:
        first, second = await s.caller(), await s.caller()
        await first.send(GET)
        await until(lambda: s.plane.in_flight == 1)
        assert (await second.get()).code == "overloaded"
        s.swap(limits=Limits(in_flight=2))
        held.go.set()
        assert (await second.get()).body == b"done"


async def test_a_swap_that_fails_changes_nothing() -> None:
    """A bad file in a reload must not take the proxy down, nor half of it over."""
    async with stage() as s:
        bad = route_to(1, name="bad", scheme="https", tls=TLSFiles(ca_file="/nowhere/ca.pem"))
        with pytest.raises(TLSFileError, match=r"routes.bad.tls.ca_file: /nowhere/ca.pem cannot be read"):
            s.plane.swap(replace(s.settings, routes=RouteTable.of([bad])))
        assert (await (await s.caller()).get()).status == 200


async def test_a_mistake_of_ours_ends_one_connection_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A bug must not hang a caller nor stop the others; and what is logged holds no secret."""

    class Faulty(Source):
        def ready(self, account: str) -> None:
            raise ZeroDivisionError

    async with stage() as s:
        s.plane.source = Faulty()
        caller = await s.caller()
        await caller.send(GET)
        assert await caller.rest() == b""
        assert [record.message for record in caplog.records] == ["unexpected_error"]
        s.plane.source = s.source
        assert (await (await s.caller()).get()).status == 200
        assert s.plane.in_flight == 0


def test_keys_are_not_shown() -> None:
    assert "hush" not in repr(PlaneSettings(routes=RouteTable.of([]), caller_keys=("hush",)))


def test_the_plane_needs_no_loop_to_be_built() -> None:
    """``app`` builds it before the loop of its choice runs."""
    settings = PlaneSettings(routes=RouteTable.of([route_to(1)]))
    assert (
        Plane(
            settings, source=Source(), prover=Prover(WallClock()), clock=WallClock(), metrics=Metrics()
        ).in_flight
        == 0
    )


async def test_a_request_that_outlives_its_route_keeps_its_deadlines() -> None:
    """It waits for a token while a reload takes its upstream away; connected later, it is swept all the same."""
    renewed = asyncio.Event()

    async def script(line: Line) -> None:
        await asyncio.sleep(PATIENCE)

    async with stage(script, deadlines=QUICK) as s:

        async def current(account: str) -> TokenSet:
            await renewed.wait()
            return s.source.newest(account)

        s.source.fresh = False
        s.source.current = current  # type: ignore[method-assign]
        caller = await s.caller()
        answering = asyncio.create_task(caller.get())
        await until(lambda: s.plane.in_flight)
        s.swap(routes=RouteTable.of([route_to(s.upstream.port, to="localhost")]))
        await (await s.caller()).rest()  # the sweep has closed an idle caller, and has looked at all pools
        renewed.set()
        answer = await asyncio.wait_for(answering, 2)
        assert (answer.status, answer.code) == (504, "upstream_timeout")


async def test_those_who_waited_in_vain_are_forgotten() -> None:
    """An upstream that hangs with all turns taken gives none back for a minute: the queue must not grow meanwhile."""
    turns = Turns(1)
    assert turns.enter()
    for _ in range(20):
        with pytest.raises(ProblemError):
            await turns.wait(0)
    assert not turns.waiting


async def test_token_lines_of_many_logins_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names logins in a header must not make us grow."""
    monkeypatch.setattr("tokenproxy.proxy.lane.CARDS", 3)
    metrics = Metrics().route("books")
    pool: Any = None
    ours = Lane(route_to(1), pool=pool, visits=pool, metrics=metrics, turns=Turns(0))
    for number in range(10):
        tokens = TokenSet(f"token-{number}", generation=1)
        card = ours.card(f"books/{number}", tokens)
        assert ours.card(f"books/{number}", tokens) is card
        assert len(ours.cards) <= 3
