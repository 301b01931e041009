"""Providers as data: the presets say what the four guides say, and the config can say as much."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from tests.config.reading import GOOD, mistakes, read, write_key
from tokenproxy.config import presets
from tokenproxy.config.models import ProviderTable
from tokenproxy.core.provider import (
    PKCE,
    AnswerFields,
    AssertionForm,
    Callback,
    CallbackMode,
    CallbackPath,
    Ceiling,
    ClientAuth,
    ErrorCodes,
    Inject,
    Provider,
    Revoke,
    Signal,
    TokenBody,
    Validate,
)

DESKERA = Provider(
    name="deskera",
    title="Deskera Books (staging)",
    rotation="always",
    api="https://api-staging.deskera.xyz",
    docs="https://deskera.github.io/Developer-Documentation/docs/books/oauthv2",
    authorize_url="https://oauth-staging.deskera.xyz/",
    token_url="https://api-staging.deskera.xyz/v2/oauth/token",
    pkce=PKCE.NONE,
    client_auth=ClientAuth.BASIC_RAW,
    token_method="POST",
    token_body=TokenBody.QUERY,
    scopes=("write",),
    exchange_scope=True,
    refresh_scope=False,
    redirect_uri=False,
    inject=Inject(header="x-access-token", value="{access_token}"),
    validate=Validate(
        url="https://api-staging.deskera.xyz/v1/iam/token/app/validate", method="GET", ok=(200,)
    ),
)
PERSCOM = Provider(
    name="perscom",
    title="PERSCOM.io",
    rotation="always",
    api="https://api.perscom.io",
    docs="https://docs.perscom.io/",
    authorize_url="https://{dashboard}/oauth/authorize",
    token_url="https://{dashboard}/oauth/token",
    pkce=PKCE.NONE,
    client_auth=ClientAuth.POST,
    token_body=TokenBody.FORM,
    refresh_scope=True,
    errors=ErrorCodes(refused=("invalid_request:refresh token",)),
)
ASKARA = Provider(
    name="askara",
    title="Askara",
    rotation="always",
    api="https://api.askara.ai",
    authorize_url="https://app.askara.loc/authorize",
    token_url="https://api.askara.ai/oauth2/token",
    pkce=PKCE.NONE,
    client_auth=ClientAuth.POST,
    token_body=TokenBody.JSON,
    scopes=("profile", "organization"),
)


@pytest.mark.parametrize("guide", [DESKERA, PERSCOM, ASKARA], ids=lambda each: each.name)
def test_a_preset_says_exactly_what_its_guide_says(guide: Provider) -> None:
    """Field by field, defaults included: one wrong flag and the provider refuses every refresh."""
    assert replace(presets()[guide.name].provider, notes=(), unverified=()) == guide


def test_the_deskpro_guide_needs_no_code(tmp_path: Path) -> None:
    """A GET with ``secret`` and ``access_code`` in the query, and a token called ``token``: all of it is data."""
    config = read(
        GOOD.replace('"deskera"', '"example"')
        + """
[providers.example]
authorize_url = "https://example.com/authorize"
token_url = "https://example.com/token"
client_auth = "query"
token_method = "GET"
token_body = "query"
answer.access_token = "token"
[providers.example.rename]
code = "access_code"
client_secret = "secret"
client_id = ""
grant_type = ""
redirect_uri = ""
""",
        tmp_path,
    )

    assert config.accounts["books"].provider == Provider(
        name="example",
        authorize_url="https://example.com/authorize",
        token_url="https://example.com/token",
        client_auth=ClientAuth.QUERY,
        token_method="GET",
        token_body=TokenBody.QUERY,
        rename={
            "code": "access_code",
            "client_secret": "secret",
            "client_id": "",
            "grant_type": "",
            "redirect_uri": "",
        },
        answer=AnswerFields(access_token=("token",)),
    )


def test_everything_that_a_provider_can_say(tmp_path: Path) -> None:
    """Each key of a login, a refresh, an upstream and a revocation lands in its field."""
    config = read(
        GOOD.replace('"deskera"', '"acme"\nvars = { region = "eu" }')
        + """
