"""``presets``: a person finds the provider, reads what it is like, and takes it into the config."""

from __future__ import annotations

import json
import tomllib

import pytest

from tests.cli.conftest import Here
from tokenproxy import config


def test_every_preset_can_be_pasted_into_a_config(here: Here) -> None:
    """What --toml prints is the preset, all of it, as TOML."""
    for name, preset in config.presets().items():
        printed = here("presets", name, "--toml").out

        assert tomllib.loads(printed) == {"providers": {name: dict(preset.raw)}}


def test_presets_are_listed_with_what_an_account_must_fill_in(here: Here) -> None:
    ended = here("presets")

    row = next(line for line in ended.out.splitlines() if line.startswith("perscom "))
    assert row.split() == ["perscom", "PERSCOM.io", "browser", "dashboard", "rotates"]
    assert len(ended.out.splitlines()) == 1 + len(config.preset_names())
    assert "All about one: tokenproxy presets" in ended.err


def test_programs_get_the_same(here: Here) -> None:
    listed = json.loads(here("presets", "--json").out)["presets"]
    alone = json.loads(here("presets", "github", "--json").out)

    assert [each["name"] for each in listed] == list(config.preset_names())
    assert alone in listed
    assert alone["grants"] == ["authorization_code", "device_code"]
    assert alone["docs"].startswith("https://docs.github.com/")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("ZO", {"zoho-crm", "zoom", "zoom-server-to-server"}),
        ("intuit", {"quickbooks"}),
        ("crm", {"zoho-crm"}),
        ("hub", {"hubspot"}),
        ("ithu", {"github", "github-enterprise"}),
    ],
)
def test_a_word_finds_the_presets_that_have_it(word: str, found: set[str], here: Here) -> None:
    """Where a word begins so, before any that has it inside."""
    rows = here("presets", word).out.splitlines()[1:]

    assert {row.split()[0] for row in rows} == found


def test_a_word_that_nobody_has_is_told(here: Here) -> None:
    ended = here("presets", "nobody")

    assert ended.code == 2
    assert 'there is no preset "nobody"' in ended.err
    assert ended.err.endswith("Next:  tokenproxy presets\n")


@pytest.mark.parametrize("command", [("presets",), ("init", "--yes")], ids=["presets", "init"])
def test_a_misspelt_preset_is_told_with_the_one_that_was_meant(command: tuple[str, ...], here: Here) -> None:
    ended = here(*command, "gihub")

    assert ended.code == 2
    assert 'there is no preset "gihub". Did you mean "github"?' in ended.err


def test_init_by_half_a_name_is_told_where_the_whole_ones_are(here: Here) -> None:
    ended = here("init", "zoho", "--yes")

    assert ended.code == 2
    assert ended.err.endswith("Next:  tokenproxy presets zoho\n")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("deskera", "Client             client id and secret in HTTP Basic, as they are"),
        ("deskera", "Token goes into    x-access-token: TOKEN"),
        ("deskera", "Asked if it lives  GET https://api-staging.deskera.xyz/v1/iam/token/app/validate"),
        ("deskera", "Not tried yet      rotation"),
        ("askara", "Scopes           profile organization\n"),
        ("askara", "Not tried yet    api"),
        ("deskpro", "Not tried yet    nothing: as the provider's guide says"),
        ("strava", "read (several are joined by commas)"),
        ("datev", "11 h; an idle login is renewed after 5.5 h"),
        ("xero", "works for another 30 min"),
        ("exact-online", "a refresh more than 30 s before expiry is refused"),
        ("exact-online", 'vars = { cc = "..." }'),
        ("workday", "lives for 1 h where the answer does not tell"),
        ("facebook", "there is none: a living access token is renewed by itself"),
        ("weibo", "?access_token=TOKEN"),
        ("slack", "401; also 200 with ok = false and error = token_expired"),
        ("tiktok", "401; but not 401 with error.code = scope_not_authorized"),
        ("twitch", "Client-Id: {client_id}"),
        ("hubspot", "DELETE https://api.hubapi.com/oauth/v1/refresh-tokens/{token}"),
        ("quickbooks", "Taken from answers  {realm}"),
        ("google", "a person's browser, or a code that a person types in on another device"),
        ("google", "  - A project in testing mode ends refresh tokens after 7 days."),
        ("google", "Not tried yet    all of it"),
        ("google", "https://developers.google.com/identity/"),
        ("adp", 'grant = "client_credentials"'),
        ("figma", "Refreshes        POST https://api.figma.com/v1/oauth/refresh"),
        ("keycloak", "PKCE S256"),
        ("bluesky-atproto", "Metadata            of https://{server}"),
    ],
)
def test_a_preset_is_told_in_words(name: str, says: str, here: Here) -> None:
    """Where a quirk is data, a person must be able to read it."""
    told = " ".join(here("presets", name).out.split(" "))

    assert squeezed(says) in squeezed(told)


def squeezed(text: str) -> str:
    """With one blank where the table has several."""
    return " ".join(text.split())


def test_what_to_write_into_the_config_is_shown(here: Here) -> None:
    """Without what was told in words above it."""
    text = here("presets", "perscom").out.partition("as tokenproxy init perscom writes it:\n")[2]

    table = tomllib.loads(text)
    assert table["accounts"]["perscom"]["provider"] == "perscom"
    assert table["routes"]["perscom"]["upstream"] == "https://api.perscom.io"
    assert not any(line.startswith("#") for line in text.splitlines())
