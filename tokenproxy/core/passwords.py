"""Hashes of passwords in the form that passlib and others write: ``$scrypt$ln=15,r=8,p=1$SALT$HASH`` (RFC 7914)."""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import scrypt
from typing import Final

_FORM: Final = re.compile(
    r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)
MOST_MEMORY: Final = 64 * 1024 * 1024
"""Bytes that one check may take."""
_LEAST_ROUNDS: Final = 10
_MOST_PARALLEL: Final = 16


@dataclass(frozen=True, slots=True)
class PasswordHash:
    rounds: int
    """The power of two that is scrypt's N."""
    block: int
    parallel: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, text: str) -> PasswordHash:
        """Raises ``ValueError`` with a phrase that does not quote the text."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(
                "is no hash as tokenproxy key password prints it: $scrypt$ln=15,r=8,p=1$SALT$HASH"
            )
        rounds, block, parallel = (int(each) for each in found.groups()[:3])
        if not (rounds >= _LEAST_ROUNDS and block > 0 and 0 < parallel <= _MOST_PARALLEL):
            raise ValueError("is too weak a hash: ln is at least 10, r and p are at least 1, p at most 16")
        if 128 * block * 2**rounds > MOST_MEMORY:
            raise ValueError("takes more than 64 MiB to check: lower ln")
        return cls(rounds, block, parallel, _decoded(found[4]), _decoded(found[5]))

    @classmethod
    def made(cls, password: str, *, salt: bytes) -> PasswordHash:
        """32 MiB and about 0.1 s of one core, as OWASP's sheet on passwords has it."""
        blank = cls(15, 8, 1, salt, b"")
        return cls(15, 8, 1, salt, blank.digest_of(password.encode(), 32))

    def digest_of(self, password: bytes, length: int) -> bytes:
        n = 2**self.rounds
        room = 128 * self.block * (n + self.parallel + 2) + 1024 * 1024
        return scrypt(password, salt=self.salt, n=n, r=self.block, p=self.parallel, maxmem=room, dklen=length)

    def matches(self, password: bytes) -> bool:
        """Takes tens of milliseconds of one core, and lets other threads run meanwhile."""
        return hmac.compare_digest(self.digest_of(password, len(self.digest)), self.digest)

    def __str__(self) -> str:
        form = f"$scrypt$ln={self.rounds},r={self.block},p={self.parallel}"
        return f"{form}${_encoded(self.salt)}${_encoded(self.digest)}"


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise ValueError("is no hash: its salt or digest is not base64") from None


def _encoded(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")
