"""``init``: a newcomer's first command makes a config that works, and never harms one that is there."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Here
from tests.cli.program import terminal
from tokenproxy import config

SECRET = "planted-secret-0123"
BOOKS = ("init", "deskera", "--name", "books", "--upstream", "https://api-staging.deskera.xyz",
         "--client-id", "cl_pub_1234", "--client-secret", "env:DESKERA_SECRET", "--yes")  # fmt: skip


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_from_options_to_a_config_that_checks(tmp_path: Path, here: Here) -> None:
    """The help's own example, in a script: no question, and the next command works."""
    ended = here(*BOOKS)
    loaded = config.load(tmp_path / "config.toml", {"DESKERA_SECRET": SECRET})

    assert ended.code == 0, ended.err
    assert "wrote  config.toml" in ended.out
    assert "mode 0600. Keep a copy" in ended.out
    assert "Register this address: http://127.0.0.1:9100/callback/books " in ended.out
    assert ended.out.endswith("Next:  tokenproxy login books\n       tokenproxy serve\n")
    assert loaded.accounts["books"].registration.client_id == "cl_pub_1234"
    assert loaded.routes[0].upstream.host == "api-staging.deskera.xyz"
    assert mode(tmp_path / "config.toml") == mode(tmp_path / "tokenproxy.key") == 0o600
    assert here("check", env={"DESKERA_SECRET": SECRET}).code == 0
    assert {each.name for each in tmp_path.iterdir()} == {"config.toml", "tokenproxy.key"}


def test_what_was_not_given_is_marked_and_named(tmp_path: Path, here: Here) -> None:
    ended = here("init", "perscom", "--yes")
    text = (tmp_path / "config.toml").read_text()

    assert ended.code == 0
    assert text.count("CHANGE ME") == 2
    assert "! 2 settings to fill in, marked CHANGE ME: vars, client_id" in ended.out
    assert "put the client secret into perscom.secret, mode 0600" in ended.out


@pytest.mark.parametrize(
    ("preset", "given", "secret"),
    [
        ("salesforce", [], True),
        ("zendesk", ["subdomain=acme"], True),
        ("etsy", [], False),
        ("adp", [], True),
        ("bluesky-atproto", ["server=bsky.social", "pds=morel.us-east.host.bsky.network"], False),
    ],
)
def test_whatever_the_provider_is_like_the_config_checks(
    preset: str, given: list[str], secret: bool, tmp_path: Path, here: Here
) -> None:
    """Where its API lies may be filled by the account, or by what the login brings."""
    options = [word for each in given for word in ("--var", each)]
    options += ["--client-secret", "env:S"] if secret else []
    ended = here("init", preset, "--client-id", "client-1", "--yes", *options)
    checked = here("check", env={"S": SECRET})

    assert (ended.code, checked.code) == (0, 0), checked.out
    assert "CHANGE ME" not in (tmp_path / "config.toml").read_text()
    assert "warning" not in checked.out


def test_a_key_that_signs_for_us_is_asked_for(tmp_path: Path, here: Here) -> None:
    """Where there is no secret, none is missed."""
    ended = here("init", "revolut-business", "--yes")

    assert "put the private key into revolut-business.pem, mode 0600" in ended.out
    assert "client_secret" not in (tmp_path / "config.toml").read_text()


def test_a_provider_that_nobody_ships_gets_a_table_to_fill_in(tmp_path: Path, here: Here) -> None:
    ended = here("init", "--yes", "--client-secret", "env:X")

    assert ended.code == 0
    assert "token_url" in ended.out
    assert config.load(tmp_path / "config.toml", {"X": SECRET}).accounts["api"].provider.name == "api"


