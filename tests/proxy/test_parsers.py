"""The parsers are the C ones and strict, or the data plane does not start."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tokenproxy.errors import TokenproxyError
from tokenproxy.proxy import parsers


def test_the_pure_python_parser_is_refused() -> None:
    """Most of aiohttp's smuggling advisories were in it."""
    done = subprocess.run(
        [sys.executable, "-c", "from tokenproxy.proxy.parsers import check_parsers; check_parsers()"],
        env=os.environ | {"AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "aiohttp runs without its C extensions" in done.stderr


def test_a_version_whose_strictness_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is a private name: where nothing reads it any more, we must notice before an upstream does."""
    flagless = SimpleNamespace(DEBUG=False, HttpRequestParser=parsers.compiled.HttpRequestParser)
    monkeypatch.setattr(parsers, "compiled", flagless)
    with pytest.raises(TokenproxyError, match="parses answers leniently"):
        parsers.check_parsers()


def test_other_users_of_aiohttp_keep_their_parser() -> None:
    """Token endpoints are asked with ClientSession, and some of them send a field twice."""
    before = parsers.compiled.DEBUG
    parsers.check_parsers()
    assert parsers.compiled.DEBUG is before