[providers.acme]
title = "Acme"
notes = ["Odd."]
unverified = ["grace"]
rotation = "always"
api = "https://{region}.acme.example"
issuer = "https://login.{region}.acme.example"
authorize_url = "https://login.acme.example/#/oauth/authorize"
authorize_params = { nonce = "{nonce}", region = "{region}" }
pkce = "plain"
par_url = "https://login.acme.example/par"
device_url = "https://login.acme.example/device"
refresh_url = "{instance_url}/refresh"
refresh_with = "access_token"
refresh_method = "GET"
refresh_auth = "basic_raw"
refresh_rename = { refresh_token = "access_token" }
exchange_params = { access_type = "offline" }
dpop = true
assertion = { alg = "ES256", audience = "api", issuer = "app.{region}.example", lifetime = "5 min" }
refresh_idle = "30 d"
limits = { concurrent = 2, per_second = 0.5 }
captured = { instance_url = "instance_url", team = ["team.id", "team_id"] }
captured_hosts = ["*.{region}.acme.example"]
inject = { query = "token", headers = { Client-Id = "{client_id}", X-Team = "{team}", X-Region = "{region}" } }
validate = { url = "https://login.acme.example/introspect", method = "POST", introspect = true }
revoke = { url = "https://login.acme.example/revoke/{token}", method = "DELETE", body = "none", token = "access_token", auth = "bearer" }
dead_when = [{ status = 200, json = { ok = false, code = 190 } }]
dead_unless = [{ header = { WWW-Authenticate = "insufficient" }, body = "scope" }]
callback = { mode = "fragment", path = "random", token = "#code=(?<token>.+)", iss = true, captured = { realm = "realmId" } }
answer.identity = "user.id"
""",
        tmp_path,
    )

    account = config.accounts["books"]
    provider = account.provider
    assert provider == replace(
        Provider(name="acme", token_url=""),
        title="Acme",
        notes=("Odd.",),
        unverified=("grace",),
        rotation="always",
        api="https://eu.acme.example",
        issuer="https://login.eu.acme.example",
        authorize_url="https://login.acme.example/#/oauth/authorize",
        authorize_params={"nonce": "{nonce}", "region": "eu"},
        pkce=PKCE.PLAIN,
        par_url="https://login.acme.example/par",
        device_url="https://login.acme.example/device",
        refresh_url="{instance_url}/refresh",
        refresh_with="access_token",
        refresh_method="GET",
        refresh_auth=ClientAuth.BASIC_RAW,
        refresh_rename={"refresh_token": "access_token"},
        exchange_params={"access_type": "offline"},
        dpop=True,
        assertion=AssertionForm(
            alg="ES256", audience="api", issuer="app.eu.example", lifetime=timedelta(minutes=5)
        ),
        refresh_idle=timedelta(days=30),
        limits=Ceiling(concurrent=2, per_second=0.5),
        captured={"instance_url": ("instance_url",), "team": ("team.id", "team_id")},
        captured_hosts=("*.eu.acme.example",),
        inject=Inject(
            header="",
            query="token",
            headers={"Client-Id": "{client_id}", "X-Team": "{team}", "X-Region": "eu"},
        ),
        validate=Validate(url="https://login.acme.example/introspect", method="POST", introspect=True),
        revoke=Revoke(
            url="https://login.acme.example/revoke/{token}",
            method="DELETE",
            body="none",
            token="access_token",
            auth="bearer",
        ),
        dead_when=(Signal(status=(200,), json={"ok": "false", "code": "190"}),),
        dead_unless=(Signal(header={"www-authenticate": "insufficient"}, body="scope"),),
        callback=Callback(
            mode=CallbackMode.FRAGMENT,
            path=CallbackPath.RANDOM,
            token="#code=(?<token>.+)",
            iss=True,
            captured={"realm": "realmId"},
        ),
        answer=AnswerFields(identity=("user.id",)),
    )
    assert dict(account.vars) == {"region": "eu"}
    assert account.bound_to == "https://login.eu.acme.example:443 cl_pub_1234"


def test_a_metadata_document_stands_for_addresses(tmp_path: Path) -> None:
    """An issuer is enough; what the tokens are bound to is then the issuer."""
    config = read(
        GOOD.replace('"deskera"', '"acme"') + '[providers.acme]\nissuer = "https://idp.example/t1"\n',
        tmp_path,
    )

    assert config.accounts["books"].bound_to == "https://idp.example:443 cl_pub_1234"


def test_an_app_that_makes_its_own_exchange_needs_no_client(tmp_path: Path) -> None:
    """Deskpro's guide: the key and the secret are settings, and the token endpoint is the app's business."""
    config = read(
        '[accounts.desk]\nprovider = "acme"\ncapture = "oauth2/mytoken"\n'
        '[providers.acme]\nauthorize_url = "https://acme.example/authorize"\n'
        '[routes.desk]\nupstream = "https://acme.example"\naccount = "desk"\n',
        tmp_path,
    )

    assert config.accounts["desk"].capture == "oauth2/mytoken"


def test_production_differs_from_staging_only_in_its_hosts_and_scope() -> None:
    """What the guide says of the wire form holds for both."""
    live = presets()["deskera-live"].provider

    assert live.token_url == "https://bifrost.deskera.com/oauth/token"
    assert live.scopes == ("read", "write")
    assert (live.client_auth, live.token_body, live.inject) == (
        DESKERA.client_auth,
        DESKERA.token_body,
        DESKERA.inject,
    )
    assert (live.exchange_scope, live.redirect_uri) == (True, False)


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_fits_the_schema_and_an_account(name: str, tmp_path: Path) -> None:
    """Presets and the config have the same keys; one that cannot be used is a bug in the shop window."""
    raw = tomllib.loads((files("tokenproxy.core") / "presets" / f"{name}.toml").read_text())
    ProviderTable.model_validate(raw)
    info = presets()[name]
    words = "".join(f'{each} = "acme.example", ' for each in info.vars)
    key = (
        write_key(tmp_path / "client.pem")
        if info.provider.client_auth is ClientAuth.PRIVATE_KEY_JWT
        else None
    )
    text = GOOD.replace('"deskera"', f'"{name}"').replace("[routes", f"vars = {{ {words[:-2]} }}\n\n[routes")
    if key:
        text = text.replace('client_secret = "literal:s3cr3t"', f'private_key = "file:{key}"')

    account = read(text, tmp_path).accounts["books"]

    provider = account.provider
    assert "{" not in provider.token_url + provider.authorize_url + provider.issuer
    assert (provider.token_url or provider.issuer).startswith("https://")
    assert provider.docs == info.docs


def test_what_a_preset_asks_for_is_said() -> None:
    """``init`` asks for these."""
    assert presets()["perscom"].vars == ("dashboard",)
    assert presets()["deskera"].vars == ()
    assert presets()["deskera-live"].raw["token_body"] == "query"


def test_a_table_with_a_preset_s_name_overrides_it_key_by_key(tmp_path: Path) -> None:
    """A staging host, and everything else as shipped; in tables within the table too."""
    config = read(
        GOOD
        + """
