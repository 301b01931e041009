"""What one request leaves behind for the log and the dashboard, when somebody asked for it."""

from __future__ import annotations

from dataclasses import dataclass

Trace = tuple[float, str, str, str, str, str, int, str, float, float, int]
"""
When it began (monotonic seconds), then the fields of ``RequestLog`` in their order: a plain tuple, since each request
makes one.
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused for what it was or where it came from, and not for how things stand."""

    code: str
    route: str
    """Empty where it was refused before a route was found."""
    peer: str
    caller: str = ""
    """The name of an application that showed who it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLog:
    route: str
    """Empty where the request was refused before a route was found."""
    account: str
    caller: str
    """Of ``[callers.*]``; empty where nobody asks who it is, or it showed a key without a name."""
    method: str
    path: str
    """As the caller sent it, without the query, which may carry secrets; empty for a target that is no path."""
    status: int
    """0 where the caller left before any answer."""
    code: str
    """What ``Tokenproxy-Error`` said, or empty."""
    seconds: float
    """From the end of the request's head to the end of the answer."""
    upstream_seconds: float
    """To the head of the upstream's final answer, all attempts together."""
    attempts: int
    """How often the request was sent upstream."""
    trace_id: str
    """Of the caller's ``traceparent``, or ours; empty where there is none."""
