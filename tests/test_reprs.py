"""No ``repr`` of a value holds a secret: tracebacks, asyncio's debug lines and a careless ``%r`` show reprs."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import tokenproxy
from tests.config.reading import read
from tokenproxy.config.models import NAMED, SECTIONS
from tokenproxy.core.injection import placed
from tokenproxy.core.provider import Inject
from tokenproxy.core.routes import RouteTable
from tokenproxy.core.tokens import TokenSet
from tokenproxy.proxy import PlaneSettings

PACKAGE = Path(tokenproxy.__file__).parent

SECRETIVE = re.compile(
    r"(?:.*_)?(?:tokens?|secrets?|passw\w+|keys?|assertion|verifier|cookie|captured|replaced|added|parameters|address"
    r"|text|body|value|browser|rotated)"
)
"""Names of fields that hold secrets, or may."""
HARMLESS = {
    "Described.key": "a key of the config file",
    "Proxy.address": "where the proxy listens",
    "AccountView.address": "of a page of ours",
    "RequestView.account_address": "of a page of ours",
    "Asset.body": "a file that we ship",
    "Attempt.key": "in the address of its page, for the dashboard's own session",
    "Notice.text": "what a page says to a person",
    "Sight.token": "a function",
    "_Known.keys": "an issuer's public keys",
    "Callback.captured": "names and paths of values",
    "Callback.key": "the name of a parameter",
    "Callback.token": "the name of a parameter",
    "Desk.token": "a function",
    "AnswerFields.access_token": "names of an answer's fields",
    "AnswerFields.refresh_token": "names of an answer's fields",
    "AnswerFields.id_token": "names of an answer's fields",
    "Provider.assertion": "a form, without the key",
    "Provider.captured": "names and paths of values",
    "Provider.token_body": "where parameters go",
    "Inject.value": "a template; what fills it is not in it",
    "Revoke.body": "form or json",
    "Revoke.token": "which of the tokens",
    "Signal.body": "what an answer must hold to count",
    "StoreSettings.keys": "where they come from, whose own repr is short",
    "Granted.tokens": "TokenSet hides its own",
    "Reading.secrets": "no dataclass of values: a reader",
    "Listen.address": "where callers come in",
    "Answers.tokens": "a count",
}


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(tokenproxy.__path__, "tokenproxy."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def classes() -> Iterator[type[Any]]:
    for module in modules():
        for each in vars(module).values():
            if inspect.isclass(each) and each.__module__ == module.__name__:
                yield each


def shown_fields() -> Iterator[tuple[str, str, Any]]:
    """Class, field and type of all that a generated repr shows."""
    for each in classes():
        if dataclasses.is_dataclass(each) and each.__dataclass_params__.repr:  # type: ignore[attr-defined]
            for one in dataclasses.fields(each):
                if one.repr:
                    yield each.__name__, one.name, one.type
        elif issubclass(each, tuple):
            for name in getattr(each, "_fields", ()):
                yield each.__name__, name, typing.get_type_hints(each).get(name, Any)


def test_fields_with_secrets_are_left_out_of_the_repr() -> None:
    """A new field of such a name must say ``repr=False``, or why not, here."""
    open_ones = {
        f"{owner}.{name}"
        for owner, name, kind in shown_fields()
        if SECRETIVE.fullmatch(name) and kind not in {"bool", "int", "float"}
    }
    assert sorted(open_ones - set(HARMLESS)) == []


def test_no_table_of_the_config_shows_its_values() -> None:
    """A secret stands in it as it was written."""
    for table in (*SECTIONS.values(), *NAMED.values()):
        assert repr(table()) == f"{table.__name__}()"
        assert str(table()) == ""


EVERYTHING = """
[server]
listen = "127.0.0.1:8080"
[server.caller_auth]
keys = ["literal:planted-caller-key"]
[admin]
token = "literal:planted-admin-token-0123456789abcdef"
[store]
url = "postgresql://tokenproxy:planted-database@127.0.0.1/db"
key = ["cmd:cat planted-command"]

[accounts.books]
provider = "deskera"
client_id = "cl"
client_secret = "literal:planted-client-secret"
settings.a = { value = "literal:planted-setting", backend = true }
[accounts.fixed]
provider = ""
grant = "static"
token = "literal:planted-static"
[accounts.swap]
provider = "acme"
grant = "token_exchange"
client_id = "cl"
client_secret = "literal:planted-swap-secret"
subject_token = "literal:planted-subject"
actor_token = "literal:planted-actor"
subject_token_type = "urn:ietf:params:oauth:token-type:access_token"
actor_token_type = "urn:ietf:params:oauth:token-type:access_token"
[accounts.old]
provider = "acme"
grant = "password"
allow_password = true
client_id = "cl"
client_secret = "literal:planted-old-secret"
username = "u"
password = "literal:planted-password"

[providers.acme]
token_url = "https://api.acme.example/token"
proxy = { url = "http://out.example:3128", username = "u", password = "literal:planted-provider-proxy" }

[routes.books]
upstream = "https://api.example.com"
account = "books"
proxy = { url = "http://out.example:3128", username = "u", password = "literal:planted-route-proxy" }
request_headers = { set = { "X-Key" = "literal:planted-request-header" }, add = { "X-More" = "literal:planted-more" } }
answer_headers = { set = { "X-Key" = "literal:planted-answer-header" } }
"""


def test_a_config_s_repr_holds_none_of_its_secrets(tmp_path: Path) -> None:
    config = read(EVERYTHING, tmp_path)
    settings = PlaneSettings(
        routes=RouteTable.of(config.routes),
        caller_keys=config.server.caller_keys,
    )
    shown = repr(config) + str(config) + repr(settings) + repr(dataclasses.replace(config, warnings=()))
    assert re.findall(r"planted[\w-]*", shown) == []
    known = repr([account.secrets for account in config.accounts.values()])
    known += repr([route.secrets for route in config.routes]) + repr(config.server.caller_keys)
    assert len(set(re.findall(r"planted[\w-]*", known))) >= 11  # they are there


def test_tokens_and_what_carries_them_are_silent() -> None:
    tokens = TokenSet(
        "planted-access",
        "planted-refresh",
        expires_at=datetime(2027, 1, 1, tzinfo=UTC),
        captured={"tenant": "planted-captured"},
        dpop_key="planted-key",
    )
    carried = placed(
        Inject(headers={"X-T": "{tenant}"}), {"access_token": "planted-access", "tenant": "planted-t"}
    )
    assert "planted" not in repr(tokens) + repr(carried) + repr([tokens]) + f"{tokens} {carried!s}"


LOCALS = ("capture_locals=True", "show_locals", "faulthandler", "cgitb", "print_exc", "print_exception")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_prints_the_locals_of_a_traceback(path: Path) -> None:
    """Nor a traceback past the log, which would not be redacted."""
    text = path.read_text()
    assert [word for word in LOCALS if word in text] == []
    names = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    assert not names & {"tb_frame", "f_locals", "settrace", "setprofile"}
