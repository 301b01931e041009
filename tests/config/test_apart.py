"""A config read in a process of its own is the same config, and its mistakes are the same mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenproxy import config
from tokenproxy.errors import ConfigError

GOOD = """
[accounts.roster]
provider = "perscom"
vars = { dashboard = "acme.perscom.io" }
client_id = "9a1"
client_secret = "env:SECRET"
[routes.roster]
upstream = "https://api.perscom.io"
account = "roster"
"""


def test_it_is_the_same_config(tmp_path: Path) -> None:
    """Everything in it survives the way through the pipe, secrets and read-only tables included."""
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    environ = {"SECRET": "s3cret-of-nobody", "TOKENPROXY_LOG__LEVEL": "debug"}

    apart = config.begin(path, environ).result()

    assert apart == config.load(path, environ)
    assert apart.accounts["roster"].registration.client_secret == "s3cret-of-nobody"
    assert apart.log.level == "debug"


def test_mistakes_come_back_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(GOOD + "upstrem = 1\n[serverr]\n")
    with pytest.raises(ConfigError) as apart:
        config.begin(path, {"SECRET": "s3cret-of-nobody"}).result()
    with pytest.raises(ConfigError) as here:
        config.load(path, {"SECRET": "s3cret-of-nobody"})

    assert apart.value.problems == here.value.problems
    assert apart.value.source == here.value.source


def test_a_child_that_dies_is_no_reason_to_fail(tmp_path: Path) -> None:
    """Too little memory for two, or a sandbox without new processes: the config is read here then."""
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    environ = {"SECRET": "s3cret-of-nobody"}
    reading = config.begin(path, environ)
    assert reading._process is not None
    reading._process.kill()

    assert reading.result() == config.load(path, environ)
