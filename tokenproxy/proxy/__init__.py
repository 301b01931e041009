"""The data plane: faces callers and upstreams, and attaches the token in between."""

from __future__ import annotations

from tokenproxy.proxy.plane import ListenError, Plane, PlaneSettings
from tokenproxy.proxy.record import RequestLog
from tokenproxy.proxy.tls import TLSFileError, tls_context

__all__ = ["ListenError", "Plane", "PlaneSettings", "RequestLog", "TLSFileError", "tls_context"]
