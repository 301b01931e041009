"""The main job through the real program: attach, 401, validate, renew once, replay, store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.simulators import Api, AskaraProvider, DeskeraProvider, PerscomProvider, write_config
from tests.simulators.provider import Provider
from tests.stories.serving import Serve, calling, command, imported, serving, status_of

PROVIDERS = [DeskeraProvider, PerscomProvider, AskaraProvider]
JSON_LOG = '[log]\nformat = "json"\nlevel = "debug"\n'


def configured(tmp_path: Path, provider: Provider, api: Api, extra: str = "", **options: str) -> Path:
    return write_config(tmp_path, provider, api, extra=JSON_LOG + extra, **options)  # type: ignore[arg-type]


async def crowd_of_posts(serve: Serve, caller: aiohttp.ClientSession, count: int = 50) -> list[str]:
    """So many POSTs at once, each with a body of its own; gives the hashes that the API saw, in order."""

    async def post(number: int) -> str:
        body = f"body {number} ".encode() * 200
        async with caller.post(f"{serve.url}/books/orders/{number}", data=body) as answer:
            assert answer.status == 200, await answer.text()
            seen = (await answer.json())["sha256"]
        assert seen == hashlib.sha256(body).hexdigest()
        return str(seen)

    return await asyncio.gather(*(post(number) for number in range(count)))


@pytest.mark.parametrize("kind", PROVIDERS, ids=lambda kind: kind.__name__)
async def test_each_guide_s_flow_from_import_to_restart(tmp_path: Path, kind: type[Provider]) -> None:
    """What the product promises, for each of the providers that it was made for."""
    async with kind() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            async with caller.get(URL(f"{serve.url}/books/orders?x=%2F&y", encoded=True)) as answer:
                assert answer.status == 200
                assert (await answer.json())["target"] == "/orders?x=%2F&y"

            for round_ in (1, 2):
                provider.revoke_all_access()
                bodies = await crowd_of_posts(serve, caller)

                assert len(set(bodies)) == 50
                assert provider.refreshes == round_
                assert provider.token_calls == round_
            assert (await status_of(config, "books"))["generation"] == 3
            assert await serve.stop() == 0

        async with serving(config) as serve, calling() as caller:
            async with caller.get(f"{serve.url}/books/orders") as answer:
                assert answer.status == 200
                assert (await answer.json())["token"] == 3
            provider.revoke_all_access()
            await crowd_of_posts(serve, caller)
            assert provider.refreshes == 3
        assert provider.complaints == []
        assert provider.reuses == 0


async def test_a_live_token_is_not_renewed_for_a_401(tmp_path: Path) -> None:
    """Deskera's validate call says "live": the 401 is about something else and belongs to the caller."""
    async with DeskeraProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())

            async def ask() -> tuple[int, str | None]:
                async with caller.get(f"{serve.url}/books/forbidden-401") as answer:
                    return answer.status, answer.headers.get("Tokenproxy-Error")

            answers = await asyncio.gather(*(ask() for _ in range(50)))

            assert set(answers) == {(401, None)}
            assert provider.validate_calls == 1
            assert provider.token_calls == 0


async def test_a_caller_that_hangs_up_does_not_stop_the_renewal(tmp_path: Path) -> None:
    """The only one who waits leaves after the token call was sent; what the provider issued must not be lost."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_all_access()
            provider.gate = asyncio.Event()
            request = asyncio.ensure_future(caller.get(f"{serve.url}/books/x"))
            await provider.token_call_arrived()

            request.cancel()
            await asyncio.wait({request})
            provider.gate.set()
            await serve.told("token_renewed")

            assert (await status_of(config, "books"))["generation"] == 2
            await serve.stop(signal.SIGKILL)
        assert (await status_of(config, "books"))["generation"] == 2
        assert provider.refreshes == 1


async def test_kill_9_loses_nothing_that_a_caller_saw(tmp_path: Path) -> None:
    """Stored before used: the token of every answer that anybody got is on disk."""
    async with AskaraProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        await imported(config, "books", provider.new_grant())
        for round_ in range(1, 6):
            async with serving(config) as serve, calling() as caller:
                provider.revoke_all_access()
                async with caller.get(f"{serve.url}/books/x") as answer:
                    seen = (await answer.json())["token"]
                await serve.stop(signal.SIGKILL)
            assert seen == round_ + 1
            assert (await status_of(config, "books"))["generation"] == seen
        assert provider.reuses == 0


async def test_a_provider_that_is_down_takes_nothing_away(tmp_path: Path) -> None:
    """A live token goes on being used; a dead one ends in 503 with a code; and then all is well again."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.outage, provider.retry_after = 503, 1
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            provider.revoke_all_access()
            async with caller.get(f"{serve.url}/books/x") as answer:
                problem = await answer.json()

                assert answer.status == 503
                assert answer.headers["Tokenproxy-Error"] == "provider_unavailable"
                assert int(answer.headers["Retry-After"]) >= 1
                assert problem["account"] == "books"
            provider.outage = None
            async with asyncio.timeout(15):
                while True:
                    async with caller.get(f"{serve.url}/books/x") as answer:
                        if answer.status == 200:
                            break
                        assert answer.status == 503
                        await asyncio.sleep(float(answer.headers["Retry-After"]))
            assert provider.refreshes == 1
            assert provider.reuses == 0