[providers.deskera]
token_url = "http://127.0.0.1:5000/v2/oauth/token"
validate.url = "http://localhost:5000/validate"
""",
        tmp_path,
    )

    provider = config.accounts["books"].provider
    assert provider.token_url == "http://127.0.0.1:5000/v2/oauth/token"
    assert provider.validate == Validate(url="http://localhost:5000/validate")
    assert provider.authorize_url == DESKERA.authorize_url
    assert provider.client_auth is ClientAuth.BASIC_RAW
    assert config.routes[0].inject == DESKERA.inject


def test_a_validate_call_can_be_taken_away(tmp_path: Path) -> None:
    """By an empty address: TOML has no word for nothing."""
    config = read(GOOD + '[providers.deskera]\nvalidate.url = ""\n', tmp_path)

    assert config.accounts["books"].provider.validate is None


def test_tables_build_upon_each_other(tmp_path: Path) -> None:
    """The nearest word wins, down to the preset at the bottom, which the config itself may have changed."""
    config = read(
        GOOD.replace('"deskera"', '"mine"')
        + """
[providers.mine]
extends = "ours"
scopes = ["mine"]
inject.value = "Token {access_token}"
[providers.ours]
extends = "deskera"
scopes = ["ours"]
dead = [401, 403]
lifetime = "1 h"
[providers.deskera]
token_params = { tenant = "7" }
""",
        tmp_path,
    )

    provider = config.accounts["books"].provider
    assert (provider.name, provider.scopes, provider.token_body) == ("mine", ("mine",), TokenBody.QUERY)
    assert provider.inject == Inject(header="x-access-token", value="Token {access_token}")
    assert provider.token_params == {"tenant": "7"}
    assert provider.lifetime is not None
    assert provider.lifetime.total_seconds() == 3600
    assert config.routes[0].signals.statuses == (401, 403)


def test_a_mistake_in_a_provider_is_told_once_however_many_use_it(tmp_path: Path) -> None:
    """The table that has it, not the three that build upon it."""
    text = GOOD.replace('"deskera"', '"mine"') + (
        '[providers.mine]\nextends = "ours"\n[providers.ours]\ntoken_url = "nowhere"\n'
    )

    assert mistakes(text, tmp_path) == [
        'providers.ours.token_url: must be a URL such as "https://api.example.com"   line 12'
    ]
    assert mistakes(text.replace("nowhere", "http://idp.example/token"), tmp_path) == [
        "providers.ours.token_url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 12"
    ]
    assert mistakes(
        GOOD + '[providers.deskera]\ninsecure_http = false\nvalidate.url = "http://idp.example/"\n', tmp_path
    ) == [
        "providers.deskera.validate.url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 11"
    ]


def test_plain_http_beyond_loopback_needs_a_word(tmp_path: Path) -> None:
    """Also where the host comes from ``vars``, which is where it would be overlooked."""
    text = GOOD.replace('"deskera"', '"mine"\nvars = { host = "HOST" }') + (
        '[providers.mine]\ntoken_url = "http://{host}/token"\n'
    )
    beyond = text.replace("HOST", "idp.example:8080")

    told = mistakes(beyond, tmp_path)
    loopback = read(text.replace("HOST", "127.0.0.1:8080"), tmp_path)
    allowed = read(beyond + "insecure_http = true\n", tmp_path)

    assert told == [
        'accounts.books.vars: token_url of "mine" is plain http:// beyond loopback; use https://, or say insecure_http = true   line 3'
    ]
    assert loopback.accounts["books"].provider.token_url == "http://127.0.0.1:8080/token"
    assert allowed.accounts["books"].provider.token_url == "http://idp.example:8080/token"
