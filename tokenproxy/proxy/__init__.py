"""The data plane: faces callers and upstreams, and attaches the token in between."""

from __future__ import annotations

from tokenproxy.proxy.doors import NONE_PASSED, Change, ListenError, Passed
from tokenproxy.proxy.plane import Plane, PlaneSettings
from tokenproxy.proxy.record import Refusal, RequestLog
from tokenproxy.proxy.tls import ServerContext, TLSFileError, server_context, tls_context

__all__ = [
    "NONE_PASSED",
    "Change",
    "ListenError",
    "Passed",
    "Plane",
    "PlaneSettings",
    "Refusal",
    "RequestLog",
    "ServerContext",
    "TLSFileError",
    "server_context",
    "tls_context",
]
