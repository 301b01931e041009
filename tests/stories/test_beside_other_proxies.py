"""nginx, Caddy and Envoy keep the data path and ask tokenproxy for the token, by the configs that we ship."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.simulators import Api, AskaraProvider
from tests.simulators.files import free_port
from tests.simulators.provider import Provider
from tests.stories.serving import PATIENCE, Serve, calling, imported, serving, status_of
from tests.stories.test_main_job import configured

SHIPPED = Path(__file__).parent.parent.parent / "deploy" / "forward-auth"
CALLERS = 16
ENVOY_PROGRAM = shutil.which("envoy") or str(Path(sys.executable).with_name("envoy"))


@dataclass(frozen=True)
class Outer:
    """Another proxy."""

    name: str
    file: str
    command: Callable[[Path], list[str]]
    resends_bodies: bool = True
    program: str = ""

    @property
    def there(self) -> bool:
        return shutil.which(self.program or self.name) is not None


def nginx(file: Path) -> list[str]:
    """As ourselves, which root's nginx would not be: the socket is for our user."""
    ours = "user root;" if os.geteuid() == 0 else ""
    directives = f"daemon off; pid {file.parent}/nginx.pid; {ours}"
    return ["nginx", "-p", str(file.parent), "-e", "stderr", "-g", directives, "-c", str(file)]


NGINX = Outer("nginx", "nginx.conf", nginx)
CADDY = Outer(
    "caddy",
    "Caddyfile",
    lambda file: ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"],
    resends_bodies=False,
)
ENVOY = Outer(
    "envoy",
    "envoy.yaml",
    lambda file: [ENVOY_PROGRAM, "-c", str(file), "--concurrency", "2", "--disable-hot-restart"],
    program=ENVOY_PROGRAM,
)
OUTERS = [
    pytest.param(each, id=each.name, marks=pytest.mark.skipif(not each.there, reason=f"{each.name} is not installed"))
    for each in (NGINX, CADDY, ENVOY)
]  # fmt: skip


@dataclass
class Stage:
    outer: Outer
    url: str
    provider: Provider
    api: Api
    serve: Serve
    config: Path
    session: aiohttp.ClientSession


@asynccontextmanager
async def beside(
    outer: Outer,
    tmp_path: Path,
    kind: type[Provider] = AskaraProvider,
    *,
    route_extra: str = "",
) -> AsyncIterator[Stage]:
    """The shipped config, with addresses in the place of its own."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.example.com", "127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    socket = tmp_path / "fa.sock"
    table = f'[forward_auth]\nlisten = "unix:{socket}"\nroutes = ["books"]\n'
    port = free_port()
    async with kind() as provider, Api(provider, ssl=context) as api:
        config = configured(tmp_path, provider, api, table, route_extra=route_extra)
        replaced = {
            "/run/tokenproxy/forward-auth.sock": str(socket),
            "/etc/ssl/certs/ca-certificates.crt": str(ca_file),
            "api.example.com:443": f"127.0.0.1:{api.port}",
            "address: api.example.com, port_value: 443": f"address: 127.0.0.1, port_value: {api.port}",
            "8081": str(port),
        }
        text = (SHIPPED / outer.file).read_text()
        for before, after in replaced.items():
            text = text.replace(before, after)
        (tmp_path / outer.file).write_text(text)
        async with serving(config) as serve, running(outer, tmp_path, port), calling() as session:
            await imported(config, "books", provider.new_grant())
            yield Stage(outer, f"http://127.0.0.1:{port}", provider, api, serve, config, session)


@asynccontextmanager
async def running(outer: Outer, folder: Path, port: int) -> AsyncIterator[None]:
    """Until the block ends; it takes connections when it is entered."""
    written = folder / "outer.log"
    with written.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *outer.command(folder / outer.file), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await answers(port):
                assert process.returncode is None, written.read_text()
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("outer", OUTERS)
async def test_a_token_revoked_under_load_is_renewed_once(outer: Outer, tmp_path: Path) -> None:
    """Every caller is answered well, bodies included where the proxy can send them again."""
    async with beside(outer, tmp_path) as s:
        statuses: Counter[int] = Counter()
        stop = asyncio.Event()

        async def caller(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                body = f"{number} {count} ".encode() * 50 if outer.resends_bodies and number % 2 else None
                async with s.session.request(
                    "POST" if body else "GET", f"{s.url}/books/orders/{number}", data=body
                ) as answer:
                    await answer.read()
                    statuses[answer.status] += 1

        callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
        async with asyncio.timeout(PATIENCE):
            while statuses[200] < 200 and set(statuses) <= {200}:
                await asyncio.sleep(0.01)
            s.provider.revoke_all_access()
            before = statuses[200]
            while statuses[200] < before + 400 and set(statuses) <= {200}:
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*callers)

        assert set(statuses) == {200}, (statuses, (tmp_path / "outer.log").read_text()[-2000:])
        assert s.provider.token_calls == 1
        assert (await status_of(s.config, "books"))["generation"] == 2
    assert s.provider.complaints == []
