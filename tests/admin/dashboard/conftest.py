from __future__ import annotations

import pytest

from tests.admin.dashboard.visitor import Visitor
from tokenproxy.admin.server import Running


@pytest.fixture
def stranger(tcp: Running) -> Visitor:
    return Visitor(tcp)


@pytest.fixture
async def visitor(tcp: Running) -> Visitor:
    """Signed in."""
    visitor = Visitor(tcp)
    assert (await visitor.sign_in()).status == 303
    return visitor
