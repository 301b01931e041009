"""Accounts that need no person, through the real program: nobody imports anything, and requests just work."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp

from tests.simulators import Api, PlainProvider, write_config
from tests.stories.serving import Serve, calling, command, serving, status_of

JSON_LOG = '[log]\nformat = "json"\nlevel = "debug"\n'


async def crowd(
    serve: Serve, caller: aiohttp.ClientSession, route: str = "books", count: int = 50
) -> list[int]:
    """So many requests at once; gives their statuses."""

    async def get(number: int) -> int:
        async with caller.post(f"{serve.url}/{route}/orders/{number}", data=b"x" * 1000) as answer:
            await answer.read()
            return answer.status

    return await asyncio.gather(*(get(number) for number in range(count)))


async def test_a_machines_account_from_the_first_request_to_the_next_start(tmp_path: Path) -> None:
    """One token call for the crowd that comes first, one for the crowd whose token died, none after a restart."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(
            tmp_path, provider, api, account_extra='grant = "client_credentials"', extra=JSON_LOG
        )
        async with serving(config) as serve, calling() as caller:
            status = await status_of(config, "books")
            assert (status["state"], status["grant"], status["next_step"]) == ("ok", "client_credentials", "")
            assert set(await crowd(serve, caller)) == {200}
            assert (provider.token_calls, provider.obtained) == (1, 1)
            provider.revoke_all_access()
            assert set(await crowd(serve, caller)) == {200}
            assert provider.token_calls == 2

            code, _, err = await command(config, "import", "books", given=b"some-token")
            assert code == 2
            assert "obtains its tokens by itself" in err
            code, out, _ = await command(config, "logout", "books")
            assert (code, "by itself" in out) == (0, True)
            assert set(await crowd(serve, caller)) == {200}
            assert await serve.stop() == 0
            written = serve.written

        async with serving(config) as serve, calling() as caller:
            assert set(await crowd(serve, caller)) == {200}
            assert (await status_of(config, "books"))["generation"] == 3
        assert provider.token_calls == 3
        assert provider.complaints == []
        assert provider.leaks(written + serve.written) == []


async def test_a_token_file_and_a_static_token(tmp_path: Path) -> None:
    """Another program's rotation is followed without a restart; a new static token is in force after a reload."""
    token = tmp_path / "token"
    more = (
        '[accounts.sidecar]\ngrant = "file"\ntoken = "file:token"\n'
        '[accounts.fixed]\ngrant = "static"\ntoken = "file:fixed"\n'
    )
    async with PlainProvider() as provider, Api(provider) as api:

        def put(name: str) -> str:
            value = str(provider.new_grant()["access_token"])
            new = tmp_path / "new"
            new.touch(mode=0o600)
            new.write_text(value + "\n")
            os.replace(new, tmp_path / name)
            return value

        routes = "".join(
            f'[routes.{name}]\nupstream = "{api.url}"\naccount = "{name}"\n' for name in ("sidecar", "fixed")
        )
        old = put("token")
        fixed = put("fixed")
        config = write_config(tmp_path, provider, api, extra=more + routes + JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            for name in ("sidecar", "fixed"):
                assert set(await crowd(serve, caller, name)) == {200}

            provider.revoke_access(old)
            token.unlink()
            async with caller.get(f"{serve.url}/sidecar/orders") as answer:
                assert (answer.status, answer.headers["Tokenproxy-Error"]) == (503, "provider_unavailable")
                assert "Retry-After" in answer.headers
            put("token")
            await serve.told("token_renewed", times=3)
            assert set(await crowd(serve, caller, "sidecar")) == {200}

            provider.revoke_access(fixed)
            async with caller.get(f"{serve.url}/fixed/orders") as answer:
                assert (answer.status, answer.headers["Tokenproxy-Error"]) == (503, "misconfigured")
                assert (await answer.json())["next_step"].startswith(
                    "put another token where [accounts.fixed]"
                )
            put("fixed")
            serve.process.send_signal(signal.SIGHUP)
            await serve.told("config_reloaded")
            assert set(await crowd(serve, caller, "fixed")) == {200}
            assert await serve.stop() == 0
        assert provider.token_calls == 0
        assert provider.leaks(serve.written) == []
