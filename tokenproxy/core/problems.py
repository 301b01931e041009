"""Every code that ``Tokenproxy-Error`` may carry, as a table: the status it is sent with and what kind of end it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class ProblemKind:
    status: int
    title: str
    """The same for every problem of the kind (RFC 9457 section 3.1.3)."""
    result: str = "refused"
    """One of ``metrics.RESULTS``."""


PROBLEMS: Final[Mapping[str, ProblemKind]] = MappingProxyType(
    {
        "bad_request": ProblemKind(400, "The request is not proper HTTP"),
        "placeholder_unresolved": ProblemKind(400, "A placeholder of the request stands for nothing"),
        "caller_unauthorized": ProblemKind(401, "The caller is not known here"),
        "host_refused": ProblemKind(403, "The Host of the request is not one of ours"),
        "origin_refused": ProblemKind(403, "A web page of another origin may not use this route"),
        "not_allowed": ProblemKind(403, "This request is not allowed here"),
        "no_route": ProblemKind(404, "No route takes this request"),
        "body_timeout": ProblemKind(408, "The request did not arrive in time"),
        "body_too_large": ProblemKind(413, "The body of the request is too large to be looked through"),
        "head_too_large": ProblemKind(431, "The head of the request is too large"),
        "loop_detected": ProblemKind(508, "The request came back to this proxy", "proxy_error"),
        "upstream_unreachable": ProblemKind(502, "The upstream could not be reached", "upstream_error"),
        "upstream_invalid": ProblemKind(502, "The upstream's answer is not proper HTTP", "upstream_error"),
        "upstream_timeout": ProblemKind(504, "The upstream did not answer in time", "upstream_error"),
        "login_required": ProblemKind(503, "Somebody must log the account in", "login_required"),
        "misconfigured": ProblemKind(503, "The account's registration must be corrected", "proxy_error"),
        "provider_unavailable": ProblemKind(503, "The provider gives no token now", "proxy_error"),
        "store_unavailable": ProblemKind(503, "The store of tokens cannot be used now", "proxy_error"),
        "overloaded": ProblemKind(503, "Too many requests", "overload"),
    }
)
"""The codes are a promise to callers."""

BODY_NOT_REPLAYABLE: Final = "body_not_replayable"
"""Not an answer of ours: marks an upstream's 401 whose request could not be sent again after the renewal."""
