"""The file that ``init`` writes is the first one that a person sees; it must load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.reading import read, write_key
from tokenproxy.config import presets, starter
from tokenproxy.core.provider import ClientAuth
from tokenproxy.errors import ConfigError


@pytest.mark.parametrize("preset", sorted(presets()))
def test_a_preset_s_starter_loads_once_its_secret_is_there(preset: str, tmp_path: Path) -> None:
    """With placeholders for all that was not said."""
    text = starter(provider=preset, name="my-api", upstream=None, client_id=None, client_secret=None, vars={})
    (tmp_path / "my-api.secret").write_text("s3cr3t\n")
    (tmp_path / "my-api.secret").chmod(0o600)

    write_key(tmp_path / "my-api.pem")

    config = read(text, tmp_path)

    info = presets()[preset]
    account = config.accounts["my-api"]
    no_secret = {ClientAuth.NONE, ClientAuth.PRIVATE_KEY_JWT}
    assert account.registration.client_secret == ("" if info.provider.client_auth in no_secret else "s3cr3t")
    assert account.grant == info.grants[0]
    assert text.count("CHANGE ME") == 1 + bool(info.vars) + (not info.provider.api)
    assert config.warnings == ()


def test_what_was_said_stands_there(tmp_path: Path) -> None:
    """Quoted as TOML wants it, whatever is in it."""
    text = starter(
        provider="perscom",
        name="roster",
        upstream="https://api.perscom.io",
        client_id='9"a\\1\x7f\U0001f511'.replace("\x7f", ""),
        client_secret="env:PERSCOM",
        vars={"dashboard": "acme.perscom.io"},
    )

    config = read(text, tmp_path, {"PERSCOM": "s3cr3t"})

    assert "CHANGE ME" not in text
    assert config.accounts["roster"].registration.client_id == '9"a\\1\U0001f511'
    assert config.accounts["roster"].provider.token_url == "https://acme.perscom.io/oauth/token"
    assert config.routes[0].upstream.host == "api.perscom.io"


@pytest.mark.parametrize(("secret", "auth"), [(None, "none"), ("env:SECRET", "basic")])
def test_a_provider_that_nobody_ships(secret: str | None, auth: str, tmp_path: Path) -> None:
    """Its addresses are there to be filled in; without a secret it is a public client."""
    text = starter(provider=None, name="crm", upstream=None, client_id=None, client_secret=secret, vars={})

    config = read(text, tmp_path, {"SECRET": "x"})

    assert config.accounts["crm"].provider.client_auth.value == auth


def test_what_cannot_be_is_refused_at_once() -> None:
    """Before a file is written that would not load."""
    with pytest.raises(ConfigError) as refused:
        starter(
            provider="deskerra",
            name="a b",
            upstream=None,
            client_id=None,
            client_secret=None,
            vars={"x": "y"},
        )

    assert [str(each) for each in refused.value.problems] == [
        'name: "a b" must be letters, digits, - and _',
        'provider: no preset "deskerra". Did you mean "deskera"?',
        "vars.x: fills nothing.",
    ]
