"""How the tests here write configs and read what was said about them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tokenproxy.config import Config, parse
from tokenproxy.errors import ConfigError

GOOD = """\
[accounts.books]
provider = "deskera"
client_id = "cl_pub_1234"
client_secret = "literal:s3cr3t"

[routes.books]
upstream = "https://api.example.com"
account = "books"
"""


def read(text: str, base: Path, environ: Mapping[str, str] | None = None) -> Config:
    return parse(text, source="config.toml", base=base, environ=environ or {})


def mistakes(text: str, base: Path, environ: Mapping[str, str] | None = None) -> list[str]:
    """Every problem as a person sees it, in order."""
    with pytest.raises(ConfigError) as refused:
        read(text, base, environ)
    return [str(problem) for problem in refused.value.problems]


def with_account(*lines: str) -> str:
    """``GOOD`` with lines put into its account; the first stands in line 5."""
    return GOOD.replace('"literal:s3cr3t"\n', '"literal:s3cr3t"\n' + "".join(f"{line}\n" for line in lines))


def with_route(*lines: str) -> str:
    """``GOOD`` with lines put after its route; the first stands in line 9."""
    return GOOD + "".join(f"{line}\n" for line in lines)


def with_top(*lines: str) -> str:
    """``GOOD`` with lines before it; the first stands in line 1."""
    return "".join(f"{line}\n" for line in lines) + GOOD


@cache
def _pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_key(path: Path) -> Path:
    """A private key for RS256, as a person would have one."""
    path.touch(mode=0o600)
    path.write_bytes(_pem())
    return path
