"""Flows driven by hand: what they ask, and what they come to."""

from __future__ import annotations

from typing import Any

from tokenproxy.core.replies import Reply
from tokenproxy.core.steps import Flow, TokenRequest


def ended(flow: Flow[Any], *replies: Reply) -> tuple[list[TokenRequest], Any]:
    """The requests of a flow and what it comes to."""
    sent: list[TokenRequest] = []
    step = next(flow)
    for reply in replies:
        assert isinstance(step, TokenRequest)
        sent.append(step)
        try:
            step = flow.send(reply)
        except StopIteration as finished:
            return sent, finished.value
    raise AssertionError("it goes on")


def answer(body: str, status: int = 200) -> Reply:
    return Reply(status, {}, body.encode())
