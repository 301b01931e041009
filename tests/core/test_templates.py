"""Values in addresses, and the hosts that they may lead to."""

from __future__ import annotations

import pytest

from tokenproxy.core.templates import address, allowed_host, filled, names


def test_names_are_found_once_and_in_order() -> None:
    assert names("https://{tenant}.x/{a}/{tenant}") == ("tenant", "a")
    assert names("{not a name} {1} {}") == ()


@pytest.mark.parametrize(
    ("template", "value", "address"),
    [
        ("{at}", "https://na1.example/", "https://na1.example"),
        ("{at}/services", "https://na1.example/", "https://na1.example/services"),
        ("https://{at}/crm/v2", "www.zohoapis.com", "https://www.zohoapis.com/crm/v2"),
        ("https://{at}/crm/v2", "https://www.zohoapis.com", "https://www.zohoapis.com/crm/v2"),
        ("https://{at}/crm/v2", "http://www.zohoapis.com", "https://www.zohoapis.com/crm/v2"),
        ("https://api.example/{at}/x", "123", "https://api.example/123/x"),
    ],
)
def test_an_address_is_filled_whatever_form_the_value_has(template: str, value: str, address: str) -> None:
    """Providers name a host or a whole address, with a slash or without; and nobody can turn https into http."""
    assert filled(template, {"at": value}) == address


def test_a_value_is_not_looked_at_again() -> None:
    """A client id with braces is a client id."""
    assert filled("{a}{b}", {"a": "{b}", "b": "c"}) == "{b}c"


def test_what_nobody_captured_is_named() -> None:
    with pytest.raises(KeyError, match="realm_id"):
        filled("https://x/{realm_id}", {"realm": "1"})


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("api.example.com", True),
        ("API.Example.com.", True),
        ("na1.salesforce.com", True),
        ("a.b.salesforce.com", True),
        ("salesforce.com", False),
        (".salesforce.com", False),
        ("evilsalesforce.com", False),
        ("na1.salesforce.com.evil.example", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_hosts_are_whole_names(host: str, allowed: bool) -> None:
    assert allowed_host(host, ["api.example.com", "*.Salesforce.com"]) is allowed


HOSTS = ["*.salesforce.com", "127.0.0.1"]


@pytest.mark.parametrize(
    ("template", "value", "whole"),
    [
        ("{at}/data", "https://na1.salesforce.com", "https://na1.salesforce.com/data"),
        ("https://{at}/data", "na1.salesforce.com", "https://na1.salesforce.com/data"),
        ("{at}", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://api.example/{at}/x", "42", "https://api.example/42/x"),
    ],
)
def test_an_address_may_be_gone_to(template: str, value: str, whole: str) -> None:
    assert address(template, {"at": value}, HOSTS) == whole


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{at}", "https://evil.example"),
        ("{at}", "https://salesforce.com.evil.example"),
        ("{at}", "http://na1.salesforce.com"),
        ("{at}", "https://na1.salesforce.com@evil.example"),
        ("{at}", "na1.salesforce.com"),
        ("{at}", "ftp://na1.salesforce.com"),
        ("{at}", "https://na1.salesforce.com:port"),
        ("{at}", "https://na1.salesforce.com/../x"),
        ("{at}", "https://na1.salesforce.com\t.evil.example"),
        ("{at}", "https://[na1.salesforce.com"),
        ("https://{at}/x", "evil.example"),
        ("https://{at}.salesforce.com/x", "evil.example/"),
        ("https://{at}/x", "evil.example#.salesforce.com"),
        ("https://api.example/{at}/x", ".."),
        ("https://api.example/{at}/x", "a b"),
    ],
)
def test_an_address_of_somebody_elses_choice_is_refused(template: str, value: str) -> None:
    """Whoever can choose ``instance_url`` would be sent the tokens."""
    with pytest.raises(ValueError, match=r"^(no address|an address|a host)"):
        address(template, {"at": value}, HOSTS)
