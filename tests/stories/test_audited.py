"""What a running program writes down of a day: who did what to which login, who was refused, and no secret of anybody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import aiohttp

from tests.simulators import Api, PlainProvider, free_port, write_config
from tests.stories.serving import Serve, calling, command, imported, serving

AUDIT = '[audit]\nfile = "audit.jsonl"\n'
UID = os.getuid()


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def until(file: Path, event: str, *, times: int = 1) -> list[dict[str, Any]]:
    """Those lines, once there are so many: the thread that writes has no other sign."""
    async with asyncio.timeout(20):
        while True:
            found = [line for line in lines_of(file) if line["event"] == event] if file.exists() else []
            if len(found) >= times:
                return found
            await asyncio.sleep(0.02)


def token_of(serve: Serve) -> str:
    return serve.config.with_name("tokenproxy.db.admin-token").read_text().strip()


async def test_a_day_is_written_down_and_no_secret_with_it(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    planted = "v4lue-that-an-app-keeps"
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(
            tmp_path, provider, api, extra=AUDIT, admin_listen=f"127.0.0.1:{free_port()}",
            server_extra='[server.caller_auth]\nkeys = ["literal:k3y-of-the-legacy-app"]',
        )  # fmt: skip
        async with serving(config) as serve, calling() as caller:
            admin, token = serve.admin, token_of(serve)
            shown = {"Authorization": f"Bearer {token}"}
            # an import by command, a login by a browser, a renewal and state by a program with the token
            await imported(config, "books", provider.new_grant())
            async with caller.post(
                f"{admin}/api/logins", json={"account": "books/anna"}, headers=shown
            ) as answer:
                login = await answer.json()
            async with (
                aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
                browser.get(login["start_url"]) as page,
            ):
                assert (page.status, "Logged in" in await page.text()) == (200, True)
            async with caller.post(f"{admin}/api/accounts/books/refresh", json={}, headers=shown) as answer:
                assert answer.status == 200
                request_id = answer.headers["X-Request-Id"]
            at = f"{admin}/api/accounts/books/state/app/token"
            async with caller.put(at, json={"value": planted}, headers=shown) as answer:
                assert answer.status == 200
            async with caller.delete(at, json={}, headers=shown) as answer:
                assert answer.status == 200
            async with caller.post(f"{admin}/api/accounts/nobody/refresh", json={}, headers=shown) as answer:
                assert answer.status == 404
            # who may not
            for _ in range(5):
                async with caller.post(
                    f"{admin}/api/reload", json={}, headers={"Authorization": "Bearer wr0ng-guess"}
                ) as answer:
                    assert answer.status == 401
                async with caller.get(
                    f"{serve.url}/books/x", headers={"Tokenproxy-Key": "wr0ng-key-of-somebody"}
                ) as answer:
                    assert answer.status == 401
            # the rest of what commands do
            for words in (
                ("backup",), ("key", "rotate"), ("logout", "books/anna"), ("reload",), ("rebind", "books"),
            ):  # fmt: skip
                where = ("store", "backup", str(tmp_path / "copy.db")) if words == ("backup",) else words
                code, _, err = await command(config, *where)
                assert code == 0, err
            # logrotate
            await until(file, "account_rebound")
            file.rename(tmp_path / "audit.jsonl.1")
            serve.process.send_signal(signal.SIGHUP)
            await serve.told("config_reloaded", times=2)
            assert await serve.stop() == 0
        # a command without serve
        code, _, err = await command(config, "logout", "books")
        assert code == 0, err

        old, new = tmp_path / "audit.jsonl.1", file
        lines = lines_of(old) + lines_of(new)
        text = old.read_text() + new.read_text() + serve.written
        secrets = [token, planted, "wr0ng", "k3y-of-the-legacy-app", login["id"], *provider.secrets]
        assert not [secret for secret in secrets if secret in text]
        assert not provider.leaks(text)

    for each in (old, new):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    by = {(line["event"], line["account"], line["actor"], line["result"], line["reason"]) for line in lines}
    socket, here = f"socket:uid={UID}", f"command:uid={UID}"
    assert {
        ("audit_begun", "", "program", "ok", ""),
        ("started", "", "program", "ok", ""),
        ("token_imported", "books", socket, "ok", ""),
        ("login_begun", "books/anna", "admin_token", "ok", ""),
        ("token_imported", "books/anna", "browser", "ok", ""),
        ("login_succeeded", "books/anna", "browser", "ok", ""),
        ("token_renewed", "books", "admin_token", "ok", ""),
        ("state_written", "books", "admin_token", "ok", ""),
        ("state_dropped", "books", "admin_token", "ok", ""),
        ("admin_call", "nobody", "admin_token", "failed", "unknown_account"),
        ("caller_refused", "", "nobody", "refused", "admin_token_required"),
        ("caller_refused", "", "caller", "refused", "caller_unauthorized"),
        ("store_copied", "", socket, "ok", ""),
        ("key_rotated", "", socket, "ok", ""),
        ("account_forgotten", "books/anna", socket, "ok", ""),
        ("config_reloaded", "", socket, "ok", ""),
        ("account_rebound", "books", socket, "ok", ""),
        ("config_reloaded", "", "signal", "ok", ""),
        ("stopping", "", "signal", "ok", ""),
        ("stopped", "", "signal", "ok", ""),
        ("account_forgotten", "books", here, "ok", ""),
    } <= by
    renewed = next(line for line in lines if line["event"] == "token_renewed")
    assert (renewed["request_id"], renewed["trigger"], renewed["peer"]) == (request_id, "manual", "127.0.0.1")
    refused = [line for line in lines if line["event"] == "caller_refused"]
    assert sorted((line["reason"], line.get("times", 1)) for line in refused) == [
        ("admin_token_required", 1), ("admin_token_required", 4),
        ("caller_unauthorized", 1), ("caller_unauthorized", 4),
    ]  # fmt: skip
    calls = {(line["call"], line["status"]) for line in lines if line["event"] == "admin_call"}
    assert ("POST /api/accounts/{account}/refresh", 200) in calls
    assert ("PUT /api/accounts/{account}/state/{path}", 200) in calls
    assert lines_of(new)[0]["event"] in {"config_reloaded", "stopping"}, "a reload opens the new file"


async def test_required_means_that_nothing_is_done_unseen(tmp_path: Path) -> None:
    """A full disk: not ready, no changes, and requests go on; with room for it everything is as before."""
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra=f"{AUDIT}required = true\n")
        async with serving(config) as serve, calling() as caller:
            await serve.told("audit_failed")
            code, _, err = await command(
                config, "import", "books", given=json.dumps(provider.new_grant()).encode()
            )
            assert code != 0
            assert "audit log fails: No space left on device" in err
            assert "Make room on the disk that audit.file lies on" in err
            async with caller.get(f"{serve.admin}/readyz") as answer:
                assert (answer.status, "audit log" in await answer.text()) == (503, True)

            (tmp_path / "audit.jsonl").unlink()
            serve.process.send_signal(signal.SIGHUP)
            await serve.told("audit_recovered")
            await imported(config, "books", provider.new_grant())
            async with caller.get(f"{serve.url}/books/x") as answer:
                assert answer.status == 200
            assert await serve.stop() == 0
    told = [line["event"] for line in lines_of(tmp_path / "audit.jsonl")]
    assert told[:3] == ["audit_begun", "key_created", "started"], "what waited is there"


async def test_a_reload_begins_and_ends_it(tmp_path: Path) -> None:
    """And one whose file cannot be opened changes nothing."""
    async with PlainProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api)
        text = config.read_text()
        async with serving(config) as serve:
            config.write_text(f"{text}\n{AUDIT}")
            assert (await command(config, "reload"))[0] == 0
            await until(tmp_path / "audit.jsonl", "config_reloaded")

            (tmp_path / "open.jsonl").touch()
            (tmp_path / "open.jsonl").chmod(0o666)
            config.write_text(f'{text}\n[audit]\nfile = "open.jsonl"\n')
            code, _, err = await command(config, "reload")
            assert code != 0
            assert "can be changed by others" in err
            await until(tmp_path / "audit.jsonl", "config_reload_failed")

            config.write_text(text)
            assert (await command(config, "reload"))[0] == 0
            assert await serve.stop() == 0
    assert "stopped" not in (tmp_path / "audit.jsonl").read_text()