@pytest.mark.parametrize("changed", ["provider", "token_url", "client_id"])
async def test_a_changed_registration_gets_nothing(tmp_path: Path, changed: str) -> None:
    """A refresh token goes to the endpoint and the client that obtained it, whatever the config says now."""
    async with (
        PerscomProvider() as provider,
        PerscomProvider() as elsewhere,
        AskaraProvider() as another,
        Api(provider) as api,
        calling() as caller,
    ):
        config = configured(tmp_path, provider, api)
        await imported(config, "books", provider.new_grant())
        provider.revoke_all_access()
        if changed == "client_id":
            config = configured(tmp_path, provider, api, client_id="another")
        else:
            config = configured(tmp_path, elsewhere if changed == "token_url" else another, api)
        async with serving(config) as serve:
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 503
                assert answer.headers["Tokenproxy-Error"] == "login_required"
            status = await status_of(config, "books")
            code, _, _ = await command(config, "refresh", "books")

            assert status["reason"] == "registration_changed"
            assert "rebind" in status["next_step"]
            assert code == 3
        assert provider.token_calls == 0
        assert elsewhere.token_calls == another.token_calls == 0
        assert not any(request.token for request in api.requests)


async def test_a_login_that_is_over_says_so_and_an_import_mends_it(tmp_path: Path) -> None:
    """The provider ended the grant: one token call, then words; never a loop of calls that cannot succeed."""
    async with DeskeraProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_grant()
            for _ in range(5):
                async with caller.get(f"{serve.url}/books/x") as answer:
                    assert answer.status == 503
                    assert answer.headers["Tokenproxy-Error"] == "login_required"
            code, out, _ = await command(config, "status")

            assert provider.token_calls == 1
            assert code == 3
            assert "tokenproxy login books" in out
            await imported(config, "books", provider.new_grant())
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200


RUBBISH = {
    "HTML": (200, {"Content-Type": "text/html"}, b"<!doctype html><title>Maintenance</title>"),
    "10 MB": (200, {"Content-Type": "application/json"}, b'{"access_token": "' + b"x" * 10_000_000),
    "CR LF in the token": (
        200,
        {"Content-Type": "application/json"},
        b'{"access_token": "a\\r\\nX-Evil: 1"}',
    ),
    "an empty answer": (200, {}, b""),
    "a redirect": (302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""),
    "an object for a token": (200, {"Content-Type": "application/json"}, b'{"access_token": {"a": [1]}}'),
}


