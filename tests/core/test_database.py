"""The address of a database as people may see it: nothing of its credentials, and none where they cannot be told."""

from __future__ import annotations

import pytest

from tokenproxy.core.database import place_of


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("postgresql://u:p@db:5432/tp?sslmode=require&password=p", "postgresql://db:5432/tp"),
        ("postgres://u:p%2F%40@a:1,b:2/tp", "postgresql://a:1,b:2/tp"),
        ("postgresql:///tp?host=/run/pg&user=u", "postgresql:///run/pg:/tp"),
        ("postgresql://db/tp?password=a@b", "postgresql://db/tp"),
    ],
)
def test_what_is_seen(url: str, seen: str) -> None:
    assert place_of(url) == seen


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:12/34@db/tp",
        "postgresql://u:12#34@db/tp",
        "postgresql://u:12?34@db/tp",
        "postgresql://u:12@34@db/tp",
        "postgresql://u:[12@db/tp",
    ],
)
def test_where_the_credentials_end_nobody_can_tell(url: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as refused:
        place_of(url)
    assert "12" not in str(refused.value)
