"""Answers about tokens, through the real program: permissions, redirects, and tokens that are bound to a key."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.proxy.actors import ScriptedUpstream, WallClock, until
from tests.proxy.bound import BoundApi
from tests.simulators import Api, PerscomProvider, write_config
from tests.simulators.modern import ModernServer
from tests.stories.serving import calling, imported, serving

JSON_LOG = '[log]\nformat = "json"\nlevel = "debug"\n'


async def test_a_401_for_a_permission_costs_one_renewal_and_no_more(tmp_path: Path) -> None:
    """Without a validate call: one try tells that a new token is refused too; the token goes on elsewhere."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())

            async def ask(path: str) -> int:
                async with caller.get(f"{serve.url}/books{path}") as answer:
                    return answer.status

            assert set(await asyncio.gather(*(ask("/forbidden-401") for _ in range(30)))) == {401}
            assert [await ask("/forbidden-401") for _ in range(10)] == [401] * 10
            assert provider.token_calls == 1
            assert await ask("/orders") == 200
        assert provider.complaints == []


async def test_a_redirect_takes_no_token_elsewhere(tmp_path: Path) -> None:
    """It is the caller's to follow, and the caller has no token."""
    elsewhere = await ScriptedUpstream().start()
    async with PerscomProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            to = f"http://127.0.0.1:{elsewhere.port}/x"
            async with caller.get(f"{serve.url}/books/redirect?to={to}", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (302, to)
            async with caller.get(f"{serve.url}/books/redirect?to={to}") as answer:
                assert answer.status == 200
            (followed,) = elsewhere.seen
            assert provider.leaks(followed.head.decode()) == []
    await elsewhere.stop()


async def test_a_key_outlives_the_program(tmp_path: Path) -> None:
    """DPoP with a nonce at both servers; after a restart the same key proves, and no token is asked for."""
    api = BoundApi(nonces=["api-1"])
    upstream = await ScriptedUpstream(api).start()
    api.base = f"http://127.0.0.1:{upstream.port}"
    async with ModernServer(auth="client_secret_post", clock=WallClock()) as server:
        server.dpop, server.nonce = True, "as-1"
        config = tmp_path / "config.toml"
        config.write_text(f"""
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[providers.modern]
token_url = "{server.token_url}"
client_auth = "post"
dpop = true
[accounts.books]
provider = "modern"
grant = "client_credentials"
client_id = "{server.client_id}"
client_secret = {json.dumps("literal:" + server.client_secret)}
[routes.books]
upstream = "{api.base}"
account = "books"
{JSON_LOG}""")
        written = ""
        for starts in (1, 2):
            async with serving(config) as serve, calling() as caller:
                async with caller.post(f"{serve.url}/books/orders", data=b"order") as answer:
                    assert (answer.status, await answer.read()) == (200, b"hello")
                await until(lambda: len(api.proofs) == 2 * starts)  # noqa: B023 - called at once
                assert await serve.stop() == 0
                written += serve.written
        (issued,) = server.issued
        assert set(api.keys) == {issued.bound_to}
        assert [claims.get("nonce") for claims in api.proofs] == [None, "api-1"] * 2
        assert (server.refused_nonces, server.complaints) == (1, [])
        assert not any(secret in written for secret in server.secrets)
        assert not any(seen.values(b"dpop")[0].decode() in written for seen in upstream.seen)
    await upstream.stop()
