"""What the person on call meets at night: full disks, port scanners, hundreds of routes, half-written files."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.simulators import Api, AskaraProvider, PlainProvider, write_config
from tests.stories.serving import PATIENCE, Serve, calling, command, imported, serving, status_of

JSON_LOG = '[log]\nformat = "json"\n'


def disk_full(serve: Serve) -> None:
    """No file may grow any more: what a full disk looks like to a process, without needing root."""
    resource.prlimit(serve.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def store_full(serve: Serve) -> None:
    """Files of ours may reach 4 KiB: a spooled token set fits, and the store's log is longer already."""
    resource.prlimit(serve.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def disk_has_room(serve: Serve) -> None:
    resource.prlimit(
        serve.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )


async def reasons_told(config: Path) -> dict[str, str]:
    """Why ``serve`` is not ready, as the status command says it."""
    _, out, err = await command(config, "status", "--json")
    assert out, err
    return dict(json.loads(out)["reasons"])


async def test_a_store_that_takes_no_token_is_told_by_status_and_by_the_exit_code(tmp_path: Path) -> None:
    """A rotated token that only memory has dies with the process: nobody may learn that from a 503 days later."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_all_access()
            provider.gate, provider.hold = asyncio.Event(), "after"
            asking = asyncio.ensure_future(caller.get(f"{serve.url}/books/x"))
            await provider.token_call_arrived()
            disk_full(serve)
            provider.gate.set()

            async with await asking as answer:
                assert answer.status == 200
            async with asyncio.timeout(PATIENCE):  # /readyz believes an answer for a second
                while "tokens" not in (await reasons_told(config)):
                    pass
            _, out, _ = await command(config, "status")
            assert "serve is not ready (tokens)" in out

            assert await serve.stop() == 5
            last = serve.written.rstrip().splitlines()[-2:]
            assert "books" in last[0]
            assert "import books" in last[1]
            assert not provider.leaks(serve.written)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_what_the_store_did_not_take_is_there_after_a_crash(
    end: signal.Signals, tmp_path: Path
) -> None:
    """The provider is strict: whoever sends the spent refresh token again loses the login."""
    async with AskaraProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_all_access()
            provider.gate, provider.hold = asyncio.Event(), "after"
            asking = asyncio.ensure_future(caller.get(f"{serve.url}/books/x"))
            await provider.token_call_arrived()
            store_full(serve)
            provider.gate.set()
            async with await asking as answer:
                assert answer.status == 200
            code = await serve.stop(end)
            assert code == (-signal.SIGKILL if end is signal.SIGKILL else 0)
            if end is signal.SIGTERM:
                assert (await serve.told("spool_left"))["account"] == "books"

        provider.gate = None
        async with serving(config) as serve, calling() as caller:
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            provider.revoke_all_access()
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            assert (await status_of(config, "books"))["generation"] == 3
            assert await serve.stop() == 0
        assert (provider.token_calls, provider.reuses) == (2, 0)
        assert not provider.leaks(serve.written)


async def test_when_the_disk_has_room_again_everything_mends_by_itself(tmp_path: Path) -> None:
    """Nobody should have to restart what only waited for space."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_all_access()
            provider.gate, provider.hold = asyncio.Event(), "after"
            asking = asyncio.ensure_future(caller.get(f"{serve.url}/books/x"))
            await provider.token_call_arrived()
            disk_full(serve)
            provider.gate.set()
            (await asking).close()
            disk_has_room(serve)
            await serve.told("store_recovered")

            async with asyncio.timeout(PATIENCE):
                while await reasons_told(config):
                    pass
            assert await serve.stop() == 0


async def test_hundreds_of_routes_start_and_reload_without_a_pause(tmp_path: Path) -> None:
    """The system's authorities take 25 ms to read; once for each route, a reload held all requests up for half a minute."""
    async with PlainProvider() as provider, Api(provider) as api:
        many = "".join(
            f'[accounts.a{number}]\nprovider = "plain"\nclient_id = "{provider.client_id}"\n'
            f'client_secret = "file:books.secret"\n'
            f'[routes.a{number}]\nupstream = "{api.url}"\naccount = "a{number}"\n'
            for number in range(200)
        )
        config = write_config(tmp_path, provider, api, extra=JSON_LOG + many)
        async with serving(config) as serve:
            begun = time.monotonic()
            serve.process.send_signal(signal.SIGHUP)
            await serve.told("config_reloaded")
            assert time.monotonic() - begun < 4


async def test_a_setting_that_waits_for_a_restart_is_named_until_it_has_one(tmp_path: Path) -> None:
    """Compared with what runs: not with the file before, which was not in force either."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        before = config.read_text()
        async with serving(config):
            config.write_text(f"{before}\n[renew]\nconcurrent = 3\n")
            for _ in range(2):
                _, out, _ = await command(config, "reload", "--json")
                assert json.loads(out)["restart_needed"] == ["renew.concurrent"]
            config.write_text(before)
            _, out, _ = await command(config, "reload", "--json")
            assert json.loads(out)["restart_needed"] == []


async def test_a_reload_opens_and_closes_listeners(tmp_path: Path) -> None:
    """Without a restart; what cannot be opened changes nothing."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        before = config.read_text()
        old = 'listen = "127.0.0.1:0"'
        async with serving(config) as serve:
            config.write_text(before.replace(old, 'listen = ["127.0.0.1:0", "unix:proxy.sock"]', 1))
            _, out, _ = await command(config, "reload", "--json")
            assert json.loads(out)["restart_needed"] == []
            assert serve.addresses["proxy-2"] == f"unix:{tmp_path}/proxy.sock"
            config.write_text(before.replace(old, f'listen = "{serve.addresses["admin"]}"', 1))
            code, _, err = await command(config, "reload")
            assert (code, "in use" in err) == (1, True)
            assert (tmp_path / "proxy.sock").exists()
            config.write_text(before)
            await command(config, "reload")
            assert (await serve.told("listener_closed"))["address"] == f"unix:{tmp_path}/proxy.sock"
            assert not (tmp_path / "proxy.sock").exists()


async def test_rubbish_on_the_admin_port_is_no_error_of_ours(tmp_path: Path) -> None:
    """A port scanner must not fill the log with errors, nor put what it sent there."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=JSON_LOG)
        async with serving(config) as serve:
            host, _, port = serve.addresses["admin"].rpartition(":")
            for rubbish in (
                b"GET / HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nX-Planted : word-of-a-caller\r\n\r\n",
            ):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(rubbish)
                assert (await reader.readline()).split()[1] == b"400"
                writer.close()
            await serve.told("caller_refused", times=2)

            assert {event["code"] for event in serve.events if event["event"] == "caller_refused"} == {
                "bad_request"
            }
            assert not [event for event in serve.events if event["level"] == "error"]
            assert "word-of-a-caller" not in serve.written


async def test_what_is_no_key_file_has_a_way_out(tmp_path: Path) -> None:
    """``key new`` does not touch a file that is there, so it cannot be the next step alone."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api)
        key = tmp_path / "tokenproxy.key"
        key.touch(mode=0o600)
        key.write_text("rubbish\n")
        code, _, err = await command(config, "serve")

        assert code == 5
        assert "backup" in err
        assert "tokenproxy key new" in err
