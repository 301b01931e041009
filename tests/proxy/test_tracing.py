"""W3C Trace Context passes on as it came; with ``[trace]`` requests leave spans with a real collector."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.proxy.actors import Line, Stage, dead, ok, stage, unless
from tokenproxy import log
from tokenproxy.core.settings import TraceSettings
from tokenproxy.core.traceparent import parent_of
from tokenproxy.proxy.exchange import Exchange

if TYPE_CHECKING:
    from tests.simulators.collector import Collector, SeenSpan
    from tokenproxy.tracing import Tracing
else:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="without the extra otel")
    from tests.simulators.collector import Collector, SeenSpan
    from tokenproxy.tracing import Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"traceparent: 00-{TRACE}-{SPAN}-01".encode()
SERVER, CLIENT = 2, 3
"""Kinds of spans in the protocol."""


@asynccontextmanager
async def traced(
    script: Any = b"",
    *,
    collector: Collector | None = None,
    environ: dict[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Stage, Collector]]:
    """A stage whose requests are traced; the collector has all spans when the block of ``flushed`` begins."""
    how = settings.pop("how", {})
    async with Collector() if collector is None else _open(collector) as receiver:
        tracing = Tracing(TraceSettings(enabled=True, endpoint=receiver.url, **settings), environ or {})
        async with stage(script, parts={"tracing": tracing}, **how) as s:
            yield s, receiver
        await asyncio.to_thread(tracing.close)


@asynccontextmanager
async def _open(collector: Collector) -> AsyncIterator[Collector]:
    yield collector


async def flushed(s: Stage) -> None:
    assert s.plane.tracing is not None
    await asyncio.sleep(0)  # the exchange's last step comes after the answer's last byte
    await asyncio.to_thread(s.plane.tracing._provider.force_flush, 5000)


async def spans_of(s: Stage, collector: Collector, *, count: int) -> list[SeenSpan]:
    await flushed(s)
    await collector.changes.until(lambda: len(collector.spans) >= count, what=f"{count} spans")
    assert len(collector.spans) == count
    return collector.spans


# without tracing


async def test_what_callers_say_goes_on_untouched() -> None:
    """Its parent id too: a proxy that makes no spans is not in the trace."""
    fields = (GIVEN, b"tracestate: a=1,b=2", b"TraceState: c=3", b"baggage: user=7")
    async with stage() as s:
        await (await s.caller()).get(b"/books/x", *fields)
        (seen,) = s.upstream.seen
        assert [field for field in seen.fields if field in fields] == [*fields]
        await (await s.caller()).get()
        assert s.upstream.seen[1].values(b"traceparent") == []
        assert s.plane.exchange is Exchange


async def test_a_trace_is_named_where_a_request_is_told_of() -> None:
    async def script(line: Line) -> None:
        line.cut()

    async with stage(script) as s:
        caller = await s.caller()
        answer = await caller.get(b"/books/x", GIVEN)
        assert answer.problem["trace_id"] == TRACE
        assert s.logged[-1].trace_id == TRACE
        answer = await (await s.caller()).get()
        assert "trace_id" not in answer.problem
        assert s.logged[-1].trace_id == ""
        answer = await (await s.caller()).get(b"/nowhere", GIVEN)
        assert s.logged[-1].trace_id == TRACE


def test_the_program_does_not_import_it() -> None:
    """17 MB that nobody who does not ask for them pays."""
    import subprocess

    code = "import sys, tokenproxy.app, tokenproxy.cli.root; print([each for each in sys.modules if 'opentelemetry' in each])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# with it


async def test_a_request_and_its_upstream_are_two_spans_of_the_caller_s_trace() -> None:
    async with traced() as (s, collector):
        caller = await s.caller()
        assert (await caller.get(b"/books/secret-path?secret=query", GIVEN, b"tracestate: a=1")).status == 200
        spans = await spans_of(s, collector, count=2)
        request, upstream = (
            collector.named("tokenproxy.request")[0],
            collector.named("tokenproxy.upstream")[0],
        )
        assert {span.trace_id for span in spans} == {TRACE}
        assert (request.kind, request.parent) == (SERVER, SPAN)
        assert (upstream.kind, upstream.parent) == (CLIENT, request.span_id)
        assert request.attributes == {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "tokenproxy.route": "books",
            "tokenproxy.result": "ok",
            "tokenproxy.attempts": 1,
        }
        assert upstream.attributes == {
            "http.request.method": "GET",
            "server.address": "127.0.0.1",
            "server.port": s.upstream.port,
            "http.response.status_code": 200,
        }
        assert request.began <= upstream.began <= upstream.ended <= request.ended
        assert not request.failed
        assert request.resource["service.name"] == "tokenproxy"
        seen = s.upstream.seen[0]
        assert seen.values(b"traceparent") == [GIVEN.partition(b": ")[2]]
        assert seen.values(b"tracestate") == [b"a=1"]
        assert collector.requests[0][0] == "/v1/traces"


async def test_where_the_caller_says_nothing_the_upstream_is_told_of_our_span() -> None:
    async with traced() as (s, collector):
        await (await s.caller()).get()
        await spans_of(s, collector, count=2)
        request, upstream = (
            collector.named("tokenproxy.request")[0],
            collector.named("tokenproxy.upstream")[0],
        )
        told = s.upstream.seen[0].values(b"traceparent")
        assert told == [f"00-{request.trace_id}-{upstream.span_id}-01".encode()]
        assert request.parent == ""
        assert s.logged[0].trace_id == request.trace_id


async def test_what_nobody_understands_goes_on_alone() -> None:
    """An invalid one is the upstream's to judge; a second one would not help it."""
    async with traced() as (s, collector):
        await (await s.caller()).get(b"/books/x", b"traceparent: nonsense")
        assert s.upstream.seen[0].values(b"traceparent") == [b"nonsense"]
        assert {span.trace_id for span in await spans_of(s, collector, count=2)} != {TRACE}


