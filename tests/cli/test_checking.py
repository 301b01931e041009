"""``check`` tells everything at once and aligned; ``presets`` gives what can be pasted back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey

from tests.cli.conftest import Here
from tests.cli.program import command_line, environment, run

GOOD = """\
[accounts.crm]
provider = "askara"
client_id = "x"
client_secret = "env:CRM_SECRET"
[routes.crm]
upstream = "https://api.askara.ai"
account = "crm"
"""
ENV = {"CRM_SECRET": "planted-secret-0123"}

BAD = """\
[accounts.crm]
provider = "askara"
grant = "authcode"
client_id = "x"
client_secret = "planted-secret-0123"
[routes.crm]
upstream = "https://api.askara.ai"
acount = "crm"
"""


def test_every_problem_stands_on_a_line_of_its_own(tmp_path: Path, here: Here) -> None:
    """One run is enough to mend the file; keys, sentences and lines stand in columns."""
    (tmp_path / "config.toml").write_text(BAD)
    ended = here("check")
    lines = ended.out.splitlines()

    assert ended.code == 2
    assert lines[0] == f"config.toml: {len(lines) - 2} problems"
    assert lines[-1] == "Nothing was changed. Settings: tokenproxy explain config"
    assert "authorization_code" in ended.out
    assert "line 3" in ended.out
    assert 'Did you mean "account"?' in ended.out
    assert "planted-secret" not in ended.out + ended.err
    starts = {line.index(line.split(None, 1)[1]) for line in lines[1:-1]}
    assert len(starts) == 1


def test_other_commands_tell_the_same_problems_as_an_error(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.toml").write_text(BAD)
    ended = here("serve")

    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("tokenproxy: config.toml: ")
    assert ended.err.splitlines()[-1] == "Next:  correct it, then: tokenproxy check"


def test_a_program_may_read_the_problems(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.toml").write_text(BAD)
    bad = json.loads(here("check", "--json").out)
    (tmp_path / "config.toml").write_text(GOOD)
    good = here("check", "--json", env=ENV)

    assert not bad["ok"]
    assert {"path", "message", "line"} == set(bad["problems"][0])
    assert good.code == 0
    assert json.loads(good.out) == {
        "config": "config.toml",
        "ok": True,
        "problems": [],
        "warnings": [],
        "callbacks": {"crm": "http://127.0.0.1:9100/callback/crm"},
    }


def test_a_good_config_shows_where_apps_should_point(tmp_path: Path, here: Here) -> None:
    (tmp_path / "config.toml").write_text(GOOD)
    ended = here("check", env=ENV)

    assert ended.code == 0
    assert "✓ config.toml   1 account, 1 route" in ended.out
    assert "http://127.0.0.1:8080/crm  ->  https://api.askara.ai" in ended.out
    assert "Register this address: http://127.0.0.1:9100/callback/crm   (account crm," in ended.out
    assert not (tmp_path / "tokenproxy.db").exists()
    assert not (tmp_path / "tokenproxy.key").exists()


def test_warnings_are_told_and_are_no_failure(tmp_path: Path, here: Here) -> None:
    secret = tmp_path / "crm.secret"
    secret.write_text("planted-secret-0123")
    secret.chmod(0o644)
    (tmp_path / "config.toml").write_text(GOOD.replace("env:CRM_SECRET", "file:crm.secret"))
    ended = here("check")

    assert ended.code == 0
    assert "! 1 warning" in ended.out
    assert "chmod 600" in ended.out


@pytest.mark.parametrize(
    ("key", "says"),
    [(None, "is there, but its key"), ("not base64!", "is not base64"), ("c2hvcnQ=", "5 bytes")],
)
def test_a_key_that_will_not_open_the_store_is_found_before_serve_is(
    key: str | None, says: str, tmp_path: Path, here: Here
) -> None:
    """The restart at night would be the wrong moment to learn it."""
    (tmp_path / "config.toml").write_text(GOOD)
    (tmp_path / "tokenproxy.db").write_bytes(b"something")
    if key is not None:
        (tmp_path / "tokenproxy.key").touch(mode=0o600)
        (tmp_path / "tokenproxy.key").write_text(key)
    ended = here("check", env=ENV)

    assert ended.code == 2
    assert says in ended.out
    assert key is None or key not in ended.out


def test_what_serve_would_stumble_over_is_warned_of(tmp_path: Path, here: Here) -> None:
    """Not a problem: ``check`` may run elsewhere than ``serve``, in a build say."""
    (tmp_path / "config.toml").write_text(
        f'[store]\nurl = "sqlite:nowhere/x.db"\n{GOOD}'.replace('"x"', '"x"   # CHANGE ME')
    )
    ended = here("check", env=ENV)

    assert ended.code == 0
    assert "there is no folder" in ended.out
    assert "client_id   is still marked CHANGE ME" in ended.out
    assert "line 5" in ended.out


def test_what_is_left_to_fill_in_is_told_beside_a_problem(tmp_path: Path, here: Here) -> None:
    """The secret that ``init`` leaves to a person is missing at first, and so is the client id."""
    (tmp_path / "config.toml").write_text(GOOD.replace('"x"', '"x"   # CHANGE ME') + "\n[servr]\n")
    ended = here("check", env=ENV)

    assert ended.code == 2
    assert "client_id   is still marked CHANGE ME" in ended.out
    assert [each["path"] for each in json.loads(here("check", "--json", env=ENV).out)["warnings"]] == [
        "client_id"
    ]


SHARING = """
[providers.one]
authorize_url = "https://one.example/authorize"
token_url = "https://one.example/token"
callback = { path = "shared" }
[providers.two]
authorize_url = "https://two.example/authorize"
token_url = "https://two.example/token"
issuer = "https://two.example"
callback = { path = "shared", iss = true }
[accounts.one]
provider = "one"
client_id = "x"
client_secret = "env:CRM_SECRET"
"""
SECOND = SHARING[SHARING.index("[accounts.one]") :].replace("one", "two")


def test_providers_that_could_get_each_others_codes_are_warned_of(tmp_path: Path, here: Here) -> None:
    """A provider may send the browser on to another one with our state; only ``iss`` tells whose the code is."""
    (tmp_path / "config.toml").write_text(GOOD + SHARING)
    assert "callback.path" not in here("check", env=ENV).out

    (tmp_path / "config.toml").write_text(GOOD + SHARING + SECOND)
    ended = here("check", env=ENV)
    assert ended.code == 0
    assert "providers.one.callback.path" in ended.out
    assert "is shared with two" in ended.out
    assert "providers.two" not in ended.out


def test_an_output_that_is_full_is_one_sentence() -> None:
    """The disk that a cron job writes to is not a mistake in tokenproxy."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command_line(["presets"]), stdout=full, stderr=subprocess.PIPE, env=environment(), check=False
        )

    assert ended.returncode == 1
    assert ended.stderr.decode().startswith(
        "tokenproxy: the output cannot be written: No space left on device.\nNext:"
    )
    assert ended.stderr.count(b"\n") == 2


