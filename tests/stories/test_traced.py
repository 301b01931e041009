"""The real program with a real collector: a crowd that waits for one renewal, told as spans."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulators import Api, PerscomProvider, write_config
from tests.stories.serving import calling, command, imported, serving

if TYPE_CHECKING:
    from tests.simulators.collector import Collector
else:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="without the extra otel")
    from tests.simulators.collector import Collector

LOG = '[log]\nformat = "json"\naccess = "all"\n'
CROWD = 20


async def test_one_renewal_is_linked_to_all_who_waited_for_it(tmp_path: Path) -> None:
    async with PerscomProvider() as provider, Api(provider) as api, Collector() as collector:
        extra = f'{LOG}[trace]\nenabled = true\nendpoint = "{collector.url}"\n'
        config = write_config(tmp_path, provider, api, extra=extra)
        async with serving(config) as serve, calling() as caller:
            await imported(config, "books", provider.new_grant())
            provider.revoke_all_access()
            provider.delay = 0.5

            async def ask(number: int) -> None:
                given = f"00-{number + 1:032x}-00f067aa0ba902b7-01"
                async with caller.get(
                    f"{serve.url}/books/orders/{number}", headers={"traceparent": given}
                ) as answer:
                    assert answer.status == 200

            await asyncio.gather(*(ask(number) for number in range(CROWD)))
            assert await serve.stop() == 0

        (renewal,) = collector.named("tokenproxy.refresh")
        requests = {span.trace_id: span for span in collector.named("tokenproxy.request")}
        assert len(requests) == CROWD
        assert (renewal.parent, renewal.failed) == ("", False)
        assert renewal.attributes == {"tokenproxy.trigger": "on_401", "tokenproxy.result": "ok"}
        assert renewal.trace_id not in requests
        assert len(renewal.links) == len(set(renewal.links)) > CROWD // 2
        assert all(requests[trace].span_id == span for trace, span in renewal.links)
        told = {event["trace_id"] for event in serve.events if event["event"] == "request"}
        assert told == set(requests)
        assert provider.refreshes == 1
        assert provider.leaks(collector.raw.decode("latin-1")) == []


async def test_serve_says_what_is_missing_and_where_to_get_it(tmp_path: Path) -> None:
    """Python's own word for a module that is not there, for the whole of OpenTelemetry."""
    async with PerscomProvider() as provider, Api(provider) as api:
        config = write_config(tmp_path, provider, api, extra="[trace]\nenabled = true\n")
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry'] = None\n")
        import os
        import sys

        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tokenproxy", "serve", "--config", str(config),
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
        )  # fmt: skip
        async with asyncio.timeout(30):
            _, said = await process.communicate()
        assert process.returncode == 1
        assert b"OpenTelemetry, which is not installed" in said
        assert b"pip install 'tokenproxy[otel]'" in said
        code, _, _ = await command(config, "status")
        assert code != 1
