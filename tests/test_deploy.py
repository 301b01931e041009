"""What ``deploy/`` ships is read by those that it is for: by the schemas of compose and Kubernetes, systemd's own
analysis, and its configs by ourselves."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tokenproxy.config import Config, parse
from tokenproxy.stores import new_key

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
SECRETS = {
    "tokenproxy.key": new_key(),
    "database.url": "postgresql://tokenproxy:planted@database/tokenproxy",
    "books.secret": "planted",
    "books": "planted",
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


def compose_schema(file: Path) -> subprocess.CompletedProcess[str]:
    """The Compose specification's, as check-jsonschema ships it."""
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_compose_files_fit_the_specification(tmp_path: Path) -> None:
    """The one that is shipped, and the one of the page about deploying; a wrong key would be seen."""
    (of_the_page,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    shown, wrong = tmp_path / "shown.yaml", tmp_path / "wrong.yaml"
    shown.write_text(of_the_page)
    wrong.write_text(of_the_page.replace("cap_drop", "cap_dropp"))

    for file in (DEPLOY / "compose.yaml", shown):
        checked = compose_schema(file)
        assert checked.returncode == 0, checked.stdout
    assert compose_schema(wrong).returncode == 1


def kubernetes(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("name", ["gateway.yaml", "sidecar.yaml"])
def test_kubernetes_takes_every_document(name: str, version: str) -> None:
    for each in kubernetes(name):
        kubernetes_validate.validate(each, version, strict=True)

        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(each | {"specs": {}}, version, strict=True)


def check_container(pod: Any, container: Any) -> None:
    """What both have: volumes that are there, probes on the open listener, and no right that is not needed."""
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    for probe, path in (("startup", "/startupz"), ("readiness", "/readyz"), ("liveness", "/healthz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    security = container["securityContext"]
    assert not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert (pod["securityContext"] | security)["runAsUser"] == 65532
    assert (pod["securityContext"] | security)["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]


def test_the_sidecar_is_whole(tmp_path: Path) -> None:
    """It starts before the app and ends after it, is reached over the pod's loopback alone, and its store outlives the pod."""
    kinds = {each["kind"]: each for each in kubernetes("sidecar.yaml")}
    assert set(kinds) == {"ConfigMap", "PersistentVolumeClaim", "Deployment"}
    spec = kinds["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["initContainers"]

    assert container["restartPolicy"] == "Always"
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    check_container(pod, container)
    environ = {"TOKENPROXY_STORE__URL": "sqlite:/var/lib/tokenproxy/tokenproxy.db"}  # as the image has it
    config = read(kinds["ConfigMap"]["data"]["config.toml"], tmp_path, "/run/secrets/tokenproxy", environ)
    assert [each.local for each in config.server.listen] == [True]
    (port,) = (each["containerPort"] for each in container["ports"])
    assert config.metrics.listen == f"0.0.0.0:{port}"
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounted = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    claim = mounted[str(config.store.path.parent)]["persistentVolumeClaim"]["claimName"]
    assert claim == kinds["PersistentVolumeClaim"]["metadata"]["name"]
    (app,) = pod["containers"]
    assert app["env"][0]["value"] == f"http://{config.server.listen[0].address}/books"
    assert pod["terminationGracePeriodSeconds"] > config.deadlines.drain + 20


def test_traefik_s_parts_fit_each_other() -> None:
    """Every middleware, service and transport that it names is there; it tells of refused tokens where none is given."""
    http: Any = yaml.safe_load((DEPLOY / "forward-auth" / "traefik.yaml").read_text())["http"]
    (router,) = http["routers"].values()
    assert router["service"] in http["services"]
    assert set(router["middlewares"]) == set(http["middlewares"])
    forward, errors = (http["middlewares"][f"books-{each}"] for each in ("token", "refused"))
    assert forward["forwardAuth"]["address"].endswith("/auth/books")
    assert {"Authorization", "Tokenproxy-Generation"} == set(forward["forwardAuth"]["authResponseHeaders"])
    assert errors["errors"]["query"] == "/refused/books"
    assert errors["errors"]["service"] in http["services"]
    transports = [each["loadBalancer"].get("serversTransport") for each in http["services"].values()]
    assert {each for each in transports if each} == set(http["serversTransports"])


def test_the_deployment_is_whole(tmp_path: Path) -> None:
    """Every probe, port, volume and secret that it names is there."""
    kinds = {each["kind"]: each for each in kubernetes("gateway.yaml")}
    assert set(kinds) == {"ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    check_container(pod, container)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    environ = {each["name"]: each["value"] for each in container["env"]}
    text = kinds["ConfigMap"]["data"]["config.toml"]
    config = read(text, tmp_path, "/run/secrets/tokenproxy", environ)
    assert config.store.name == "postgresql://database/tokenproxy"
    assert [each.address for each in config.server.listen] == [f"0.0.0.0:{ports['proxy']}"]
    assert config.metrics.listen == f"0.0.0.0:{ports['metrics']}"
    writable = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
    assert str(config.store.path.parent) in writable
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > waits + config.deadlines.drain + 20
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, selector in (
        ("Deployment", kinds["Deployment"]["spec"]["selector"]["matchLabels"]),
        ("Service", kinds["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
    ):
        assert selector.items() <= labels.items(), kind


class Unit(RawConfigParser):
    """Keys may come more than once; then all of their values count."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False)
        self.text = (UNITS / name).read_text()
        self.read_string(self.text)

    def optionxform(self, optionstr: str) -> str:
        return optionstr

    def every(self, key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", self.text, re.MULTILINE)


def test_the_unit_s_config_takes_the_socket_and_the_secrets_that_systemd_hands_over(tmp_path: Path) -> None:
    """Names on both sides agree; what the service writes lies in its state folder."""
    service, socket = Unit("tokenproxy.service"), Unit("tokenproxy.socket")
    credentials = dict(each.split(":") for each in service.every("LoadCredential"))
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    config = read((UNITS / "config.toml").read_text(), tmp_path, "/run/secrets", environ)

    said = (UNITS / "config.toml").read_text()
    assert set(re.findall(r'= "systemd:([a-z.]+)"', said)) == {
        *credentials,
        socket["Socket"]["FileDescriptorName"],
    }
    assert [each.address for each in config.server.listen] == ["systemd:web"]
    assert config.store.path.parent == Path("/var/lib") / service["Service"]["StateDirectory"]
    assert socket["Socket"]["ListenStream"].startswith("127.0.0.1:")
    assert int(service["Service"]["TimeoutStopSec"]) > config.deadlines.drain + 20
    assert service["Service"]["Type"] == "notify"
    assert service["Service"]["RestartSec"] == "1"


@needs_systemd
def test_the_unit_exposes_little() -> None:
    """1.1 of 10: what a service may do that has to reach the network, and nothing more."""
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager",
         str(UNITS / "tokenproxy.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert told.returncode == 0, told.stdout + told.stderr
    level = re.search(r"exposure level for tokenproxy.service: ([\d.]+)", told.stdout)
    assert level
    assert float(level[1]) <= 1.2


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With a program in the place of the one that is not installed here; a key that it does not know would be told."""
    for name in ("tokenproxy.service", "tokenproxy.socket"):
        text = Unit(name).text.replace("/opt/tokenproxy/bin/tokenproxy", sys.executable)
        (tmp_path / name).write_text(text)

    def verify() -> tuple[int, str]:
        told = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
             *(str(tmp_path / name) for name in ("tokenproxy.service", "tokenproxy.socket"))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return told.returncode, told.stderr

    assert verify() == (0, "")
    (tmp_path / "tokenproxy.service").write_text(
        text := Unit("tokenproxy.service").text.replace("WatchdogSec", "WatchdogSecs")
    )
    assert "WatchdogSecs" in text
    assert "WatchdogSecs" in verify()[1]


def test_the_image_has_every_locked_package_by_its_hash() -> None:
    """And the locked ones alone: no command of the Dockerfile fetches anything else."""
    dockerfile = (ROOT / "Dockerfile").read_text()

    for command in re.findall(r"\bpip (?:--python \S+ )?(?:install|wheel) .*", dockerfile):
        assert "--require-hashes" in command or "--no-deps" in command, command
    _, last = dockerfile.split("\nFROM ${BASE}\n")
    assert "pip" not in last
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {"uvloop", "asyncpg", "segno", "aiohttp"} <= locked
    assert "hatchling" not in locked
