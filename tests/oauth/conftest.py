"""What the tests of the token side share."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from tokenproxy import log


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that anybody logs, at debug level, as ``serve`` sets it up."""
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    stream = io.StringIO()
    handler = log.setup("debug", "json", stream=stream)
    yield stream
    root.removeHandler(handler)
    root.handlers[:] = before
    root.setLevel(level)
