"""
Spans for OpenTelemetry, where ``[trace]`` asks for them.

Imported, and the SDK with it, only then: it takes 17 MB and half a second. What is recorded is a closed list of attributes that
hold no header, no path, no query and no secret.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from tokenproxy import __version__, log
from tokenproxy.core.settings import TraceSettings
from tokenproxy.core.traceparent import TraceParent

_log: Final = logging.getLogger("tokenproxy")

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"})
TELL_EVERY: Final = 60.0
PATIENCE: Final = 3.0
"""Seconds in which the last spans must have gone when the process ends."""
MOST_LINKS: Final = 128
"""Of a renewal's span: a thousand requests may wait for it."""

current: ContextVar[RequestTrace | None] = ContextVar("current", default=None)
"""Of the request that this task serves."""


class RequestTrace:
    """One request's place in a trace."""

    __slots__ = ("_tracing", "place", "span")

    def __init__(self, tracing: Tracing, place: TraceParent, span: Span | None) -> None:
        self._tracing = tracing
        self.place = place
        self.span = span
        """None: this request is not sampled."""

    def attempt(self, method: str, host: str, port: int, number: int) -> Attempt:
        """The request is sent upstream, for the ``number``th time."""
        if self.span is None:
            return Attempt(self.place, None)
        told: dict[str, str | int] = {
            "http.request.method": _method(method),
            "server.address": host,
            "server.port": port,
        }
        if number > 1:
            told["http.request.resend_count"] = number - 1
        span = self._tracing.tracer.start_span(
            "tokenproxy.upstream",
            context=set_span_in_context(self.span, Context()),
            kind=SpanKind.CLIENT,
            attributes=told,
        )
        return Attempt(_place_of(span), span)

    def end(self, *, status: int, failed: bool, **told: str | int) -> None:
        if self.span is None:
            return
        if status:
            told["http.response.status_code"] = status
        self.span.set_attributes(
            {
                f"tokenproxy.{name}" if "." not in name else name: each
                for name, each in told.items()
                if each != ""
            }
        )
        if failed:
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class Attempt:
    """One request to an upstream, to the head of its final answer."""

    __slots__ = ("_span", "place")

    def __init__(self, place: TraceParent, span: Span | None) -> None:
        self.place = place
        """What the upstream is told where the caller said nothing."""
        self._span = span

    def end(self, status: int = 0, error: str = "") -> None:
        if self._span is None:
            return
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if error:
            self._span.set_attribute("error.type", error)
        if error or status >= 400:  # the semantic conventions' rule for clients
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Makes spans and hands them to a thread that exports them; a request waits for none of it."""

    def __init__(self, settings: TraceSettings, environ: Mapping[str, str]) -> None:
        """Where the spans go is ``settings.endpoint``, else what the OTEL_* variables of the environment say."""
        for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
            for pair in environ.get(name, "").split(","):
                log.register_secret(pair.partition("=")[2].strip(), lasting=True)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we tell ourselves, once in a while
        given = {SERVICE_VERSION: __version__}
        if not environ.get("OTEL_SERVICE_NAME") and SERVICE_NAME not in environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            given[SERVICE_NAME] = "tokenproxy"
        endpoint = f"{settings.endpoint.rstrip('/')}/v1/traces" if settings.endpoint else None
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(given), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Telling(OTLPSpanExporter(endpoint))))
        self.tracer = self._provider.get_tracer("tokenproxy", __version__)
        self._settings = settings
        self._waiting: dict[str, list[SpanContext]] = {}
        self._renewing: dict[str, Span] = {}

    def begin(self, parent: TraceParent | None, method: str) -> RequestTrace:
        """A request has come; the caller's word on sampling counts where there is one."""
        sampled = parent.sampled if parent is not None else random.random() < self._settings.sample  # noqa: S311 - spreads load
        if not sampled:
            return RequestTrace(self, parent or _made_up(), None)
        span = self.tracer.start_span(
            "tokenproxy.request",
            context=Context() if parent is None else set_span_in_context(_remote(parent), Context()),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": _method(method)},
        )
        return RequestTrace(self, _place_of(span), span)

    @contextmanager
    def waiting(self, account: str) -> Iterator[None]:
        """The present request may wait for a renewal meanwhile, which is linked to it then."""
        trace = current.get()
        if trace is None or trace.span is None:
            yield
            return
        context = trace.span.get_span_context()
        waiting = self._waiting.setdefault(account, [])
        waiting.append(context)
        renewing = self._renewing.get(account)
        if renewing is not None:
            renewing.add_link(context)
        try:
            yield
        finally:
            waiting.remove(context)
            if not waiting and self._waiting.get(account) is waiting:
                del self._waiting[account]

    @contextmanager
    def renewal(self, account: str, trigger: str) -> Iterator[Callable[[str], None]]:
        """A renewal, which is told what it led to; no request is its parent, as a thousand may wait for it."""
        told = {"tokenproxy.trigger": trigger}
        if self._settings.accounts:
            told["tokenproxy.account"] = account
        span = self.tracer.start_span(
            "tokenproxy.refresh",
            context=Context(),
            kind=SpanKind.INTERNAL,
            attributes=told,
            links=[Link(each) for each in self._waiting.get(account, ())[:MOST_LINKS]],
        )
        self._renewing[account] = span
        results = ["unexpected"]
        try:
            yield results.append
        finally:
            if self._renewing.get(account) is span:
                del self._renewing[account]
            span.set_attribute("tokenproxy.result", results[-1])
            if results[-1] not in {"ok", "live", "held"}:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def told_account(self, account: str) -> str:
        """The account, where spans may name it."""
        return account if self._settings.accounts else ""

    def close(self) -> None:
        """Export what is left, for as long as ``PATIENCE``; blocks, so call it from a thread."""
        ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(PATIENCE)


class _Telling(SpanExporter):
    """An exporter whose failures are an event of the log, once in a while, and nobody else's business."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._until = 0.0
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - a thread's top: the next batch must find it alive
            self._tell(len(spans), type(error).__name__)
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._tell(len(spans), "the collector could not be reached or refused them")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _tell(self, spans: int, detail: str) -> None:
        self._lost += spans
        now = time.monotonic()
        if now < self._until:
            return
        log.event(_log, "trace_export_failed", detail=detail, spans=self._lost)
        self._until, self._lost = now + TELL_EVERY, 0


def _method(method: str) -> str:
    """As the semantic conventions want it: a caller's invention is no value of an attribute."""
    return method if method in METHODS else "_OTHER"


def _place_of(span: Span) -> TraceParent:
    context: Any = span.get_span_context()
    return TraceParent(format_trace_id(context.trace_id), format_span_id(context.span_id), sampled=True)


def _made_up() -> TraceParent:
    """A place that nobody records: whoever comes behind us may still tell the requests of one trace by it."""
    trace_id, span_id = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return TraceParent(format_trace_id(trace_id), format_span_id(span_id), sampled=False)


def _remote(parent: TraceParent) -> Span:
    return NonRecordingSpan(
        SpanContext(
            int(parent.trace_id, 16),
            int(parent.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
    )