def test_a_config_that_is_there_stays(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.toml").write_text("# mine")
    refused = here(*BOOKS)
    kept = (tmp_path / "config.toml").read_text()
    forced = here(*BOOKS, "--force")

    assert refused.code == 2
    assert "is there already; nothing was changed" in refused.err
    assert kept == "# mine"
    assert forced.code == 0
    assert "deskera" in (tmp_path / "config.toml").read_text()


def test_a_key_that_is_there_stays_even_when_forced(tmp_path: Path, here: Here) -> None:
    """Another key would not open what is stored."""
    here(*BOOKS)
    key = (tmp_path / "tokenproxy.key").read_text()
    here(*BOOKS, "--force")
    assert (tmp_path / "tokenproxy.key").read_text() == key

    (tmp_path / "tokenproxy.key").unlink()
    (tmp_path / "tokenproxy.db").write_bytes(b"sealed with the key that is gone")
    ended = here(*BOOKS, "--force")
    assert ended.code == 0
    assert not (tmp_path / "tokenproxy.key").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--client-secret", SECRET), "takes where the secret lies, not the secret"),
        (("--client-secret", f"literal:{SECRET}"), "takes where the secret lies, not the secret"),
        (("--upstream", "ftp://api.example.com"), "upstream: must be a URL"),
        (("--name", "a b"), "must be letters, digits"),
        (("--var", "dashboard"), "KEY=VALUE"),
        (("--var", "dashbord=acme.perscom.io"), "dashbord"),
        (("--var", "dashboard=https://acme"), "without https://"),
        (("--provider", "deskera"), "two providers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    words: tuple[str, ...], says: str, tmp_path: Path, here: Here
) -> None:
    ended = here("init", "perscom", "--yes", *words)

    assert ended.code == 2
    assert says in ended.err
    assert SECRET not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_provider_points_at_the_list(tmp_path: Path, here: Here) -> None:
    ended = here("init", "nobody", "--yes")

    assert ended.code == 2
    assert "Next:  tokenproxy presets" in ended.err


def test_through_a_pipe_nothing_is_asked(tmp_path: Path, here: Here) -> None:
    """A question that nobody can answer would hang a script."""
    assert here("init", "deskera").code == 0


def test_step_by_step(tmp_path: Path) -> None:
    """Each answer is judged before the next question; the secret is not shown and goes into a file of its own."""
    with terminal("init", cwd=tmp_path) as screen:
        screen.until(
            "This writes config.toml and a key file into the current folder. Nothing is sent anywhere."
        )
        screen.answer("Provider:", "nobody")
        screen.until('nobody has "nobody" in the name')
        screen.answer("Provider:", "zo")
        screen.until("zoho-crm")
        screen.answer("Provider:", "persc")
        screen.until("perscom: PERSCOM.io")
        screen.answer("Dashboard, as in https://{dashboard}/oauth/token", "https://acme.perscom.io")
        screen.until("without https://")
        screen.answer("Dashboard, as in", "acme.perscom.io")
        screen.answer("Which API should legacy apps reach? [https://api.perscom.io]", "api.perscom.io")
        screen.until("must be a URL")
        screen.answer("Which API should legacy apps reach? [https://api.perscom.io]", "")
        screen.answer("Name for this route and account: [perscom]", "the roster")
        screen.until("must be letters")
        screen.answer("Name for this route and account: [perscom]", "roster")
        screen.answer("Client id:", "9a1")
        screen.until("Client secret")
        screen.until("later):")
        screen.type(f"{SECRET}\n")
        ended = screen.ended()
    loaded = config.load(tmp_path / "config.toml", {})

    assert ended.code == 0
    assert "Next:  tokenproxy login roster" in ended.out
    assert SECRET not in ended.out
    assert SECRET not in (tmp_path / "config.toml").read_text()
    assert mode(tmp_path / "roster.secret") == 0o600
    assert loaded.accounts["roster"].registration.client_secret == SECRET
    assert loaded.accounts["roster"].provider.token_url == "https://acme.perscom.io/oauth/token"
    assert loaded.routes[0].upstream.host == "api.perscom.io"


def test_step_by_step_to_a_provider_that_nobody_ships(tmp_path: Path) -> None:
    """Most providers are no preset yet: the file must be whole without an editor, too."""
    with terminal("init", "--client-id", "app-1", "--config", "my.toml", cwd=tmp_path) as screen:
        screen.answer("Provider:", "another one")
        screen.answer("Which API should legacy apps reach?", "https://api.example.com")
        screen.answer("Name for this route and account: [api]", "")
        screen.answer("Where it gives out and renews tokens:", "http://login.example.com/token")
        screen.until("https://")
        screen.answer("Where it gives out and renews tokens:", "https://login.example.com/token")
        screen.answer("Where a person logs in (empty: not known yet):", "")
        screen.answer("Client secret (empty for a public client):", "")
        ended = screen.ended()
    text = (tmp_path / "my.toml").read_text()
    loaded = config.load(tmp_path / "my.toml", {})

    assert ended.code == 0
    assert "CHANGE ME" not in text
    assert loaded.accounts["api"].provider.token_url == "https://login.example.com/token"
    assert loaded.accounts["api"].provider.authorize_url == ""
    assert "Next:  tokenproxy import api --config my.toml < answer.json" in ended.out


def test_ctrl_c_between_two_questions_writes_nothing(tmp_path: Path) -> None:
    with terminal("init", "deskera", cwd=tmp_path) as screen:
        screen.until("Which API should legacy apps reach?")
        ended = screen.interrupted()

    assert ended.code == 130
    assert list(tmp_path.iterdir()) == []
