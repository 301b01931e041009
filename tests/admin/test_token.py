"""The admin token's file: made once, for its owner's eyes only, and what a reload makes of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import aiohttp
import pytest

from tests.simulators import Api, PlainProvider, write_config
from tokenproxy import app, config, log
from tokenproxy.admin.token import AdminToken, file_token
from tokenproxy.errors import TokenproxyError


def test_the_first_start_makes_it_and_the_next_ones_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "tokenproxy.db.admin-token"

    made = file_token(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made.value) == 43
    assert file_token(path).value == made.value
    assert str(path) in made.place
    assert made.value not in repr(made)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_one_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever could write it would be the operator."""
    path = tmp_path / "admin-token"
    file_token(path)
    path.chmod(mode)

    with pytest.raises(TokenproxyError, match="can be changed by others") as refused:
        file_token(path)
    assert refused.value.next_step == f"chmod 600 {path}"


@pytest.mark.parametrize("content", ["", "short", "two words of sixteen letters", "\u00e9" * 20, "x" * 5000])
def test_one_that_holds_no_token_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    """An empty file must not become an empty token that everybody knows."""
    path = tmp_path / "admin-token"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(TokenproxyError, match="holds no token") as refused:
        file_token(path)
    assert not content or content not in refused.value.message


def test_what_is_no_file_is_refused_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(TokenproxyError, match="is no regular file"):
        file_token(tmp_path / "pipe")
    with pytest.raises(TokenproxyError, match="cannot be made"):
        file_token(tmp_path / "nowhere" / "token")


async def _reload(running: app.App, token: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{running.addresses['admin']}/api/reload",
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        ) as answer,
    ):
        return answer.status


async def test_the_config_s_token_goes_before_the_file_s_and_a_reload_changes_it(tmp_path: Path) -> None:
    """A secret that is rotated counts from the reload on, and the one before no longer."""
    async with PlainProvider() as provider, Api(provider) as api:
        path = write_config(tmp_path, provider, api)
        running = await app.start(config.load(path, {}), environ={})
        try:
            of_file = (tmp_path / "tokenproxy.db.admin-token").read_text().strip()
            assert await _reload(running, of_file) == 200
            (tmp_path / "admin.secret").write_text("the-first-secret-of-two\n")
            (tmp_path / "admin.secret").chmod(0o600)
            path.write_text(path.read_text().replace("[admin]", '[admin]\ntoken = "file:admin.secret"'))
            assert await _reload(running, of_file) == 200
            assert await _reload(running, of_file) == 401
            (tmp_path / "admin.secret").write_text("the-second-secret-of-two\n")
            assert await _reload(running, "the-first-secret-of-two") == 200
            assert await _reload(running, "the-first-secret-of-two") == 401
            assert await _reload(running, "the-second-secret-of-two") == 200
            said = log.redact(f"{of_file} the-second-secret-of-two")
            assert said == f"{log.REDACTED} {log.REDACTED}"
        finally:
            await running.close()


async def test_a_token_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """One clear sentence, and nothing is left running."""
    async with PlainProvider() as provider, Api(provider) as api:
        path = write_config(tmp_path, provider, api)
        (tmp_path / "tokenproxy.db.admin-token").write_text("sixteen-letters-and-more")
        (tmp_path / "tokenproxy.db.admin-token").chmod(0o666)

        with pytest.raises(TokenproxyError, match="can be changed by others"):
            await app.start(config.load(path, {}), environ={})


def test_it_is_shown_in_one_field_only() -> None:
    """Two of them are read in two ways by two servers, one of which may be a proxy before us."""
    token = AdminToken("t" * 43, place="here")
    good = f"Bearer {'t' * 43}"

    assert token.is_shown_by([good])
    for fields in ([], [good, good], [good, "Bearer other"], ["Bearer other", good]):
        assert not token.is_shown_by(fields)
