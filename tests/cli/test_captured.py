"""An account with ``capture``: what a login caught is state for the application, and there are no tokens of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Here

CONFIG = """\
[providers.third]
authorize_url = "https://example.com/authorize"

[accounts.desk]
provider = "third"
client_id = "app-1"
capture = "oauth2/mytoken"

[routes.desk]
upstream = "https://example.com"
account = "desk/{header:x-user}"
trust_account_header = true
placeholders = true
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "config.toml").chmod(0o600)


def test_nothing_is_said_of_tokens_that_it_never_has(here: Here) -> None:
    status, logout = here("status"), here("logout", "desk/anna")

    assert status.code == logout.code == 0
    assert "on next use" not in status.out
    assert "by itself" not in logout.out
    assert "what was caught and kept" in logout.out


@pytest.mark.parametrize("command", ["refresh", "import", "rebind"])
def test_there_are_no_tokens_to_do_anything_with(command: str, here: Here) -> None:
    """To say that nobody has logged in would be untrue, and a token that is handed in would never be used."""
    ended = here(command, "desk/anna", given="a-token-of-somebody")

    assert ended.code == 2
    assert "keeps what a login catches under oauth2/mytoken" in ended.err
    assert ended.err.endswith("Next:  tokenproxy login desk/anna   (to catch it anew)\n")
