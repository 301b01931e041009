"""Settings of accounts, routes with placeholders, and whitelists of targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.reading import GOOD, mistakes, read, with_account, with_route
from tokenproxy.config import load
from tokenproxy.core.provider import Setting
from tokenproxy.core.routes import Target, Upstream

DESK = """\
[accounts.desk]
provider = "deskera"
capture = "oauth2/mytoken"
[routes.desk]
account = "desk"
"""


def with_targets(*rows: str, account: str = "books", more: str = "") -> str:
    """``GOOD`` with a route of targets; its table stands in line 9."""
    return f'{GOOD}[routes.apps]\naccount = "{account}"\ntargets = [{", ".join(rows)}]\n{more}'


def test_settings_are_text_or_where_a_secret_lies(tmp_path: Path) -> None:
    """A dotted key with a value is all it takes; backend values are secrets to every text of ours."""
    (tmp_path / "s").write_text("from-file\n")
    (tmp_path / "s").chmod(0o600)
    config = read(
        with_account(
            'settings.client_key = "app-1"',
            'settings.host_2 = { value = "https://a.example" }',
            'settings.empty = ""',
            'settings.secret = { value = "env:S", backend = true }',
            'settings.file = "file:s"',
        ),
        tmp_path,
        {"S": "planted"},
    )

    account = config.accounts["books"]
    assert account.settings == {
        "client_key": Setting(value="app-1"),
        "host_2": Setting(value="https://a.example"),
        "empty": Setting(value=""),
        "secret": Setting(value="planted", backend=True),
        "file": Setting(value="from-file"),
    }
    assert "planted" in account.secrets
    assert "planted" not in repr(config)
    assert config.warnings == read(GOOD, tmp_path).warnings


def test_a_backend_value_in_a_file_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    """As ``literal:`` is: the file itself holds a secret then."""
    path = tmp_path / "config.toml"
    warned = []
    for value in ('"planted"', '{ value = "planted", backend = true }'):
        path.write_text(with_account(f"settings.secret = {value}").replace("literal:s3cr3t", "env:S"))
        path.chmod(0o644)
        warned.append([str(each) for each in load(path, {"S": "x"}).warnings])

    assert warned[0] == []
    (told,) = warned[1]
    assert told.startswith("accounts.books.settings.secret: others on this machine can read this file")


def test_a_whitelist(tmp_path: Path) -> None:
    """Each entry is an origin, a pattern, methods and a time-out."""
    config = read(
        with_targets(
            '{ url = "https://Example.com/token" }',
            '{ url = "https://example.com:8443/api/v*/**", methods = ["GET", "POST"], timeout = "10 s", token = true }',
            '{ url = "http://127.0.0.1:9/**", private = true }',
            more='placeholders = true\norigins = ["https://apps.example"]\n',
        ),
        tmp_path,
    )

    (route,) = [each for each in config.routes if each.name == "apps"]
    example = Upstream(scheme="https", host="example.com", port=443, authority="example.com")
    assert route.placeholders
    assert route.upstream == example
    assert route.targets == (
        Target(upstream=example, path="/token"),
        Target(
            upstream=Upstream(scheme="https", host="example.com", port=8443, authority="example.com:8443"),
            path="/api/v*/**",
            methods=frozenset({"GET", "POST"}),
            timeout=10.0,
            token=True,
        ),
        Target(
            upstream=Upstream(scheme="http", host="127.0.0.1", port=9, authority="127.0.0.1:9"),
            path="/**",
            private=True,
        ),
    )


def test_an_account_that_captures_has_no_token(tmp_path: Path) -> None:
    """Its routes attach none; without placeholders that is hardly what somebody meant."""
    quiet = read(DESK + 'upstream = "https://example.com"\nplaceholders = true\n', tmp_path)
    told = read(DESK + 'upstream = "https://example.com"\n', tmp_path)

    assert quiet.routes[0].tokenless
    assert quiet.warnings == ()
    assert [each.path for each in told.warnings] == ["routes.desk.placeholders"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            with_account('settings._a = "x"'),
            'accounts.books.settings: "_a" is no name of a setting: it has at most 64 letters, digits and single underscores between them   line 5',
        ),
        (
            with_account('settings.a__b = "x"'),
            'accounts.books.settings: "a__b" is no name of a setting: it has at most 64 letters, digits and single underscores between them   line 5',
        ),
        (with_account("settings.a = 1"), 'accounts.books.settings.a: must be a table such as { name = "value" }, got 1   line 5'),
        (with_account("settings.a = { value = 1 }"), "accounts.books.settings.a.value: must be text in quotes, got 1   line 5"),
        (with_account('settings.a = { valeu = "x" }'), 'accounts.books.settings.a.valeu: unknown setting. Did you mean "value"?   line 5'),
        (with_account('settings = "x"'), 'accounts.books.settings: must be a table such as { name = "value" }, got "x"   line 5'),
        (with_account('settings.a = "env:NOBODY"'), "accounts.books.settings.a: environment variable NOBODY is not set   line 5"),
        (with_account('settings.a = "a\\u0000"'), "accounts.books.settings.a.value: must not hold NUL characters   line 5"),
        (with_account(f'settings.a = "{"x" * 70_000}"'), "accounts.books.settings.a: is longer than 65536 bytes   line 5"),
        (with_route('placeholders = "yes"'), 'routes.books.placeholders: must be true or false, got "yes"   line 9'),
        (with_route("targets = [{}]").replace('upstream = "https://api.example.com"\n', ""), 'routes.books.targets[0].url: must be a URL such as "https://api.example.com"   line 8'),
        (with_route('targets = [{ url = "https://a.example/" }]'), "routes.books.targets: and upstream are two kinds of route: leave one out   line 9"),
        (with_targets('{ url = "https://a.example" }'), 'routes.apps.targets[0].url: needs a path such as "/api/**"; "/**" is every path   line 11'),
        (with_targets('{ url = "https://a.example/x?y" }'), "routes.apps.targets[0].url: must not have a query   line 11"),
        (with_targets('{ url = "https://u@a.example/x" }'), "routes.apps.targets[0].url: must not hold a user name or password   line 11"),
        (with_targets('{ url = "https://*.example/x" }'), "routes.apps.targets[0].url: has no valid host; names beyond ASCII are written as xn--...   line 11"),
        (with_targets('{ url = "http://a.example/x" }'), "routes.apps.targets[0].url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 11"),
        (with_targets('{ url = "https://a.example/x", methods = [] }'), "routes.apps.targets[0].methods: must not be empty   line 11"),
        (with_targets('{ url = "https://a.example/x", methods = ["CONNECT"] }'), 'routes.apps.targets[0].methods[0]: must be a method such as "GET" or "POST", got "CONNECT"   line 11'),
        (with_targets('{ url = "https://a.example/x", timeout = 0 }'), "routes.apps.targets[0].timeout: must be more than 0   line 11"),
        (with_targets('{ url = "https://a.example/x", method = "GET" }'), 'routes.apps.targets[0].method: unknown setting. Did you mean "methods"?   line 11'),
        (
            with_targets('{ url = "https://a.example/x", token = true }', account="desk", more="placeholders = true\n" + DESK.split("[routes", maxsplit=1)[0]),
            'routes.apps.targets[0].token: "desk" only captures, so that it has no token   line 11',
        ),
    ],
    ids=lambda each: each[-60:],
)  # fmt: skip
def test_a_mistake_is_told_once_and_in_its_place(text: str, said: str, tmp_path: Path) -> None:
    """One mistake makes one sentence."""
    assert mistakes(text, tmp_path) == [said]