def test_a_certificate_that_is_none_is_found(tmp_path: Path, here: Here) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    (tmp_path / "config.toml").write_text(f'{GOOD}tls = {{ ca_file = "ca.pem" }}\n')
    ended = here("check", env=ENV)

    assert ended.code == 2
    assert "routes.crm.tls" in ended.out


def test_a_private_key_that_signs_nothing_is_found(tmp_path: Path, here: Here) -> None:
    """Not at the first renewal; and nothing of it is shown."""
    config = (
        '[accounts.crm]\nprovider = "acme"\nclient_id = "x"\nprivate_key = "file:client.key"\n'
        '[providers.acme]\ntoken_url = "https://acme.example/token"\nclient_auth = "private_key_jwt"\n'
        '[routes.crm]\nupstream = "https://api.acme.example"\naccount = "crm"\n'
    )
    (tmp_path / "config.toml").write_text(config)
    key = tmp_path / "client.key"
    key.write_text("-----BEGIN PRIVATE KEY-----\nhunter2hunter2\n-----END PRIVATE KEY-----\n")
    key.chmod(0o600)
    ended = here("check", env=ENV)

    assert ended.code == 2
    assert "accounts.crm.private_key: the private key cannot be read as one for RS256" in ended.out
    assert "hunter2" not in ended.out + ended.err
    key.write_text(RSAKey.generate_key(2048).as_pem(private=True).decode())
    assert here("check", env=ENV).code == 0


def test_a_missing_file_has_a_next_step(tmp_path: Path) -> None:
    """Whoever has no config yet is told how to get one."""
    ended = run("check", "--config", str(tmp_path / "config.toml"))

    assert ended.code == 2
    assert "tokenproxy init" in ended.err
