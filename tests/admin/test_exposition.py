"""What a scrape gets, compared with its documentation in both directions."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from tests.admin.program import gauges
from tokenproxy.admin.exposition import Exposition
from tokenproxy.metrics import AccountGauge, Metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.fixture
def busy() -> Metrics:
    """Every number moved once."""
    metrics = Metrics()
    route = metrics.route("crm")
    for status, result in ((200, "ok"), (204, "ok"), (503, "login_required"), (499, "client_gone")):
        route.count(status, result)
    for seconds in (0.0004, 0.0005, 0.3, 7.0):
        route.overhead.observe(seconds)
    route.upstream.observe(0.2)
    route.bytes_up, route.bytes_down, route.in_flight = 10, 20, 3
    account = metrics.account("books")
    account.count("on_401", "ok")
    account.refresh_seconds.observe(0.2)
    account.waiters.observe(50)
    account.last_success = 1.7e9
    metrics.store.seconds["commit"].observe(0.002)
    metrics.store.error("commit", "full")
    metrics.reloads["ok"] = 2
    metrics.last_reload_success = 1.6e9
    metrics.log_events["token_renewed"] = 4
    metrics.caller("billing")["let_in"] = 5
    metrics.asked = {("crm", "newer"): 2, ("", "no_route"): 1}
    metrics.refused = {"no_route": 3, "host_refused": 2, "overloaded": 1}
    return metrics


def open_families(body: bytes) -> list[Metric]:
    return list(parse_open(body.decode()))  # type: ignore[no-untyped-call]


def exposition(metrics: Metrics, *, ready: bool = True) -> Exposition:
    return Exposition(metrics, accounts=gauges, spooled=lambda: 1, ready=lambda: ready)


def text(metrics: Metrics) -> str:
    return exposition(metrics).render()[0].decode()


def samples(metrics: Metrics) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for family in parse_text(text(metrics)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    (found,) = (each.value for each in samples(metrics)[name] if each.labels == labels)
    return found


def test_numbers_arrive_as_they_were_counted(busy: Metrics) -> None:
    """The recording half counts in its own way for speed; nothing may be lost or doubled on the way out."""
    assert value(busy, "tokenproxy_requests_total", route="crm", code_class="2xx", result="ok") == 2
    assert value(busy, "tokenproxy_requests_total", route="crm", code_class="4xx", result="client_gone") == 1
    assert value(busy, "tokenproxy_requests_total", route="", code_class="4xx", result="refused") == 5
    assert value(busy, "tokenproxy_requests_total", route="", code_class="5xx", result="overload") == 1
    assert value(busy, "tokenproxy_body_bytes_total", route="crm", direction="down") == 20
    assert value(busy, "tokenproxy_refreshes_total", account="books", trigger="on_401", result="ok") == 1
    assert value(busy, "tokenproxy_store_errors_total", operation="commit", kind="full") == 1
    assert value(busy, "tokenproxy_last_refresh_success_timestamp_seconds", account="books") == 1.7e9
    assert value(busy, "tokenproxy_log_events_total", event="token_renewed") == 4


def test_a_bucket_holds_what_is_at_most_its_bound(busy: Metrics) -> None:
    """Prometheus counts are cumulative and ``le`` includes the bound itself."""
    assert value(busy, "tokenproxy_overhead_seconds_bucket", route="crm", le="0.0005") == 2
    assert value(busy, "tokenproxy_overhead_seconds_bucket", route="crm", le="0.5") == 3
    assert value(busy, "tokenproxy_overhead_seconds_bucket", route="crm", le="+Inf") == 4
    assert value(busy, "tokenproxy_overhead_seconds_count", route="crm") == 4
    assert value(busy, "tokenproxy_overhead_seconds_sum", route="crm") == pytest.approx(7.3009)


def test_zeros_are_told_from_the_start() -> None:
    """A counter that appears with its first failure hides that failure from ``rate()``."""
    fresh = Metrics()
    fresh.route("crm")
    fresh.account("books")

    assert value(fresh, "tokenproxy_requests_total", route="crm", code_class="5xx", result="proxy_error") == 0
    assert value(fresh, "tokenproxy_requests_total", route="", code_class="4xx", result="refused") == 0
    assert value(fresh, "tokenproxy_store_errors_total", operation="commit", kind="full") == 0
    assert value(fresh, "tokenproxy_log_events_total", event="renewal_in_doubt") == 0
    states = {each.labels["state"]: each.value for each in samples(fresh)["tokenproxy_accounts"]}
    assert states == {
        "new": 0,
        "ok": 2,
        "degraded": 0,
        "login_required": 1,
        "misconfigured": 0,
        "in_doubt": 0,
    }


def test_what_nobody_knows_is_left_out() -> None:
    """A timestamp of 0 is 1970 to an alert: "expired for 56 years"."""
    found = samples(Metrics())

    assert "tokenproxy_token_expiry_timestamp_seconds" in found
    assert "tokenproxy_refresh_token_expiry_timestamp_seconds" not in found
    assert "tokenproxy_config_last_reload_success_timestamp_seconds" not in found


def test_openmetrics_where_it_is_asked_for(busy: Metrics) -> None:
    """A strict parser reads it; no ``_created`` series doubles the count."""
    body, content_type = exposition(busy).render(OPEN)

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in open_families(body)}
    assert families["tokenproxy_build"].type == "info"
    assert families["tokenproxy_requests"].type == "counter"
    assert not re.search(rb"^\w+_created[ {]", body, re.MULTILINE)
    assert exposition(busy).render("text/html, */*;q=0.8")[1].startswith("text/plain")


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> (type, labels) of the tables in docs/metrics.md."""
    row = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in row.findall(DOCS.read_text(encoding="utf-8"))
    }


def test_the_documentation_lists_what_is_exported_and_nothing_else(busy: Metrics) -> None:
    """Alert rules and dashboards are written from that page."""
    every = [AccountGauge("books", {}, 1e9, 2e9, 0)]
    body, _ = Exposition(busy, accounts=lambda: every, spooled=lambda: 0, ready=lambda: True).render(OPEN)
    exported = {}
    for family in open_families(body):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported[f"{family.name}{suffix}"] = (family.type, frozenset(labels))

    assert documented() == exported


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say(busy: Metrics) -> None:
    """Prometheus' own linter knows the naming rules."""

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text(busy),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
