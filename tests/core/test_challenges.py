"""``WWW-Authenticate`` as servers write it: by the book, and not quite."""

from __future__ import annotations

import time

import pytest

from tokenproxy.core.challenges import Challenge, challenges

BY_THE_BOOK = {
    "one": ('Bearer realm="api", error="invalid_token"', [("bearer", {"realm": "api", "error": "invalid_token"}, "")]),
    "no-parameters": ("Basic", [("basic", {}, "")]),
    "commas-and-quotes-in-quotes": (
        r'Bearer error_description="a, b=\"c\", Basic x", error=invalid_token',
        [("bearer", {"error_description": 'a, b="c", Basic x', "error": "invalid_token"}, "")],
    ),
    "two-in-one-field": (
        'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',  # RFC 9110 section 11.6.1
        [("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}, ""), ("basic", {"realm": "simple"}, "")],
    ),
    "token68": ("Negotiate oRQwEg==, NTLM", [("negotiate", {}, "oRQwEg=="), ("ntlm", {}, "")]),
    "empty-elements": (', , Bearer ,  realm = "x" ,,DPoP algs="ES256"', [("bearer", {"realm": "x"}, ""), ("dpop", {"algs": "ES256"}, "")]),
}  # fmt: skip
NOT_QUITE = {
    "no-commas": (
        'Bearer error="invalid_token" error_description="it ended"',
        [("bearer", {"error": "invalid_token", "error_description": "it ended"}, "")],
    ),
    "a-url-without-quotes": (
        "Bearer authorization_uri=https://login.example/a?b=c, error=invalid_token",
        [("bearer", {"authorization_uri": "https://login.example/a?b=c", "error": "invalid_token"}, "")],
    ),
    "a-name-twice": ('Bearer error="a", ERROR="b"', [("bearer", {"error": "a"}, "")]),
    "parameters-of-nobody": ('error="invalid_token"', []),
    "rubbish-in-between": ("Bearer ???=???, error=x", [("bearer", {"error": "x"}, "")]),
    "a-quote-without-end": ('Bearer error="invalid', [("bearer", {}, "")]),
    "nothing": ("", []),
}


@pytest.mark.parametrize(
    ("field", "told"), [*BY_THE_BOOK.values(), *NOT_QUITE.values()], ids=[*BY_THE_BOOK, *NOT_QUITE]
)
def test_a_field_is_taken_apart(field: str, told: list[tuple[str, dict[str, str], str]]) -> None:
    """RFC 9110 section 11.6.1; what is broken costs itself and nothing else."""
    assert challenges([field]) == tuple(Challenge(*each) for each in told)


def test_several_fields_are_one_list() -> None:
    """RFC 9110 section 5.3."""
    assert [each.scheme for each in challenges(["Basic realm=a, DPoP", 'Bearer error="x"'])] == [
        "basic",
        "dpop",
        "bearer",
    ]


@pytest.mark.parametrize("piece", ["a", "a=", 'a="', "a ", "a,", '"', '\\"', 'a=b"', ' a="b" ', "=", '",a="'])
def test_no_field_takes_long(piece: str) -> None:
    """An upstream's head is 32 KiB at most, and the loop is everybody's."""
    field = "Bearer " + piece * (32_768 // len(piece))
    begun = time.process_time()
    challenges([field])
    assert time.process_time() - begun < 2
