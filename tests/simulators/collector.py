"""An OpenTelemetry collector: takes spans as protobuf over HTTP, and can fail in every way."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.simulators.server import Server


@dataclass(frozen=True)
class SeenSpan:
    """A span as the collector got it."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    """Trace and span."""
    failed: bool
    resource: dict[str, Any]
    began: int
    ended: int


class Collector(Server):
    def __init__(self) -> None:
        super().__init__()
        self.spans: list[SeenSpan] = []
        self.raw = b""
        """Every byte of all bodies, decompressed."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.status = 200

    def named(self, name: str) -> list[SeenSpan]:
        return [span for span in self.spans if span.name == name]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.requests.append((request.path, dict(request.headers)))
        if self.status == 200:
            assert request.headers["Content-Type"] == "application/x-protobuf"
            self.raw += body
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        self.changes.happened()
        return web.Response(status=self.status, content_type="application/x-protobuf")


def _spans(message: Any) -> list[SeenSpan]:
    return [
        SeenSpan(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            attributes=_attributes(span.attributes),
            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
            failed=span.status.code == 2,
            resource=_attributes(group.resource.attributes),
            began=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
        )
        for group in message.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
