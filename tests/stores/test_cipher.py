"""The seal: what opens where, and what keys look like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stores.values import KEY, NOW, OTHER_KEY, tokens
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import SealError, StoreError
from tokenproxy.stores.cipher import Cipher, Place, key_id, new_key, parse_keys
from tokenproxy.stores.form import epoch, tokens_from_json, tokens_to_json

PLACE = Place("store", "crm/anna", 3, "tokens")


def test_a_seal_opens_at_its_place_with_any_key_of_the_ring() -> None:
    """The ring is how a key is replaced without a moment in which rows do not open."""
    blob = Cipher([KEY]).seal(b"secret", PLACE)

    assert Cipher([OTHER_KEY, KEY]).open(blob, PLACE) == b"secret"


def test_equal_secrets_do_not_look_equal() -> None:
    """Nonces are random: nobody can tell from the file that a token did not change."""
    cipher = Cipher([KEY])

    assert len({cipher.seal(b"secret", PLACE) for _ in range(50)}) == 50


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(PLACE, store="other"),
        replace(PLACE, account="crm/bob"),
        replace(PLACE, generation=2),
        replace(PLACE, kind="previous"),
        Place("stor", "ecrm/anna", 3, "tokens"),
    ],
    ids=str,
)
def test_a_seal_opens_nowhere_else(elsewhere: Place) -> None:
    """The last one: names that run together must not make two places look the same."""
    blob = Cipher([KEY]).seal(b"secret", PLACE)

    with pytest.raises(SealError, match="altered, or put there from another row"):
        Cipher([KEY]).open(blob, elsewhere)


def test_every_changed_bit_is_noticed() -> None:
    """Version, key id, nonce, text and tag alike."""
    cipher = Cipher([KEY])
    blob = cipher.seal(b"secret", PLACE)

    for position in range(len(blob) * 8):
        bent = bytearray(blob)
        bent[position // 8] ^= 1 << position % 8
        with pytest.raises(SealError):
            cipher.open(bytes(bent), PLACE)


def test_a_ring_prints_ids_and_no_keys() -> None:
    """It reaches logs and tracebacks."""
    assert repr(Cipher([KEY, OTHER_KEY])) == f"<Cipher {key_id(KEY)} {key_id(OTHER_KEY)}>"


@pytest.mark.parametrize("keys", [[], [b""], [KEY, b"short"], [KEY + b"x"]])
def test_what_is_no_key_is_refused(keys: list[bytes]) -> None:
    """AES would take 16 bytes, too, and nobody would notice the weaker seal."""
    with pytest.raises(StoreError) as refused:
        Cipher(keys)

    assert refused.value.next_step == "tokenproxy key new"


def test_a_key_file_s_text_may_have_comments_and_either_alphabet() -> None:
    """``openssl rand -base64 32`` writes + and /, others - and _; people write down what a key is for."""
    first, second = new_key(), new_key()
    text = f"# the new one\n{first}\n\n  {second.replace('+', '-').replace('/', '_')}  \r\n"

    keys = parse_keys(text)

    assert keys == parse_keys(f"{first}\n{second}")
    assert len(set(keys)) == 2
    assert {len(key) for key in keys} == {32}


GOOD = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.mark.parametrize(
    "text", ["", "\n# only words\n", "hunter2", f"{GOOD}\nhunter2\n", GOOD[:-5], "ü" * 44]
)
def test_a_broken_key_is_told_without_its_text(text: str) -> None:
    """It may be a password that somebody put there by mistake."""
    with pytest.raises(StoreError) as refused:
        parse_keys(text)

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("held", [tokens(7), TokenSet("only", generation=7)])
def test_a_token_set_survives_json(held: TokenSet) -> None:
    """Also one of which the provider told next to nothing."""
    assert tokens_from_json(tokens_to_json(held), 7) == held


def test_a_field_of_a_later_release_is_left_out() -> None:
    """So that a release can be taken back."""
    assert tokens_from_json(b'{"access_token": "a", "colour": "blue"}', 1) == TokenSet("a")


def test_a_time_without_a_zone_is_a_mistake_of_ours() -> None:
    """It would be read as local time, and tokens would live hours too long somewhere."""
    with pytest.raises(ValueError, match="zone"):
        epoch(NOW.replace(tzinfo=None))
