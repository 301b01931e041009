"""What ``deploy/`` gives to Prometheus and Grafana asks only for what the program exports, and means what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/tokenproxy.json"
NAME = re.compile(r"\b(?:tokenproxy|process|python)_[a-z0-9_]+\b")
LABELS = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
OF_THE_SCRAPE = {"job", "instance"}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def exported() -> dict[str, frozenset[str]]:
    """Name -> labels, from docs/metrics.md, which ``tests/admin/test_exposition.py`` compares with a scrape."""
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (\w+) \| ([^|]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
    )
    found: dict[str, frozenset[str]] = {}
    for name, kind, labels in rows:
        known = frozenset(re.findall(r"`(\w+)`", labels))
        found[name] = known
        if kind == "histogram":
            found |= {f"{name}_bucket": known | {"le"}, f"{name}_sum": known, f"{name}_count": known}
    return found


def expressions(part: Any) -> Iterator[str]:
    """Every query of a dashboard, wherever it stands."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in {"expr", "definition"} and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(part, list):
        for each in part:
            yield from expressions(each)


def unknown(expression: str) -> set[str]:
    """Names and labels in a query that no scrape has."""
    metrics = exported()
    found = {name for name in NAME.findall(re.sub(r"route:\w+:\w+", "", expression)) if name not in metrics}
    for name, matchers in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
        labels = metrics.get(name, frozenset()) | OF_THE_SCRAPE
        found |= {f"{name}{{{label}}}" for label in LABELS.findall(matchers) if label not in labels}
    return found


def test_the_dashboard_asks_for_what_is_exported() -> None:
    """A panel over a metric that was renamed shows "no data", and looks like good news."""
    queries = list(expressions(json.loads(DASHBOARD.read_text())))

    assert len(queries) > 20
    assert {query: unknown(query) for query in queries if unknown(query)} == {}


def test_the_check_sees_a_wrong_name_and_a_wrong_label() -> None:
    assert unknown('rate(tokenproxy_refresh_total{account="crm"}[5m])') == {
        "tokenproxy_refresh_total",
        "tokenproxy_refresh_total{account}",
    }
    assert unknown('tokenproxy_accounts{route="crm"}') == {"tokenproxy_accounts{route}"}


def test_the_dashboard_names_no_data_source_of_somebody() -> None:
    """It must load anywhere: each panel asks the variable."""
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert {panel["datasource"]["uid"] for panel in panels} == {"${DS}"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["title"] and panel["targets"] for panel in panels)


def test_the_alerts_ask_for_what_is_exported() -> None:
    text = (RULES / "rules.yml").read_text()
    for name in NAME.findall(re.sub(r"route:\w+:\w+", "", re.sub(r"#.*", "", text))):
        assert name in exported(), name


def test_every_alert_has_a_case_that_is_silent_and_one_that_speaks() -> None:
    alerts = re.findall(r"- alert: (\w+)", (RULES / "rules.yml").read_text())
    cases = re.findall(r"alertname: (\w+)\n\s+exp_alerts:( \[\])?", (RULES / "rules_test.yml").read_text())

    assert len(alerts) == len(set(alerts)) > 10
    for alert in alerts:
        assert {bool(silent) for name, silent in cases if name == alert} == {True, False}, alert


def test_the_page_about_metrics_lists_every_alert_with_its_severity() -> None:
    rules = re.findall(r"- alert: (\w+)\n(?:.*\n)*?\s+severity: (\w+)", (RULES / "rules.yml").read_text())
    rows = re.findall(
        r"^\| `(Tokenproxy\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
    )

    assert dict(rows) == dict(rules)


@needs_promtool
@pytest.mark.parametrize("command", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_agrees_with_the_alerts(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