@pytest.mark.parametrize("kind", RUBBISH)
async def test_rubbish_from_the_token_endpoint_takes_nothing_away(tmp_path: Path, kind: str) -> None:
    """It is told as what it is, nothing of it reaches the upstream, and the stored tokens stay as they were."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_all_access()
            provider.answer_override = RUBBISH[kind]
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 503
                assert answer.headers["Tokenproxy-Error"] in {"provider_unavailable", "misconfigured"}
                assert "X-Evil" not in str(answer.headers)
            assert (await status_of(config, "books"))["generation"] == 1

            provider.answer_override = None
            code, _, err = await command(config, "refresh", "books")
            assert code == 0, err
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
        assert provider.reuses == 0


async def test_a_number_written_as_text_is_a_number(tmp_path: Path) -> None:
    """``"expires_in": "3600"`` (PayPal and others) is an hour, not a crash and not for ever."""
    async with PerscomProvider() as provider, Api(provider) as api:
        provider.expires_in = "3600"
        config = configured(tmp_path, provider, api)
        async with serving(config):
            await imported(config, "books", provider.new_grant())
            code, _, err = await command(config, "refresh", "books")
            assert code == 0, err
            status = await status_of(config, "books")

            assert status["generation"] == 2
            assert status["expires_at"] is not None


async def test_no_secret_in_anything_that_the_program_writes(tmp_path: Path) -> None:
    """At debug level, through renewals, refusals, outages and every page: the planted secrets are nowhere."""
    async with DeskeraProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        written = []
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            for disturb in ("revoke", "html", "lose", "outage"):
                provider.revoke_all_access()
                if disturb == "html":
                    provider.answer_override = (200, {"Content-Type": "text/html"}, b"<html>sorry</html>")
                if disturb == "lose":
                    provider.lose_answers = 2
                if disturb == "outage":
                    provider.outage = 500
                async with caller.get(f"{serve.url}/books/x?token=callers-own-secret") as answer:
                    written += [await answer.text(), str(answer.headers)]
                provider.answer_override = provider.outage = None
                provider.lose_answers = 0
                await command(config, "refresh", "books")
            for page in ("/", "/metrics", "/readyz", "/api/accounts", "/api/accounts/books"):
                async with caller.get(serve.admin + page) as answer:
                    written += [await answer.text(), str(answer.headers)]
            for words in (("status",), ("status", "--json"), ("check",), ("refresh", "books")):
                written += [str(part) for part in await command(config, *words)]
            await serve.stop()
            written.append(serve.written)
        everything = "\n".join(re.sub(r'"x-access-token", "[^"]*"', "", text) for text in written)

        assert provider.leaks(everything) == []
        assert "callers-own-secret" not in serve.written


async def test_sigterm_drains_and_sighup_reloads(tmp_path: Path) -> None:
    """A request under way gets its answer, a bad file changes nothing, a good one is in force at once."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            good = config.read_text()
            config.write_text(good.replace("[routes.books]", "[routes.books]\nupstrem = 1"))
            serve.process.send_signal(signal.SIGHUP)
            refused = await serve.told("config_reload_failed")
            assert "upstrem" in refused["detail"]
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            config.write_text(good.replace("[routes.books]", '[routes.books]\nprefix = "/ledger/"'))
            serve.process.send_signal(signal.SIGHUP)
            await serve.told("config_reloaded")
            async with caller.get(f"{serve.url}/ledger/x") as answer:
                assert answer.status == 200
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 404

            api.gate = asyncio.Event()
            under_way = asyncio.ensure_future(caller.get(f"{serve.url}/ledger/slowly"))
            await api.crowd(1)
            serve.process.send_signal(signal.SIGTERM)
            await serve.told("stopping")
            api.gate.set()

            async with await under_way as answer:
                assert answer.status == 200
            assert await serve.ended() == 0


async def test_what_cannot_start_says_why_in_one_sentence(tmp_path: Path) -> None:
    """A port in use, a second serve, a wrong key, an unreadable store: the exit code and one clear sentence each."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve:
            code, _, err = await command(config, "serve")
            assert code == 5 or code == 1
            assert "another tokenproxy" in err.lower()
            other = tmp_path / "other"
            other.mkdir()
            taken = configured(other, provider, api, listen=serve.addresses["proxy"])
            code, _, err = await command(taken, "serve")
            assert code != 0
            assert "in use" in err
            assert "Traceback" not in err
        await imported(config, "books", provider.new_grant())
        key = config.with_name("tokenproxy.key")
        kept = key.read_text()
        key.write_text("A" * 43 + "=\n")
        code, _, err = await command(config, "serve")
        assert code == 5
        assert "key" in err
        key.unlink()
        code, _, err = await command(config, "serve")
        assert code == 5
        assert "key" in err
        key.write_text(kept)
        key.chmod(0o600)
        config.with_name("tokenproxy.db").write_bytes(b"this is no database" * 100)
        code, _, err = await command(config, "serve")
        assert code == 5
        assert "Traceback" not in err
        assert len([line for line in err.splitlines() if line.strip()]) <= 4


async def test_key_rotation_while_serving(tmp_path: Path) -> None:
    """The file gets a new key, every row is sealed with it, the old one goes; nobody notices."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = configured(tmp_path, provider, api)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            before = config.with_name("tokenproxy.key").read_text()
            code, out, err = await command(config, "key", "rotate", "--json")
            assert code == 0, err
            assert json.loads(out)["resealed"] == 1
            assert config.with_name("tokenproxy.key").read_text() != before
            provider.revoke_all_access()
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
        async with (
            serving(config) as serve,
            calling() as caller,
            caller.get(f"{serve.url}/books/x") as answer,
        ):
            assert answer.status == 200
