"""The story of the demo, told from what the provider counted, what callers got and what the store gave back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from tokenproxy import app, config
from tokenproxy.cli.command import shown
from tokenproxy.cli.demo.provider import CLIENT_ID, HEADER, LOOPBACK, DemoProvider
from tokenproxy.cli.present import Printer, table

ACCOUNT: Final = "demo"
CROWD: Final = 50
INTERRUPTED: Final = 130
PATIENCE: Final = 30.0
"""Seconds for a crowd of requests."""

CONFIG: Final = """\
[server]
listen = "{proxy}"

[admin]
listen = "{admin}"

[log]
level = "error"

[accounts.demo]
provider = "simulated"
client_id = "{client_id}"
client_secret = "file:demo.secret"

[routes.demo]
upstream = "{url}/api"
account = "demo"

[providers.simulated]
token_url = "{url}/token"
client_auth = "basic"
inject = {{ header = "{header}", value = "{{access_token}}" }}
validate = {{ method = "GET", url = "{url}/validate" }}
"""


def play(out: Printer, *, once: bool, port: int) -> int:
    """The exit code: 0 when all went as promised, 1 when not, 130 when interrupted before the end of the story."""
    with asyncio.Runner(loop_factory=app.loop_factory("auto")) as runner:
        return runner.run(_play(out, once=once, port=port))


async def _play(out: Printer, *, once: bool, port: int) -> int:
    _end_on_signals()
    try:
        # Entered before anything is written: whatever ends us from here on takes the folder along.
        with tempfile.TemporaryDirectory(prefix="tokenproxy-demo-") as folder:
            async with Stage.set(out, Path(folder), port=port) as stage:
                code = await _tell(stage)
                if not once:
                    await _stay(stage)
                return code
    except asyncio.CancelledError:
        return INTERRUPTED


def _end_on_signals() -> None:
    """The first Ctrl-C or SIGTERM ends the story by its own closing; later ones must not interrupt that."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in one
    ending = False

    def end() -> None:
        nonlocal ending
        if not ending:
            task.cancel()
        ending = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)


# -- the stage ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answers:
    """What callers got."""

    statuses: Counter[int]
    seconds: float
    tokens: Counter[int]
    """Which of the provider's tokens the API took, by its number."""


