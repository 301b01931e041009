"""Where a token goes: a field, a query parameter, and what travels beside it."""

from __future__ import annotations

import pytest

from tokenproxy.core.injection import Placed, placed
from tokenproxy.core.provider import Inject

VALUES = {"access_token": "a/b+c=", "client_id": "app-1", "realm_id": "42"}


@pytest.mark.parametrize(
    ("inject", "bound", "found"),
    [
        (Inject(), False, Placed((("Authorization", "Bearer a/b+c="),))),
        (
            Inject(header="x-access-token", value="{access_token}"),
            False,
            Placed((("x-access-token", "a/b+c="),)),
        ),
        (
            Inject(headers={"Client-Id": "{client_id}", "X-Realm": "r-{realm_id}"}),
            False,
            Placed((("Client-Id", "app-1"), ("X-Realm", "r-42"), ("Authorization", "Bearer a/b+c="))),
        ),
        (Inject(header=""), False, Placed(())),
        (
            Inject(query="access token"),
            False,
            Placed((("Cache-Control", "no-store"),), "access%20token=a%2Fb%2Bc%3D"),
        ),
        (Inject(), True, Placed((("Authorization", "DPoP a/b+c="),))),
        (Inject(header="x-token", value="{access_token}"), True, Placed((("x-token", "a/b+c="),))),
    ],
)
def test_a_profile_says_where(inject: Inject, bound: bool, found: Placed) -> None:
    """RFC 6750 sections 2.1 and 2.3, RFC 9449 section 7.1; never in two places at once."""
    assert placed(inject, VALUES, bound=bound) == found


def test_a_value_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="tenant"):
        placed(Inject(headers={"X-Tenant": "{tenant}"}), VALUES)


def test_a_token_shows_in_no_repr() -> None:
    assert "a/b+c" not in repr(placed(Inject(), VALUES))
    assert "%2F" not in repr(placed(Inject(query="t"), VALUES))
