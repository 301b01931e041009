"""What ``deploy/`` ships is read by those that it is for: compose and Kubernetes as YAML, its configs by ourselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokenproxy.config import Config, parse
from tokenproxy.stores import new_key

DEPLOY = Path(__file__).parent.parent / "deploy"
SECRETS = {
    "tokenproxy.key": new_key(),
    "database.url": "postgresql://tokenproxy:planted@database/tokenproxy",
    "books.secret": "planted",
}


def read(text: str, folder: Path, mounted: str, environ: Mapping[str, str] | None = None) -> Config:
    """With the secrets where the deployment mounts them."""
    for name, secret in SECRETS.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    here = {name: value.replace(mounted, str(folder)) for name, value in (environ or {}).items()}
    return parse(text.replace(mounted, str(folder)), source="config.toml", base=folder, environ=here)


def test_compose_runs_two_replicas_on_one_database(tmp_path: Path) -> None:
    """Both have the same key and database, and their config is one that works."""
    compose: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    one, two = (compose["services"][name] for name in ("one", "two"))

    assert one["environment"] == two["environment"]
    assert {each for service in (one, two) for each in service["secrets"]} <= set(compose["secrets"])
    config = read((DEPLOY / "config.toml").read_text(), tmp_path, "/run/secrets", one["environment"])
    assert config.store.name == "postgresql://database/tokenproxy"
    assert config.store.keys[0].path == tmp_path / "tokenproxy.key"
    assert {"one", "two"} <= config.server.hosts


def test_the_deployment_is_whole(tmp_path: Path) -> None:
    """Every probe, port, volume and secret that it names is there."""
    documents: list[Any] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "tokenproxy.yaml").read_text()))
    kinds = {each["kind"]: each for each in documents}
    assert set(kinds) == {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    for probe, path in (("startup", "/startupz"), ("readiness", "/readyz"), ("liveness", "/healthz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    environ = {each["name"]: each["value"] for each in container["env"]}
    text = kinds["ConfigMap"]["data"]["config.toml"]
    config = read(text, tmp_path, "/run/secrets/tokenproxy", environ)
    assert config.store.name == "postgresql://database/tokenproxy"
    assert [each.address for each in config.server.listen] == [f"0.0.0.0:{ports['proxy']}"]
    assert config.metrics.listen == f"0.0.0.0:{ports['metrics']}"
    writable = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
    assert str(config.store.path.parent) in writable
    assert pod["terminationGracePeriodSeconds"] > config.deadlines.drain + 20
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, selector in (
        ("Deployment", kinds["Deployment"]["spec"]["selector"]["matchLabels"]),
        ("Service", kinds["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
    ):
        assert selector.items() <= labels.items(), kind