class Stage:
    """The provider, the proxy, and a caller."""

    def __init__(self, out: Printer, folder: Path, provider: DemoProvider) -> None:
        self.out = out
        self.provider = provider
        self.config = folder / "config.toml"
        self.proxy: app.App
        self.live = False
        """Whether events are shown as they happen."""

    @classmethod
    @asynccontextmanager
    async def set(cls, out: Printer, folder: Path, *, port: int) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            provider = DemoProvider(on_event=lambda text: stage.happened(text))  # noqa: PLW0108 - made below
            stage = cls(out, folder, provider)
            await stack.enter_async_context(provider)
            _write(folder / "demo.secret", provider.client_secret)
            await stage.start(proxy=f"{LOOPBACK}:{port}", admin=f"{LOOPBACK}:0")
            stack.push_async_callback(stage.close)
            yield stage

    async def start(self, *, proxy: str, admin: str) -> None:
        """From a config as a person would have it; the ports that were taken stand in it, for other commands to find."""
        self._write_config(proxy, admin)
        self.proxy = await app.start(config.load(self.config, {}), environ={})
        self._write_config(self.proxy.addresses["proxy"], self.proxy.addresses["admin"])

    async def close(self) -> None:
        await self.proxy.close()

    async def restart(self) -> None:
        """End the proxy and start it again at the same address, with nothing but the files."""
        await self.proxy.close()
        await self.start(proxy=self.proxy.addresses["proxy"], admin=self.proxy.addresses["admin"])

    def _write_config(self, proxy: str, admin: str) -> None:
        url = self.provider.url
        text = CONFIG.format(proxy=proxy, admin=admin, url=url, client_id=CLIENT_ID, header=HEADER)
        _write(self.config, text)

    def happened(self, text: str) -> None:
        if self.live:
            self.out.say(f"  {time.strftime('%H:%M:%S')}  {text}")

    @property
    def url(self) -> str:
        return f"http://{self.proxy.addresses['proxy']}/{ACCOUNT}/hello"

    async def send(self, count: int = 1) -> Answers:
        """So many requests at once, without any credential, as a legacy app would send them."""
        began = time.monotonic()
        limit = aiohttp.ClientTimeout(total=PATIENCE)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=limit, trust_env=False) as session:
            answers = await asyncio.gather(*(_get(session, self.url) for _ in range(count)))
        seconds = time.monotonic() - began
        statuses = Counter(status for status, _ in answers)
        return Answers(statuses, seconds, Counter(body["token"] for _, body in answers if "token" in body))

    async def status(self) -> dict[str, Any]:
        return await self.proxy.accounts.status(ACCOUNT)


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of an answer; status 0 where there was none."""
    try:
        async with session.get(url) as answer:
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return 0, {}
    return answer.status, body if isinstance(body, dict) else {}


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


# -- the story ---------------------------------------------------------------------------------------------------------


class Teller:
    """Tells facts, each with whether it is what was promised."""

    def __init__(self, out: Printer) -> None:
        self._out = out
        self.as_promised = True

    def scene(self, text: str) -> None:
        self._out.say(f"\n{text}")

    def fact(self, name: str, text: str, *, promised: bool) -> None:
        self.as_promised &= promised
        self._out.say(f"  {self._out.mark('good' if promised else 'bad')} {name:<13} {text}")


async def _tell(stage: Stage) -> int:
    """0 where all went as promised."""
    teller = Teller(stage.out)
    stage.out.say("A simulated provider and its API on this machine, and the real proxy before them.")
    await _first_answer(stage, teller)
    await _crowd(stage, teller)
    await _restart(stage, teller)
    if not teller.as_promised:
        stage.out.error("tokenproxy: the demo did not go as promised; see the lines that are marked.")
    return 0 if teller.as_promised else 1


async def _first_answer(stage: Stage, teller: Teller) -> None:
    answer = json.dumps(stage.provider.log_in()).encode()
    status = await stage.proxy.accounts.import_answer(ACCOUNT, answer)
    teller.scene("A token answer is imported, and a request is sent without any credential:")
    first = await stage.send()
    teller.fact(
        "imported", f"generation {status['generation']}, sealed in the store", promised=status["live"]
    )
    teller.fact(
        "first answer", f"{_listed(first.statuses)} in {_ms(first)}", promised=first.statuses == {200: 1}
    )


async def _crowd(stage: Stage, teller: Teller) -> None:
    seen = stage.provider.counters
    api, refreshes = Counter(seen.api), seen.refreshes
    stage.provider.revoke()
    teller.scene(f"The provider revokes the access token. {CROWD} requests come at once:")
    crowd = await stage.send(CROWD)
    api, refreshes = Counter(seen.api - api), seen.refreshes - refreshes
    status = await stage.status()
    teller.fact("the API said", _listed(api), promised=1 <= api[401] <= CROWD and api[200] == CROWD)
    verdicts = ", ".join(f"{count} x {word}" for word, count in seen.validate.items()) or "nothing"
    teller.fact("validate said", verdicts, promised=seen.validate == {"dead": 1})
    teller.fact("refreshes", f"{refreshes} for {CROWD} requests", promised=refreshes == 1)
    teller.fact("reuse", f"{seen.reuses} spent refresh tokens came back", promised=seen.reuses == 0)
    teller.fact(
        "callers got", f"{_listed(crowd.statuses)} in {_ms(crowd)}", promised=crowd.statuses == {200: CROWD}
    )
    stored = status["generation"] == 2 and not status["unstored"]
    teller.fact("in the store", f"generation {status['generation']}", promised=stored)


async def _restart(stage: Stage, teller: Teller) -> None:
    before = stage.provider.counters.refreshes
    await stage.restart()
    teller.scene("The proxy ends and starts again, with nothing but what is on disk:")
    status = await stage.status()
    answer = await stage.send()
    refreshes = stage.provider.counters.refreshes - before
    teller.fact("from disk", f"generation {status['generation']}", promised=status["generation"] == 2)
    promised = answer.statuses == {200: 1} and answer.tokens == {2: 1} and refreshes == 0
    teller.fact(
        "first answer",
        f"{_listed(answer.statuses)} in {_ms(answer)}, {refreshes} refreshes",
        promised=promised,
    )


async def _stay(stage: Stage) -> None:
    """Until Ctrl-C, which after the story is no interruption."""
    out = stage.out
    rows = [
        (f"curl {stage.url}", "a request without a credential"),
        (f"curl -X POST {stage.provider.url}/revoke", "kills the access token; then the line above again"),
        (f"tokenproxy status --config {shown(stage.config)}", "what an operator sees"),
    ]
    out.result(f"\nIt goes on running. In another terminal:\n{table(rows, indent='  ')}")
    out.result(
        f"Status page: http://{stage.proxy.addresses['admin']}/   Ctrl-C ends it and leaves nothing behind.\n"
    )
    stage.live = True
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in one
        task.uncancel()  # else every timeout while closing would take this for its own


def _listed(statuses: Counter[int]) -> str:
    if sum(statuses.values()) == 1:
        return str(next(iter(statuses)))
    return ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items(), reverse=True))


def _ms(answers: Answers) -> str:
    return f"{answers.seconds * 1000:.0f} ms"
