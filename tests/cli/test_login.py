"""``tokenproxy login``: a browser here, a browser elsewhere, a question, and every way that it may end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import webbrowser
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.cli.conftest import Here
from tests.cli.program import PATIENCE, Ended, Terminal, Waiting, serving, terminal, waiting
from tests.simulators import Api, PlainProvider, free_port, write_config
from tokenproxy.cli.attempt import may_open_browser, qr_code

HEADLESS = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": "", "SSH_CONNECTION": "", "SSH_TTY": ""}
SCRIPT = """#!{python}
import pathlib, sys, urllib.request
visit = urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(sys.argv[1])
with visit:
    pathlib.Path({heard!r}).write_text(" ".join(sys.argv) + "\\n" + visit.read().decode())
"""


class Office:
    """An account ``books`` at a strict provider, a fixed callback address, and every word that was printed."""

    def __init__(self, provider: PlainProvider, config: Path, here: Here) -> None:
        self.provider = provider
        self.config = config
        self.printed = ""
        self.visited: list[str] = []
        self._here = here

    async def run(self, *words: str) -> Ended:
        """In a thread, since the provider lives in this one's loop."""
        ended = await asyncio.to_thread(
            self._here, *words, "--config", str(self.config), env={"BROWSER": "x"}
        )
        self.printed += ended.err + ended.out
        return ended

    async def logged_in(self, *words: str) -> Ended:
        return await self.run("login", "books", *words)

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.run("status", "books", "--json")).out)
        return found

    @asynccontextmanager
    async def login(self, *words: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Waiting]:
        command = ("login", "books", *words, "--config", str(self.config))
        async with waiting(*command, env={**HEADLESS, **(env or {})}) as login:
            yield login
            self.printed += login.err + login.out

    @contextmanager
    def terminal(self, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
        command = ("login", "books", *words, "--config", str(self.config))
        with terminal(*command, env={**HEADLESS, **(env or {})}) as screen:
            yield screen
            self.printed += screen.shown

    def browser(self) -> tuple[Path, dict[str, str]]:
        """A browser that is a program: where it writes what it was called with and shown, and what makes it be used."""
        heard, script = self.config.parent / "heard", self.config.parent / "browser"
        script.write_text(SCRIPT.format(python=sys.executable, heard=str(heard)))
        script.chmod(0o755)
        return heard, {"BROWSER": f"{script} %s"}

    async def visit(self, address: str) -> str:
        """As a browser does it: redirects, cookies, and what the last page says."""
        self.visited.append(address)
        jar = aiohttp.CookieJar(unsafe=True)
        async with (
            aiohttp.ClientSession(cookie_jar=jar) as session,
            session.get(URL(address, encoded=True)) as page,
        ):
            return await page.text()


@pytest.fixture
async def office(tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    async with PlainProvider() as provider, Api(provider) as api:
        office = Office(
            provider, write_config(tmp_path, provider, api, admin_listen=f"127.0.0.1:{free_port()}"), here
        )
        loop = asyncio.get_running_loop()

        def opens(address: str) -> bool:
            asyncio.run_coroutine_threadsafe(office.visit(address), loop).result(PATIENCE)
            return True

        monkeypatch.setattr(webbrowser, "open", opens)
        yield office
        assert not provider.leaks(office.printed)
        assert "Traceback" not in office.printed
        assert not provider.complaints


def told_address(err: str) -> str:
    found = re.search(r"^http\S+/authorize\S+$", err, re.MULTILINE)
    assert found is not None, err
    return found[0]


async def landing(authorize_url: str) -> str:
    """Where the provider sends a browser that says yes."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(authorize_url, encoded=True), allow_redirects=False) as answer,
    ):
        assert answer.status == 302, await answer.text()
        return answer.headers["Location"]


def admin_of(config: Path) -> str:
    return config.read_text().partition('[admin]\nlisten = "')[2].partition('"')[0]


@pytest.mark.parametrize("running", [False, True], ids=["offline", "running"])
async def test_a_browser_opens_and_comes_back(office: Office, *, running: bool) -> None:
    """The whole of it in one command, word for word; the store has the tokens afterwards."""
    async with serving(office.config) if running else nullcontext():
        ended = await office.logged_in()
        status = await office.status()

    here = admin_of(office.config)
    assert ended.code == 0
    assert f"Register this address: http://{here}/callback/books " in ended.err
    assert "Your browser opens the login page of 127.0.0.1." in ended.err
    assert f"If it does not:   http://{here}/login/" in ended.err
    assert f"Waiting on http://{here}/callback/books  (10 min, Ctrl-C to stop) ..." in ended.err
    lines = ended.out.splitlines()
    assert lines[0] == "✓ logged in to books"
    assert re.match(r"  scopes +read$", lines[1]), ended.out
    assert re.match(r"  access token +valid (?:1 h|60 min), ", lines[2])
    assert lines[2].endswith("refreshed by itself")
    assert re.match(r"  refresh token +yes", lines[3])
    assert re.search(r"  stored in +.*tokenproxy\.db \(encrypted, key id [0-9a-f]+\)$", lines[4])
    assert lines[5:] == ([] if running else [f"Next:  tokenproxy serve --config {office.config}"])
    assert (status["state"], status["generation"]) == ("ok", 1)
    assert office.provider.exchanges == 1


async def test_the_browser_is_given_nothing_worth_reading_in_a_process_list(office: Office) -> None:
    """Its command line is everybody's to read: our own address alone, without state, code or challenge."""
    heard, env = office.browser()
    async with office.login(env=env) as login:
        assert (await login.ended()).code == 0

    called, _, page = heard.read_text().partition("\n")
    assert re.fullmatch(rf"\S+browser http://{admin_of(office.config)}/login/[\w-]{{43}}", called)
    assert "Logged in" in page
    assert not office.provider.leaks(called + page)
    assert "state=" not in called + page


async def test_a_browser_elsewhere_and_an_address_pasted_back(office: Office) -> None:
    """Over SSH nothing opens here; the code comes by the clipboard, and is not repeated."""
    async with serving(office.config), office.login() as login:
        await login.until("paste the address")
        address = await landing(told_address(login.err))
        login.give("\nhello\n")
        await login.until("copy the whole address")
        login.give(f"  {address.replace('state=', 'state=x')}\n{address}\n")
        ended = await login.ended()
        status = await office.status()

    assert ended.code == 0
    assert "✓ logged in to books" in ended.out
    assert (status["state"], office.provider.exchanges) == ("ok", 1)
    assert ended.err.count("that is not the address that this login ended at") == 2


async def test_no_browser_says_so_and_waits_for_whichever(office: Office) -> None:
    """The browser may be on this machine all the same: then it comes back by itself, also from the address itself."""
    heard, env = office.browser()
    async with office.login("--no-browser", env=env) as login:
        await login.until("Ctrl-C to stop")
        assert "Logged in" in await office.visit(told_address(login.err))
        assert not heard.exists()
        assert (await login.ended()).code == 0


async def test_a_random_callback_address_is_told_without_its_key(office: Office) -> None:
    """The key is the login's state, and another one next time: what is registered ends in anything."""
    text = office.config.read_text()
    office.config.write_text(text.replace("[providers.plain]", '[providers.plain]\ncallback.path = "random"'))
    async with office.login() as login:
        told = await login.until("Ctrl-C to stop")
        login.signal(signal.SIGINT)
        await login.ended()

    registered = f"http://{admin_of(office.config)}/callback/books/*"
    assert f"Register this address: {registered} " in told
    assert f"Waiting on {registered} " in told


async def test_a_terminal_shows_no_pasted_address_and_cuts_none_off(office: Office) -> None:
    """4,095 characters are all that a terminal gives of one line; and a code must not stay on a screen."""
    with office.terminal() as screen:
        shown = await asyncio.to_thread(screen.until, "it is not shown.")
        address = await landing(told_address(shown))
        long = f"{address}&session={'x' * 6000}"
        await asyncio.to_thread(screen.type, f"{long[:-1]}yy\x7f\x7f{long[-1]}\n")
        ended = await asyncio.to_thread(screen.ended)

    assert ended.code == 0, ended.out
    assert "logged in to books" in ended.out
    assert "session=" not in ended.out


@pytest.mark.parametrize(("said", "code", "generation"), [("YES", 0, 2), ("", 3, 1)])
async def test_a_live_login_is_replaced_after_a_yes_only(
    office: Office, said: str, code: int, generation: int
) -> None:
    """Enter alone is no; what was issued for nothing is given up."""
    await office.logged_in()
    with office.terminal(env=office.browser()[1]) as screen:
        await asyncio.to_thread(screen.answer, "replace it? [y/N] ", said)
        ended = await asyncio.to_thread(screen.ended)

    assert ended.code == code, ended.out
    assert (await office.status())["generation"] == generation
    assert ("Next:  tokenproxy login books" in ended.out) is (code == 3)


async def test_where_nobody_can_be_asked_the_word_must_be_given_before(office: Office) -> None:
    """A script must not hang, and must not throw a login away by accident either."""
    await office.logged_in()
    refused = await office.logged_in()
    replaced = await office.logged_in("--replace")

    assert refused.code == 2
    assert f"Next:  tokenproxy login books --config {office.config} --replace" in refused.err
    assert replaced.code == 0
    assert (await office.status())["generation"] == 2


async def test_ctrl_c_gives_the_login_up(office: Office) -> None:
    """And the browser that comes back later is told; nothing is exchanged for nobody."""
    async with serving(office.config) as serve:
        async with office.login() as login:
            await login.until("Ctrl-C to stop")
            login.signal(signal.SIGINT)
            ended = await login.ended()
        assert "This login has ended already" in await office.visit(told_address(ended.err))
        await asyncio.to_thread(serve.stop)

    assert (ended.code, ended.err.splitlines()[-1]) == (130, "tokenproxy: interrupted.")
    assert '"reason":"cancelled"' in serve.written
    assert office.provider.exchanges == 0
    assert not office.provider.leaks(serve.written)


async def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(office: Office) -> None:
    with office.terminal() as screen:
        await asyncio.to_thread(screen.until, "it is not shown.")
        ended = await asyncio.to_thread(screen.interrupted)

        import termios

        assert termios.tcgetattr(screen.screen)[3] & termios.ECHO
        assert termios.tcgetattr(screen.screen)[3] & termios.ICANON
    assert ended.code == 130


async def test_who_says_no_is_told_apart_from_a_provider_that_is_down(office: Office) -> None:
    """3: a person must do something; 4: the provider."""
    office.provider.deny = "access_denied"
    denied = await office.logged_in()
    office.provider.deny = None
    office.provider.outage = 503
    down = await office.logged_in()

    assert (denied.code, down.code) == (3, 4)
    assert "(The provider said: access_denied)" in denied.err
    assert f"Next:  tokenproxy login books --config {office.config}\n" in denied.err
    assert "the login of books failed (provider unavailable)" in down.err


async def test_json_is_the_account_s_status_and_nothing_else(office: Office) -> None:
    ended = await office.logged_in("--json")

    found = json.loads(ended.out)
    assert (found["account"], found["state"], found["live"]) == ("books", "ok", True)
    assert "Your browser opens" in ended.err


async def test_a_taken_callback_address_is_one_sentence(office: Office) -> None:
    """Some other program has the admin address; nothing was begun at the provider."""
    host, _, port = admin_of(office.config).rpartition(":")
    taken = await asyncio.start_server(lambda _r, w: w.close(), host, int(port))
    ended = await office.logged_in()
    taken.close()
    await taken.wait_closed()

    assert ended.code == 1
    assert ended.err.endswith(
        f"tokenproxy: admin.listen: {host}:{port} is in use by another process.\n"
        "Next:  Set admin.listen, or stop the other process.\n"
    )


async def test_a_callback_address_needs_a_port_that_stays(office: Office) -> None:
    """Whatever would be registered today would be wrong tomorrow."""
    text = office.config.read_text()
    office.config.write_text(text.replace(f'listen = "{admin_of(office.config)}"', 'listen = "127.0.0.1:0"'))
    ended = await office.logged_in()

    assert ended.code == 2
    assert "Next:  name a port in [admin] listen" in ended.err


@pytest.mark.parametrize("port", ["free", "any"])
def test_an_account_that_is_not_there_or_needs_no_login_is_2(port: str, tmp_path: Path, here: Here) -> None:
    """Whatever else the config lacks for a login."""
    (tmp_path / "config.toml").write_text(
        f'[admin]\nlisten = "127.0.0.1:{free_port() if port == "free" else 0}"\n'
        '[accounts.a]\ngrant = "static"\ntoken = "literal:a-token-of-somebody"\n'
        '[routes.a]\nupstream = "https://api.example"\naccount = "a"\n'
    )
    unknown, machine = here("login", "nobody"), here("login", "a")

    assert unknown.code == machine.code == 2
    assert "there is no account nobody in the config; it has: a" in unknown.err
    assert "nothing to log in" in machine.err


# -- small decisions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "opens"),
    [
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({}, False),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, False),
        ({"DISPLAY": ":0", "SSH_TTY": "/dev/pts/1"}, False),
        ({"SSH_TTY": "/dev/pts/1", "BROWSER": "/usr/bin/forwards-to-my-desk"}, True),
    ],
)
def test_a_browser_opens_where_the_person_sits(environ: dict[str, str], *, opens: bool) -> None:
    """One that opens on the screen of another machine, or in this terminal, is worse than none."""
    assert may_open_browser(environ) is opens


def test_a_qr_code_is_drawn_or_its_way_told(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = qr_code("https://login.example.com/device?user_code=WDJB-MJHT")
    assert len(set(map(len, drawn.splitlines()))) == 1
    assert set(drawn) <= set(" ▀▄█\n")

    monkeypatch.setitem(sys.modules, "segno", None)
    assert qr_code("https://login.example.com/device").endswith("pip install segno")
