"""docs/providers.md and the files say the same, both ways; and every file can be read by a person."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from tokenproxy import config
from tokenproxy.config import PresetInfo
from tokenproxy.core.provider import Provider

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/providers.md").read_text()
TRIED = {"askara", "deskera", "deskpro", "perscom"}
"""What a guide vouches for, field by field."""


def test_the_page_lists_every_preset_and_nothing_else() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)

    assert [tuple(row) for row in rows] == [as_row(each) for each in config.presets().values()]
    assert len(rows) >= 120
    assert f"[{len(rows)} providers](docs/providers.md)" in (ROOT / "README.md").read_text()


def as_row(each: PresetInfo) -> tuple[str, ...]:
    words = {"authorization_code": "browser", "device_code": "device", "client_credentials": "itself"}
    title = f"[{each.provider.title}]({each.docs})" if each.docs else each.provider.title
    return (
        each.name,
        title,
        ", ".join(words[grant] for grant in each.grants),
        ", ".join(f"`{name}`" for name in each.vars),
        each.provider.rotation,
    )


@pytest.mark.parametrize("name", config.preset_names())
def test_a_preset_tells_people_what_it_is(name: str) -> None:
    """A title, where to read on, how sure it is, and one line at its head."""
    provider = config.preset(name).provider
    text = (files("tokenproxy.core") / "presets" / f"{name}.toml").read_text(encoding="utf-8")

    assert text.startswith("# ")
    assert provider.title
    assert provider.docs.startswith("https://") or name == "askara"  # its guide is a file
    assert provider.api or provider.issuer or name in {"aws-cognito", "keycloak"}  # whose APIs are your own
    assert ("*" in provider.unverified) == (name not in TRIED)
    assert set(provider.unverified) <= {"*", *Provider.__slots__}


SPINE = [
    *("title", "docs", "notes", "unverified", "rotation", "api", "issuer", "authorize_url", "device_url"),
    *("token_url", "client_auth", "token_body", "scopes", "answer", "inject"),
]


@pytest.mark.parametrize("name", config.preset_names())
def test_a_preset_s_keys_stand_in_one_order(name: str) -> None:
    """So that two of them can be read side by side; longer tables come last."""
    text = (files("tokenproxy.core") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    keys = re.findall(r"(?m)^([a-z_]+) = ", text.partition("\n[")[0])

    order = [SPINE.index(key) for key in keys if key in SPINE]
    assert order == sorted(order)


def test_only_the_preset_that_is_named_is_read(tmp_path: Path) -> None:
    """There are many, and a start reads none that it does not need."""
    from tokenproxy.config import providers

    providers.preset_table.cache_clear()
    text = '[accounts.x]\nprovider = "deskera-live"\nclient_id = "x"\nclient_secret = "literal:x"\n'
    text += '[routes.x]\nupstream = "https://api.example.com"\naccount = "x"\n'
    config.parse(text, source="config.toml", base=tmp_path, environ={})

    assert providers.preset_table.cache_info().currsize == 2  # and the one that it extends
