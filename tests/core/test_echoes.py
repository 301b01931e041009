"""Secrets in what an upstream says: found however they are quoted and cut, hidden byte for byte."""

from __future__ import annotations

import html
import json
import time
from base64 import b64encode
from itertools import pairwise
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenproxy.core.echoes import SHORTEST, Echoes, Sieve, shown, spellings, starred

AWKWARD = "a+b/c=\"d&e'f\\g<h>"


@pytest.mark.parametrize(
    "written",
    [
        AWKWARD,
        quote(AWKWARD),
        quote(AWKWARD, safe=""),
        quote(AWKWARD, safe="").lower(),
        quote_plus(AWKWARD),
        urlencode({"next": "https://api.example/?" + urlencode({"token": AWKWARD})}),
        json.dumps({"token": AWKWARD}),
        json.dumps({"token": AWKWARD}).replace("/", r"\/"),
        r"a+b/c=\"d\u0026e'f\\g\u003ch\u003e",
        r"a+b/c\u003d\"d\u0026e\u0027f\\g\u003ch\u003e",
        r"a\u002Bb/c=\u0022d\u0026e\u0027f\\g\u003Ch\u003E",
        html.escape(AWKWARD),
        html.escape(AWKWARD, quote=False),
        "a&#43;b/c=&#34;d&amp;e&#39;f\\g&lt;h&gt;",
    ],
)
def test_a_secret_is_found_however_it_is_quoted(written: str) -> None:
    hidden = Echoes([AWKWARD]).hidden(b"before " + written.encode() + b" behind")
    assert len(hidden) == len(written) + 14
    assert b"*" * 17 in hidden
    assert b"b/c" not in hidden
    assert hidden.startswith(b"before ")
    assert hidden.endswith(b" behind")


def test_an_ordinary_token_has_one_spelling() -> None:
    assert spellings("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln_-~") == {
        b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln_-~"
    }


def test_what_is_too_short_stands_there_by_chance() -> None:
    assert not Echoes(["x" * (SHORTEST - 1)])
    assert Echoes(["x" * SHORTEST])


def test_of_basic_credentials_the_upstream_knows_the_password() -> None:
    sent = b64encode(b"anna:open sesame").decode()
    assert shown(sent, "Basic {access_token}") == (sent, "anna:open sesame", "open sesame")
    assert shown(sent, "Bearer {access_token}") == (sent,)
    assert shown("no base64!", "Basic {access_token}") == ("no base64!",)


def test_spellings_that_overlap_are_hidden_whole() -> None:
    echoes = Echoes(["abcabcab", "cabXYZ"])
    assert echoes.hidden(b"-abcabcabcab-") == b"-" + b"*" * 11 + b"-"
    assert echoes.hidden(b"-abcabcabXYZ-") == b"-" + b"*" * 11 + b"-"
    assert echoes.hidden(b"-abcabca-") == b"-abcabca-"


def sieved(echoes: Echoes, pieces: list[bytes]) -> bytes:
    sieve = Sieve(echoes)
    return b"".join(map(sieve.feed, pieces)) + sieve.end()


SECRETS = st.lists(st.text("ab+", min_size=SHORTEST, max_size=14), min_size=1, max_size=3)
"""Of few characters, so that they overlap each other and themselves."""


@given(secrets=SECRETS, data=st.data())
@example(secrets=["aaaaaa"], data=None)
def test_pieces_give_what_the_whole_gives(secrets: list[str], data: st.DataObject | None) -> None:
    """However the bytes are cut; and what the whole gives is every occurrence, and nothing else, in stars."""
    echoes = Echoes(secrets)
    if data is None:
        parts, cuts = [b"aaaaaaaaa"], [1, 2, 6]
    else:
        known = sorted({each for secret in secrets for each in spellings(secret)})
        noise = st.text("ab+%2Bc", max_size=6).map(str.encode)
        parts = data.draw(st.lists(st.one_of(noise, st.sampled_from(known)), max_size=12))
        cuts = data.draw(st.lists(st.integers(0, 120), max_size=20))
    whole = b"".join(parts)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[start:stop] for start, stop in pairwise(edges)]

    naive = bytearray(whole)
    for needle in {each for secret in secrets for each in spellings(secret)}:
        for at in range(len(whole)):
            if whole.startswith(needle, at):
                naive[at : at + len(needle)] = b"*" * len(needle)
    assert echoes.hidden(whole) == naive
    assert sieved(echoes, pieces) == naive
    assert sieved(echoes, [whole[at : at + 1] for at in range(len(whole))]) == naive


@given(before=st.binary(max_size=40), data=st.data())
def test_no_more_is_held_back_than_may_become_a_secret(before: bytes, data: st.DataObject) -> None:
    secret = "secret-token+0123456789"
    cut = data.draw(st.integers(0, len(secret) - 1))
    sieve = Sieve(Echoes([secret]))
    sent = before + secret[:cut].encode()
    passed = sieve.feed(sent)
    held = sent[len(passed) :]
    assert sent.startswith(passed)
    assert any(spelling.startswith(held) for spelling in spellings(secret))
    assert len(held) >= cut
    assert sieve.feed(b"\n") == held + b"\n"


def test_an_event_is_not_held_back() -> None:
    """A line's end begins no token."""
    sieve = Sieve(Echoes(["token-1"]))
    assert sieve.feed(b"data: tok\n\n") == b"data: tok\n\n"
    assert sieve.feed(b"data: to") == b"data: "
    assert sieve.feed(b"ken-1\n\n") == b"*******\n\n"
    assert sieve.found


def test_stars_are_put_into_the_part_that_is_here() -> None:
    assert starred(b"abcdef", [(4, 9), (8, 12)]) == b"abcd**"


def test_looking_is_fast() -> None:
    """Hundreds of MB/s, so that the bound is far off: a token of 1,200 bytes, pieces as they come."""
    echoes = Echoes(["eyJhbGciOiJSUzI1NiJ9." + "QUJDREVGR0hJSktMTU5P" * 30 + "x" * 600])
    piece = b'{"id":1,"name":"user eyJhb","mail":"u1@example.com"},' * 1200
    sieve = Sieve(echoes)
    begun = time.perf_counter()
    for _ in range(200):
        sieve.feed(piece)
    assert time.perf_counter() - begun < 200 * len(piece) / 50e6
