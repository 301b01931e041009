"""``traceparent`` as the W3C recommendation has it."""

from __future__ import annotations

import pytest

from tokenproxy.core.traceparent import TraceParent, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f" 00-{TRACE}-{SPAN}-01\t", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_what_is_valid(value: str, *, sampled: bool) -> None:
    found = parent_of([(b"Host", b"x"), (b"TraceParent", value.encode())])
    assert found == TraceParent(TRACE, SPAN, sampled=sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        f"cc-{TRACE}-{SPAN}-01.x",
    ],
)
def test_what_is_not(value: str) -> None:
    assert parent_of([(b"traceparent", value.encode())]) is None


def test_two_are_none() -> None:
    field = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert parent_of([field, field]) is None


def test_it_is_written_as_it_is_read() -> None:
    for sampled in (True, False):
        place = TraceParent(TRACE, SPAN, sampled=sampled)
        assert parent_of([(b"traceparent", str(place).encode())]) == place
