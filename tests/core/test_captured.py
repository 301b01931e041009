"""Values that an answer brings for addresses, and whom its tokens speak for."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tokenproxy.core.account import Event
from tokenproxy.core.provider import AnswerFields, Provider
from tokenproxy.core.replies import Answer, Failure, Granted, Reply, captured_value, read_answer
from tokenproxy.core.tokens import TokenSet

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTS = ("*.salesforce.com", "login.example", "127.0.0.1")
SALESFORCE = Provider(
    name="salesforce",
    token_url="https://login.salesforce.com/services/oauth2/token",
    captured={"instance_url": ("instance_url",), "realm": ("data.realm", "realm")},
    captured_hosts=HOSTS,
)


def read(provider: Provider = SALESFORCE, **fields: Any) -> Answer:
    body = json.dumps({"access_token": "a", "refresh_token": "r2", **fields}).encode()
    return read_answer(Reply(200, {}, body), provider=provider, asked_at=NOW, scope_asked=None)


def tokens(answer: Answer) -> TokenSet:
    assert isinstance(answer, Granted)
    return answer.tokens


def jwt(**claims: Any) -> str:
    return f"e30.{urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.sig"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("https://na1.salesforce.com", "https://na1.salesforce.com"),
        ("https://NA1.Salesforce.com:443/", "https://NA1.Salesforce.com:443"),
        ("https://login.example/a/b", "https://login.example/a/b"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("na1.salesforce.com", "na1.salesforce.com"),
        ("realm-1_x~", "realm-1_x~"),
        ("123456789", "123456789"),
        (" eu ", "eu"),
    ],
)
def test_what_may_stand_in_an_address(value: str, kept: str) -> None:
    assert captured_value("x", value, HOSTS) == kept


@pytest.mark.parametrize(
    "value",
    [
        "https://evil.example",
        "https://salesforce.com",
        "https://evilsalesforce.com",
        "https://na1.salesforce.com.evil.example",
        "https://na1.salesforce.com@evil.example",
        "https://user:pass@na1.salesforce.com",
        "https://na1.salesforce.com:8443",
        "http://na1.salesforce.com",
        "ftp://na1.salesforce.com",
        "https://na1.salesforce.com/../x",
        "https://na1.salesforce.com/a/..",
        "https://na1.salesforce.com//x",
        "https://na1.salesforce.com/a?b",
        "https://na1.salesforce.com/a#b",
        "https://na1.salesforce.com/%2e%2e",
        "https://na1.salesforce.com\\@evil.example",
        "https://[::1]",
        "https://",
        "//evil.example",
        "evil.example",
        "evil.example.",
        "169.254.169.254",
        ".",
        "..",
        "https://na1.salesforce.com/./x",
        "two words",
        "a/b",
        "a\r\nb",
        "a@b",
        "a:1",
        "é",
        "x" * 257,
    ],
)
def test_what_would_send_tokens_elsewhere(value: str) -> None:
    """Whoever can choose ``instance_url`` must not choose who gets the tokens."""
    with pytest.raises(ValueError, match="in the answer"):
        captured_value("instance_url", value, HOSTS)


def test_an_instance_that_points_elsewhere_is_refused() -> None:
    """The operator is told the host; the refresh token that came along is not lost."""
    answer = read(instance_url="https://evil.example")
    assert isinstance(answer, Failure)
    assert answer.event is Event.REGISTRATION_REFUSED
    assert answer.text == "instance_url in the answer is at evil.example, which captured_hosts does not list"
    assert answer.rotated == "r2"


def test_captured_and_kept() -> None:
    """The first path that holds something, numbers as text; what a refresh leaves out stays as it was."""
    first = tokens(read(instance_url="https://na1.salesforce.com/", realm=42, data={"realm": None}))
    assert first.captured == {"instance_url": "https://na1.salesforce.com", "realm": "42"}
    moved = first.succeeded_by(tokens(read(instance_url="https://na2.salesforce.com")))
    assert moved.captured == {"instance_url": "https://na2.salesforce.com", "realm": "42"}
    assert tokens(read(instance_url=["x"], realm=True)).captured == {}


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({"id_token": jwt(sub="anna"), "access_token": jwt(sub="other"), "user": {"id": "third"}}, "anna"),
        ({"access_token": jwt(sub="other"), "user": {"id": "third"}}, "other"),
        ({"user": {"id": "third"}}, "third"),
        ({"user": {"id": 7}}, "7"),
        ({"id_token": "garbage", "user": {"id": ""}}, None),
        ({"id_token": jwt(sub=""), "user": {"id": True}}, None),
        ({"id_token": jwt(sub={"a": 1})}, None),
        ({}, None),
        ({"user": {"id": "an\nna" + "x" * 300}}, "an na" + "x" * 250 + "…"),
    ],
)
def test_whom_the_tokens_speak_for(fields: dict[str, Any], identity: str | None) -> None:
    """Told apart, not trusted: one printable line of 256 characters at most."""
    provider = replace(SALESFORCE, answer=AnswerFields(identity=("user.id",)))
    assert tokens(read(provider, **fields)).identity == identity