async def test_the_caller_decides_whether_its_trace_is_recorded() -> None:
    async with traced(sample=0.0) as (s, collector):
        caller = await s.caller()
        await caller.get(b"/books/x", GIVEN.replace(b"-01", b"-00"))
        await caller.get()
        await caller.get(b"/books/x", GIVEN)
        await spans_of(s, collector, count=2)
        untold = parent_of([(b"traceparent", s.upstream.seen[1].values(b"traceparent")[0])])
        assert untold is not None
        assert not untold.sampled
        assert s.logged[1].trace_id == untold.trace_id


async def test_a_second_attempt_is_a_span_of_its_own() -> None:
    async with traced(unless(b"token-1"), accounts=True) as (s, collector):
        assert (await (await s.caller()).get()).status == 200
        await spans_of(s, collector, count=3)
        first, second = collector.named("tokenproxy.upstream")
        (request,) = collector.named("tokenproxy.request")
        assert (first.attributes["http.response.status_code"], first.failed) == (401, True)
        assert (second.attributes["http.request.resend_count"], second.failed) == (1, False)
        assert (request.attributes["tokenproxy.attempts"], request.failed) == (2, False)
        assert request.attributes["tokenproxy.account"] == "books"
        told = [seen.values(b"traceparent")[0] for seen in s.upstream.seen]
        assert [value.split(b"-")[2].decode() for value in told] == [first.span_id, second.span_id]


async def test_a_failure_is_a_failed_span() -> None:
    async def script(line: Line) -> None:
        line.cut()

    async with traced(script) as (s, collector):
        answer = await (await s.caller()).get()
        assert answer.status == 502
        await flushed(s)
        (request,) = collector.named("tokenproxy.request")
        assert request.failed
        assert request.attributes["tokenproxy.code"] == "upstream_unreachable"
        assert answer.problem["trace_id"] == request.trace_id
        upstream = collector.named("tokenproxy.upstream")[0]
        assert (upstream.failed, upstream.attributes["error.type"]) == (True, "upstream_unreachable")


async def test_what_the_gate_refuses_is_told_without_a_route() -> None:
    async with traced() as (s, collector):
        answer = await (await s.caller()).get(b"/nowhere", method=b"PROPFIND")
        assert answer.status == 404
        (request,) = await spans_of(s, collector, count=1)
        assert request.attributes["http.request.method"] == "_OTHER"
        assert "tokenproxy.route" not in request.attributes


async def test_no_secret_is_in_any_span(caplog: pytest.LogCaptureFixture) -> None:
    """Neither token nor path, query, header or body; nor the account, unless somebody asked for it."""
    caplog.set_level(logging.DEBUG)
    planted = (
        b"token-1",
        b"token-2",
        b"planted-path",
        b"planted-query",
        b"planted-header",
        b"planted-body",
        b"anna",
    )

    async def script(line: Line) -> None:
        await line.body()
        await line.send(dead(b"planted-body") if line.seen.token.endswith(b"1") else ok(b"planted-body"))

    how: dict[str, Any] = {"route": {"account": "books/{header:x-user}"}}
    async with traced(script, how=how) as (s, collector):
        caller = await s.caller()
        fields = (b"x-user: anna", b"X-Mine: planted-header", b"Cookie: planted-header")
        await caller.get(b"/books/planted-path?planted-query", *fields)
        await caller.post(b"planted-body", b"/books/planted-path?planted-query", *fields)
        await flushed(s)
        assert len(collector.spans) >= 4
        assert [secret for secret in planted if secret in collector.raw] == []
        told = "".join(log.JsonFormatter().format(record) for record in caplog.records)
        assert [secret for secret in planted if secret.decode() in told] == []


@pytest.mark.parametrize("how", ["refuses", "away", "400"])
async def test_a_collector_that_fails_hurts_no_request(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with Collector() as collector:
        collector.status = 400 if how == "400" else 200
        collector.refuse_connections = how == "refuses"
        endpoint = collector.url if how != "away" else "http://127.0.0.1:1"
        tracing = Tracing(TraceSettings(enabled=True, endpoint=endpoint), {})
        async with stage(parts={"tracing": tracing}) as s:
            caller = await s.caller()
            for _ in range(3):
                assert (await caller.get()).body == b"hello"
        begun = asyncio.get_running_loop().time()
        await asyncio.to_thread(tracing.close)
        assert asyncio.get_running_loop().time() - begun < 10
    if how == "400":
        told = [log.JsonFormatter().format(record) for record in caplog.records]
        assert [line for line in told if "trace_export_failed" in line]


async def test_a_key_for_the_collector_shows_in_no_log() -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=planted-otel-key,x=y"}
    async with traced(environ=environ) as (s, _):
        assert "planted-otel-key" not in log.redact("it says planted-otel-key here")
        await (await s.caller()).get()
    log.forget("planted-otel-key")
