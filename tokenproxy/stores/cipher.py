"""
Seals what the store keeps, so that a copy of the store without its key is worth nothing.

AES-256-GCM (NIST SP 800-38D). A blob is ``version byte | 4 bytes key id | 12 bytes nonce | ciphertext and tag``. Where
it belongs is bound in as associated data: a blob copied to another account, one of an old generation put back, one of
another store or of another kind does not open. Nonces are random, which is safe up to 2**32 seals under one key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tokenproxy.errors import SealError, StoreError

KEY_BYTES: Final = 32
VERSION: Final = b"\x01"
PREFIX_BYTES: Final = 5
"""Of a blob: version and key id, what tells which key it needs."""
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

Kind = Literal["tokens", "previous", "state", "spool", "check"]

_WHAT: Final[dict[Kind, str]] = {
    "tokens": "the tokens of account {account}",
    "previous": "the previous refresh token of account {account}",
    "state": "the state {path} of account {account}",
    "spool": "the spooled token set",
    "check": "the store",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a blob belongs; it opens nowhere else."""

    store: str
    account: str
    generation: int
    kind: Kind
    path: str = ""
    """Of a piece of state, or the name of a spooled file; all else has none."""

    def __str__(self) -> str:
        return _WHAT[self.kind].format(account=self.account, path=self.path)

    def associated(self) -> bytes:
        """JSON, because no two places may ever look the same whatever characters a name has."""
        place = [VERSION[0], self.store, self.account, self.generation, self.kind]
        return json.dumps([*place, self.path] if self.path else place).encode()


class Cipher:
    """A ring of keys: the first seals, all open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys``: 32 bytes each, at least one; else ``StoreError``."""
        if not keys:
            raise StoreError("the store has no key", next_step="tokenproxy key new")
        for number, key in enumerate(keys, start=1):
            if len(key) != KEY_BYTES:
                raise StoreError(
                    f"store key {number} has {len(key)} bytes where {KEY_BYTES} are needed",
                    next_step="tokenproxy key new",
                )
        # A list, not a dict: two keys whose ids collide are both tried.
        self._ring = [(_key_id(key), AESGCM(key)) for key in keys]
        self.prefix = VERSION + self._ring[0][0]
        """What every blob begins with that this cipher seals."""

    def __repr__(self) -> str:
        return f"<Cipher {' '.join(self.key_ids)}>"

    @property
    def key_ids(self) -> tuple[str, ...]:
        return tuple(ident.hex() for ident, _ in self._ring)

    def seal(self, plain: bytes, place: Place) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return self.prefix + nonce + self._ring[0][1].encrypt(nonce, plain, place.associated())

    def open(self, blob: bytes, place: Place) -> bytes:
        """What was sealed for this place; ``SealError`` for everything else."""
        version, ident = blob[:1], blob[1:PREFIX_BYTES]
        if version != VERSION:
            raise SealError(
                f"{place} cannot be opened: the seal's version is not one that this tokenproxy knows",
                next_step="run the newer tokenproxy that wrote it, or restore the store from a backup",
            )
        fitting = [aead for each, aead in self._ring if each == ident]
        if not fitting:
            raise SealError(
                f"{place} cannot be opened: sealed with key {ident.hex()}, and the keys given are "
                f"{', '.join(self.key_ids)}",
                next_step="add that key to store.key, after the first one",
            )
        nonce, sealed = blob[PREFIX_BYTES : PREFIX_BYTES + _NONCE_BYTES], blob[PREFIX_BYTES + _NONCE_BYTES :]
        if len(sealed) < _TAG_BYTES:
            raise _altered(place)
        for aead in fitting:
            try:
                return aead.decrypt(nonce, sealed, place.associated())
            except InvalidTag:
                continue
        raise _altered(place)


def _altered(place: Place) -> SealError:
    step = f"tokenproxy login {place.account}" if place.account else "restore the store from a backup"
    if place.kind == "spool":
        step = "delete the file, start tokenproxy, and log in again whose login then needs it"
    elif place.path:
        step = "put it anew, or drop it, over the admin API"
    return SealError(
        f"{place} cannot be opened: altered, or put there from another row, an older time or another store",
        next_step=step,
    )


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:4]


def key_id(key: bytes) -> str:
    """Eight hex digits that tell keys apart in messages and say nothing about them."""
    return _key_id(key).hex()


def new_key() -> str:
    """A fresh key as it stands in a key file: 32 random bytes in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_keys(text: str) -> list[bytes]:
    """
    The keys in a key file's text or a key secret: one a line in base64; empty lines and ``#`` lines are skipped.

    Raises ``StoreError`` that names the line, never its text.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    keys = [_parse_key(line, number) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise StoreError("there is no key in the store's key", next_step="tokenproxy key new")
    return keys


def _parse_key(line: str, number: int) -> bytes:
    try:
        key = base64.b64decode(line.translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        # ``from None``: the cause may quote the line.
        raise StoreError(
            f"line {number} of the store's key is not {KEY_BYTES} bytes in base64",
            next_step="tokenproxy key new",
        ) from None
    return key


_URL_SAFE: Final = str.maketrans("-_", "+/")
