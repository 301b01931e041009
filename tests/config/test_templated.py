"""Upstreams with open places: filled by the account's ``vars``, or by what each login's tokens came with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.reading import mistakes, read
from tokenproxy.core.routes import Upstream

TEXT = """\
[providers.crm]
token_url = "https://login.crm.example/token"
captured = { instance_url = "instance_url", realm = "realm" }
captured_hosts = ["*.crm.example"]
callback = { captured = { dc = "location" } }
inject = { headers = { "Client-Id" = "{client_id}" } }

[accounts.crm]
provider = "crm"
client_id = "app-1"
client_secret = "literal:s3cr3t"

[routes.crm]
upstream = "UPSTREAM"
account = "crm"
"""


def with_upstream(upstream: str) -> str:
    return TEXT.replace("UPSTREAM", upstream)


@pytest.mark.parametrize(
    ("template", "hosts"),
    [
        ("{instance_url}", ("*.crm.example",)),
        ("{instance_url}/services/data", ("*.crm.example",)),
        ("https://{dc}.crm.example/v2", ("*.crm.example",)),
        ("https://api.crm.example/{realm}/v3", ()),
    ],
)
def test_an_upstream_may_wait_for_the_tokens(template: str, hosts: tuple[str, ...], tmp_path: Path) -> None:
    (route,) = read(with_upstream(template), tmp_path).routes

    assert route.upstream == Upstream(
        scheme="https", host="", port=0, authority="", template=template, hosts=hosts
    )
    assert route.values == {"client_id": "app-1"}


def test_vars_fill_an_upstream_at_once(tmp_path: Path) -> None:
    """``api`` of a preset names them, so that an account may have them although no address asks for tokens with them."""
    text = with_upstream("https://{tenant}.crm.example/v2").replace(
        'client_id = "app-1"', 'client_id = "app-1"\nvars = { tenant = "acme" }'
    )
    (route,) = read(
        text.replace("[accounts", 'api = "https://{tenant}.crm.example"\n[accounts', 1), tmp_path
    ).routes

    assert (route.upstream.host, route.upstream.path, route.upstream.template) == (
        "acme.crm.example",
        "/v2",
        "",
    )


@pytest.mark.parametrize(
    ("upstream", "mistake"),
    [
        (
            "{instance_ulr}",
            'routes.crm.upstream: nobody fills {instance_ulr}: neither vars of the account nor captured of "crm". Did you mean "instance_url"?   line 14',
        ),
        (
            "{realm}.crm.example",
            'routes.crm.upstream: must begin with "https://", or with a name that stands for a whole address   line 14',
        ),
        ("{instance_url}/x?y=1", "routes.crm.upstream: must not have a query   line 14"),
        (
            "http://{dc}.crm.example",
            "routes.crm.upstream: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 14",
        ),
        (
            "https://api.crm.example/{realm}/..",
            'routes.crm.upstream: must not have "." or ".." in its path   line 14',
        ),
    ],
)
def test_an_upstream_that_nobody_could_fill_is_told(upstream: str, mistake: str, tmp_path: Path) -> None:
    assert mistakes(with_upstream(upstream), tmp_path) == [mistake]


def test_hosts_must_be_named_where_a_login_chooses_one(tmp_path: Path) -> None:
    """Else whoever can forge a token answer's ``instance_url`` is sent the tokens."""
    text = with_upstream("{instance_url}").replace('captured_hosts = ["*.crm.example"]\n', "")

    assert mistakes(text, tmp_path) == [
        'routes.crm.upstream: needs captured_hosts of "crm": the hosts that a token answer may lead to, such as ["*.example.com"]   line 13'
    ]


def test_fields_that_the_profile_sets_cannot_be_passed(tmp_path: Path) -> None:
    """Nor a caller's proof of a key where ours goes."""
    text = (
        with_upstream("https://api.crm.example") + 'pass = ["client-id", "dpop", "authorization", "x-own"]\n'
    )

    assert mistakes(text.replace("captured_hosts", "dpop = true\ncaptured_hosts"), tmp_path) == [
        f'routes.crm.pass[{item}]: "{name}" is where our token goes; the caller\'s never passes   line 17'
        for item, name in enumerate(["client-id", "dpop", "authorization"])
    ]
